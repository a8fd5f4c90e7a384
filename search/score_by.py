"""What a training's score is: the last one, the mean over its steps, or how soon it reached a threshold."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal

from archspec.fidelity import StepsTo
from search.fit import Point

ScoreBy = Literal["final", "area"] | StepsTo


def value_of(score_by: ScoreBy, *, score: float, area: float, curve: Sequence[Point], steps: int) -> float:
    """A number in [0, 1], larger is better; ``steps`` are those of the whole schedule.

    For ``StepsTo`` it is the share of ``steps`` that is left when the curve reaches the threshold, and 0
    where it never does: a prefix of a run that has reached it has the value of the whole run.
    """
    if score_by == "final":
        return score
    if score_by == "area":
        return area
    reached = steps_to(curve, score_by.steps_to)
    return 0.0 if reached is None else 1.0 - reached / steps


def steps_to(curve: Sequence[Point], threshold: float) -> float | None:
    """The first step at which the validation score is ``threshold``; None if it never is.

    Straight lines lie between the points, the first one from (0, 0).
    """
    corners = [(0.0, 0.0), *((float(point.step), point.score) for point in curve)]
    for (x0, y0), (x, y) in itertools.pairwise(corners):
        if y >= threshold:
            return x0 + (x - x0) * (threshold - y0) / (y - y0) if y > y0 else x
    return None
