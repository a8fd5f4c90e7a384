"""Who goes on to the next rung: feasible before infeasible, then non-dominated rank, then what a point adds.

Among candidates within every budget the fronts are peeled off one by one; inside a front those come first
whose loss would cost the front most hypervolume. Candidates beyond a budget follow in the order of their
total excess, and never before a feasible one. What failed, or has a figure that is not finite, stays behind.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from search.front import Direction
from search.pareto import Point, hypervolume, ranks

_BEYOND = 1.1  # the reference in units of a front's range: a tenth beyond its worst corner


@dataclass(frozen=True)
class Climber:
    """A candidate at a rung: its objectives there, and by how much it is beyond its budgets in total."""

    number: int
    values: Point
    excess: float = 0.0
    failed: bool = False

    @property
    def is_ranked(self) -> bool:
        """Whether it may go on at all."""
        return not self.failed and all(map(math.isfinite, (*self.values, self.excess)))


def promoted(climbers: Sequence[Climber], directions: Sequence[Direction], share: Fraction) -> list[int]:
    """The numbers of the best ``share`` of all that can go on, rounded up, the best first."""
    order = promotion_order(climbers, directions)
    return order[: math.ceil(share * len(order))]


def promotion_order(climbers: Sequence[Climber], directions: Sequence[Direction]) -> list[int]:
    """Numbers, the first to go on first; ties of everything else go to the smaller number."""
    able = sorted((climber for climber in climbers if climber.is_ranked), key=lambda climber: climber.number)
    feasible = [climber for climber in able if climber.excess <= 0]
    beyond = [climber for climber in able if climber.excess > 0]
    points = [
        tuple(-v if d == "maximize" else v for v, d in zip(climber.values, directions, strict=True))
        for climber in feasible
    ]
    rank = ranks(points)
    gains = contributions(points, rank)
    best = sorted(
        range(len(feasible)), key=lambda index: (rank[index], -gains[index], feasible[index].number)
    )
    beyond.sort(key=lambda climber: (climber.excess, climber.number))
    return [*(feasible[index].number for index in best), *(climber.number for climber in beyond)]


def contributions(points: Sequence[Point], rank: Sequence[int]) -> list[float]:
    """What each point adds to the hypervolume of its own front, scaled to the range of all points.

    Of equal points the first one stands for all, and the others add nothing. Smaller is better.
    """
    if not points:
        return []
    low = [min(column) for column in zip(*points, strict=True)]
    span = [max(column) - least or 1.0 for column, least in zip(zip(*points, strict=True), low, strict=True)]
    scaled = [tuple((x - a) / s for x, a, s in zip(point, low, span, strict=True)) for point in points]
    reference = (_BEYOND,) * len(low)
    found = [0.0] * len(points)
    for level in set(rank):
        front = {scaled[index]: index for index in reversed(range(len(points))) if rank[index] == level}
        whole = hypervolume(list(front), reference)
        for point, index in front.items():
            found[index] = whole - hypervolume([other for other in front if other != point], reference)
    return found
