"""How sure a front is: intervals over seeds, and the share of resampled worlds in which a member is on it."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy import stats

from search.figures import combine
from search.front import Row, SearchResult

_N_WORLDS = 400
_N_RIVALS = 300  # the best by rank: whoever is far behind is on no front
_QUARTILES = 1.349  # standard deviations between the quartiles of a normal distribution
Array = npt.NDArray[np.float64]


def seed_values(row: Row, quantity: str, result: SearchResult) -> tuple[float, ...]:
    """A score for each seed; empty where there are not several seeds, or ``quantity`` is no score."""
    base, _, label = quantity.partition(".")
    if base != "score" or not row.seed_scores:
        return ()
    n = min(len(values) for values in row.seed_scores.values())
    if n < 2:
        return ()
    if label:
        return row.seed_scores.get(label, ())
    weights = {task.label: task.weight for task in result.tasks}
    if row.seed_scores.keys() != weights.keys():
        return ()
    return tuple(
        combine({name: values[seed] for name, values in row.seed_scores.items()}, weights, result.aggregate)
        for seed in range(n)
    )


def interval(row: Row, quantity: str, result: SearchResult) -> tuple[float, float] | None:
    """95 % of the mean over seeds (Student's t), kept within a score's bounds; None with a single seed."""
    values = seed_values(row, quantity, result)
    if not values or quantity not in row.objectives:
        return None
    half = stats.t.ppf(0.975, len(values) - 1) * stats.tstd(values) / math.sqrt(len(values))
    centre = row.objectives[quantity]
    return max(0.0, centre - float(half)), min(1.0, centre + float(half))


def membership(result: SearchResult) -> dict[int, float]:
    """By trial, how often it is non-dominated when every candidate's figures are drawn again.

    Scores: the mean of seeds drawn with replacement. Latency: a normal distribution with the quartiles of its
    runs. Costs are exact. Nothing where no candidate has several seeds.
    """
    names = [objective.quantity for objective in result.objectives]
    rows = sorted((row for row in result.rows if row.feasible), key=lambda row: (row.rank or 0, row.trial))
    rows = rows[:_N_RIVALS]
    if not any(seed_values(row, name, result) for row in rows for name in names):
        return {}
    rng = np.random.default_rng(0)
    worlds = np.stack([_drawn(row, result, rng) for row in rows], axis=1)  # (worlds, rows, objectives)
    kept = np.array([_non_dominated(world) for world in worlds])
    return {row.trial: float(share) for row, share in zip(rows, kept.mean(axis=0), strict=True)}


def _drawn(row: Row, result: SearchResult, rng: np.random.Generator) -> Array:
    """(worlds, objectives), smaller is better."""
    columns = []
    for objective in result.objectives:
        name = objective.quantity
        values = seed_values(row, name, result)
        if values:
            drawn = rng.choice(np.array(values), size=(_N_WORLDS, len(values))).mean(axis=1)
        elif (measured := row.measured.get(name)) is not None:
            spread = (measured.high - measured.low) / _QUARTILES
            drawn = rng.normal(row.objectives[name], spread, size=_N_WORLDS)
        else:
            drawn = np.full(_N_WORLDS, row.objectives[name])
        columns.append(objective.sign * drawn)
    return np.stack(columns, axis=1)


def _non_dominated(points: Array) -> npt.NDArray[np.bool_]:
    no_worse = (points[:, None] <= points[None]).all(axis=2)
    better = (points[:, None] < points[None]).any(axis=2)
    return np.logical_not(np.any(no_worse & better, axis=0))
