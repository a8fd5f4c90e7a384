"""The figures of a trial: every quantity that can be an objective or a budget, from the trial's document."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any


def figures(document: Mapping[str, Any], weights: Mapping[str, float], aggregate: str) -> dict[str, float]:
    """Closed-form costs, and what is known of scores, losses and latency; ``weights`` are the tasks'."""
    found: dict[str, float] = dict(document["costs"])
    for kind, kept in (("score", "scores"), ("loss", "losses")):
        of_tasks = {label: statistics.fmean(values) for label, values in document.get(kept, {}).items()}
        found |= {f"{kind}.{label}": value for label, value in of_tasks.items()}
        if of_tasks and of_tasks.keys() == weights.keys():
            found[kind] = combine(of_tasks, weights, aggregate if kind == "score" else "mean")
    if (latency := document.get("latency")) is not None:
        found["latency_ms"] = latency["median_ms"]
    return found


def combine(values: Mapping[str, float], weights: Mapping[str, float], aggregate: str) -> float:
    """One number of the tasks' numbers: the least, or the weighted mean."""
    if aggregate == "min":
        return min(values.values())
    return sum(weights[label] * values[label] for label in values) / sum(weights.values())
