"""The figures of a trial: every quantity that can be an objective or a budget, from the trial's document."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from search.front import Interval


def figures(document: Mapping[str, Any], weights: Mapping[str, float], aggregate: str) -> dict[str, float]:
    """Closed-form costs, and what is known of the rest by name; ``weights`` are the tasks'."""
    found: dict[str, float] = dict(document["costs"])
    for kind, kept in (("score", "scores"), ("loss", "losses")):
        of_tasks = {label: statistics.fmean(values) for label, values in document.get(kept, {}).items()}
        found |= {f"{kind}.{label}": value for label, value in of_tasks.items()}
        if of_tasks and of_tasks.keys() == weights.keys():
            found[kind] = combine(of_tasks, weights, aggregate if kind == "score" else "mean")
    return found | {name: figure.value for name, figure in measured(measurement_of(document)).items()}


def measurement_of(trial: Mapping[str, Any]) -> Mapping[str, Any]:
    """The result of a trial's measurement, empty if it has none."""
    return dict(trial.get("measurement") or trial.get("latency") or {})  # its name in older ledgers


def measured(result: Mapping[str, Any]) -> dict[str, Interval]:
    """A measurement's figures by quantity; one of a latency alone has ``median_ms`` and its two ends."""
    found = dict(result.get("figures", {}))
    if "median_ms" in result:
        latency = {end: result[f"{end}_ms"] for end in ("low", "high")}
        found |= {"latency_ms": latency | {"value": result["median_ms"], "n": result["n"]}}
    return {
        name: Interval(f["value"], f["low"], f["high"], f["n"], source="measured", tier=result["tier"])
        for name, f in found.items()
    }


def combine(values: Mapping[str, float], weights: Mapping[str, float], aggregate: str) -> float:
    """One number of the tasks' numbers: the least, or the weighted mean."""
    if aggregate == "min":
        return min(values.values())
    return sum(weights[label] * values[label] for label in values) / sum(weights.values())
