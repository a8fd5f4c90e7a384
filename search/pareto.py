"""Non-dominated rank and hypervolume of points that are to be small in every coordinate."""

from __future__ import annotations

import bisect
import math
import operator
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

Point = tuple[float, ...]
Array = npt.NDArray[np.float64]


def ranks(points: Sequence[Point]) -> list[int]:
    """For each point how many fronts have to be peeled off before it is on one; equal points share a rank.

    In the order of their coordinates no point is dominated by a later one, so that each goes to the first
    front that has no better one, found by bisection (ENS-BS of Zhang et al. 2015, IEEE TEVC 19(2)). In two
    dimensions a front is known by its least second coordinate, which makes it n log n.
    """
    if not points:
        return []
    assert np.isfinite(np.asarray(points, dtype=np.float64)).all(), "only finite points have a rank"
    place = _place_by_second if len(points[0]) == 2 else _place_by_members
    ordered = sorted(set(points))
    rank = dict(zip(ordered, place(ordered), strict=True))
    return [rank[point] for point in points]


def _place_by_second(ordered: Sequence[Point]) -> Iterator[int]:
    least: list[float] = []  # of each front; it grows from front to front
    for _, second in ordered:
        front = bisect.bisect_right(least, second)
        least[front : front + 1] = [second]
        yield front


def _place_by_members(ordered: Sequence[Point]) -> Iterator[int]:
    values = np.asarray(ordered, dtype=np.float64)
    fronts: list[list[int]] = []
    for index, point in enumerate(values):

        def is_behind(members: list[int], point: Array = point) -> bool:
            return bool((values[members] <= point).all(axis=1).any())

        front = bisect.bisect_left(fronts, True, key=lambda members: not is_behind(members))
        if front == len(fronts):
            fronts.append([])
        fronts[front].append(index)
        yield front


def hypervolume(points: Sequence[Point], reference: Point) -> float:
    """The volume between ``points`` and ``reference``: of all that some point is no worse than."""
    inside = [p for p in points if all(x < r for x, r in zip(p, reference, strict=True))]
    if len(reference) <= 2:  # its sweep passes over dominated points
        return _volume(sorted(set(inside)), reference)
    return _volume(_non_dominated(inside), reference)


def improvements(front: Sequence[Point], candidates: Sequence[Point], reference: Point) -> Array:
    """For each candidate the hypervolume that it would add to ``front`` alone: (len(candidates),).

    That is its box up to the reference, less what the points of the front, moved into that box, cover of it.
    """
    inside = [p for p in front if all(x < r for x, r in zip(p, reference, strict=True))]
    best = _non_dominated(inside)
    if len(reference) == 2:
        return _improvements_in_plane(best, candidates, reference)
    gains = np.zeros(len(candidates))
    for index, candidate in enumerate(candidates):
        if any(x >= r for x, r in zip(candidate, reference, strict=True)):
            continue
        if any(all(map(operator.le, p, candidate)) for p in best):
            continue
        box = math.prod(r - x for x, r in zip(candidate, reference, strict=True))
        moved = [tuple(map(max, p, candidate)) for p in best]
        gains[index] = box - hypervolume(moved, reference)
    return gains


def _improvements_in_plane(best: Sequence[Point], candidates: Sequence[Point], reference: Point) -> Array:
    """Between two neighbours of the front, what a candidate adds is a rectangle below the first of them."""
    front = np.array([(-np.inf, reference[1]), *best])
    starts, ceilings = front[:, 0], front[:, 1]
    ends = np.append(starts[1:], reference[0])
    points = np.asarray(candidates, dtype=np.float64).reshape(-1, 2)
    widths = np.clip(ends - np.maximum(starts, points[:, :1]), 0.0, None)  # (candidates, parts)
    heights = np.clip(ceilings - points[:, 1:], 0.0, None)
    gains: Array = (widths * heights).sum(axis=1)
    return gains


def _volume(front: list[Point], reference: Point) -> float:
    """Slices along the last coordinate; ``front`` is sorted."""
    if not front:
        return 0.0
    if len(reference) == 1:
        return reference[0] - front[0][0]
    if len(reference) == 2:
        area, ceiling = 0.0, reference[1]
        for x, y in front:
            if y < ceiling:
                area += (reference[0] - x) * (ceiling - y)
                ceiling = y
        return area
    levels = sorted({point[-1] for point in front})
    total = 0.0
    for level, above in zip(levels, [*levels[1:], reference[-1]], strict=True):
        slab = [point[:-1] for point in front if point[-1] <= level]
        total += (above - level) * _volume(_non_dominated(slab), reference[:-1])
    return total


def _non_dominated(points: list[Point]) -> list[Point]:
    """Each once, in the order of their coordinates."""
    return sorted({p for p, rank in zip(points, ranks(points), strict=True) if rank == 0})
