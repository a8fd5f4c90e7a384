"""What a finished trial's row holds of its results: scores, losses, metrics, latency, rungs, seconds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from search.evaluate import Need
from search.ledger import Ledger


def found_of(
    ledger: Ledger, climbed: Mapping[str, Sequence[Need]], measured: Sequence[Need]
) -> dict[str, Any]:
    """``climbed`` has the trainings of each rung by its name, the last one that was tried last.

    The figures are the last rung's; those of the rungs below stand under ``rungs``, the lowest first.
    """
    of_rungs = [{"rung": name, **_results(ledger, needs)} for name, needs in climbed.items()]
    found: dict[str, Any] = {"scores": {}, "losses": {}, "metrics": {}}
    if of_rungs:
        last = of_rungs.pop()
        found = {name: last[name] for name in found}
        if of_rungs:
            kept = ("rung", "scores", "losses")
            found["rungs"] = [{name: rung[name] for name in kept} for rung in of_rungs]
    found["seconds"] = _seconds(ledger, [need for needs in climbed.values() for need in needs])
    for need in measured:
        if (result := ledger.evidence(need.key)) is not None:
            found["latency"] = result
    return found


def _results(ledger: Ledger, needs: Sequence[Need]) -> dict[str, Any]:
    """Of the trainings that went well: scores and losses of every seed, metrics as means, by task."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for need in needs:
        if (result := ledger.evidence(need.key)) is not None and result["status"] == "ok":
            runs.setdefault(need.label, []).append(result)
    return {
        "scores": {label: [result["score"] for result in ok] for label, ok in runs.items()},
        "losses": {label: [result["loss"] for result in ok] for label, ok in runs.items()},
        "metrics": {
            label: {n: statistics.fmean(r["metrics"][n] for r in ok) for n in ok[0]["metrics"]}
            for label, ok in runs.items()
        },
    }


def _seconds(ledger: Ledger, needs: Sequence[Need]) -> float:
    """Of all trainings; one that went on from a lower rung has counted that already."""
    longest: dict[str, float] = {}
    for need in needs:
        if (result := ledger.evidence(need.key)) is not None:
            longest[need.run] = max(longest.get(need.run, 0.0), result["seconds"])
    return sum(longest.values())
