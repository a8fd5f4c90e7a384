"""Non-dominated rank and hypervolume of points that are to be small in every coordinate."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Point = tuple[float, ...]


def ranks(points: Sequence[Point]) -> list[int]:
    """For each point how many fronts have to be peeled off before it is on one; equal points share a rank."""
    n = len(points)
    if n == 0:
        return []
    values = np.asarray(points, dtype=np.float64)
    assert np.isfinite(values).all(), "only finite points have a rank"
    rank = np.full(n, -1)
    left = np.arange(n)
    level = 0
    while left.size:
        rest = values[left]
        on_front = np.array([not _is_dominated(point, rest) for point in rest])
        rank[left[on_front]] = level
        left = left[~on_front]
        level += 1
    return [int(value) for value in rank]


def hypervolume(points: Sequence[Point], reference: Point) -> float:
    """The volume between ``points`` and ``reference``: of all that some point is no worse than."""
    inside = [p for p in points if all(x < r for x, r in zip(p, reference, strict=True))]
    if len(reference) <= 2:  # its sweep passes over dominated points
        return _volume(sorted(set(inside)), reference)
    return _volume(_non_dominated(inside), reference)


def improvements(
    front: Sequence[Point], candidates: Sequence[Point], reference: Point
) -> npt.NDArray[np.float64]:
    """For each candidate the hypervolume that it would add to ``front`` alone: (len(candidates),).

    That is its box up to the reference, less what the points of the front, moved into that box, cover of it.
    """
    inside = [p for p in front if all(x < r for x, r in zip(p, reference, strict=True))]
    best = _non_dominated(inside)
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


def _is_dominated(point: np.ndarray, others: np.ndarray) -> bool:
    return bool(((others <= point).all(axis=1) & (others < point).any(axis=1)).any())


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
    return sorted({p for p, rank in zip(points, ranks(points), strict=True) if rank == 0})
