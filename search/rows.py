"""Trials -> rows: the figures of each one, and whether it keeps the budgets that are asked now."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from archspec.quantities import Budget, find_quantity
from search.evaluate import violations
from search.figures import figures, measured, measurement_of
from search.front import (
    Interval,
    Objective,
    Row,
)
from search.ledger import Ledger, Trial
from search.random_search import RANDOM_SEARCH

FINAL = "final"  # the fidelity of measurements that are repeated for the front


@dataclass(frozen=True)
class Question:
    """What the rows are asked."""

    objectives: Mapping[str, Any]
    budgets: Mapping[str, Budget]
    weights: Mapping[str, float]
    aggregate: str

    def boxed(self, rows: Sequence[Row]) -> tuple[Objective, ...]:
        """The objectives, each with the ends of the hypervolume's box."""
        return tuple(self._box(name, direction, rows) for name, direction in self.objectives.items())

    def _box(self, name: str, direction: Any, rows: Sequence[Row]) -> Objective:
        quantity = find_quantity(name)
        budget = self.budgets.get(name)
        known = [row.objectives[name] for row in rows if name in row.objectives]
        limit = budget.limit(">=" if direction == "maximize" else "<=") if budget is not None else None
        if direction == "maximize":
            ideal = quantity.most if math.isfinite(quantity.most) else max(known, default=1.0)
            floor = quantity.least if limit is None else limit
            return Objective(name, direction, quantity.unit, ideal=ideal, reference=floor)
        ceiling = max(known, default=1.0) if limit is None else limit
        return Objective(name, direction, quantity.unit, ideal=quantity.least, reference=ceiling)


def rows_of(ledger: Ledger, question: Question) -> tuple[Row, ...]:
    trials = ledger.trials()
    finals = _finals(ledger)
    measurements = _measurements(ledger)
    names = {
        t.document["of"]: t.document["baseline"]
        for t in trials
        if t.document.get("of") is not None and t.document.get("baseline")
    }
    return tuple(
        _row(
            trial,
            question,
            finals.get(trial.spec, []),
            measurements.get(trial.spec, {}),
            names.get(trial.number),
        )
        for trial in trials
    )


def _measurements(ledger: Ledger) -> dict[str, dict[str, Interval]]:
    """By spec, the figures measured last; those of the front's last measurement count more than the first."""
    found: dict[str, dict[str, Interval]] = defaultdict(dict)
    results = ledger.all_evidence("measurement")
    for is_final in (False, True):
        for key, result in results:
            if (key.fidelity == FINAL) is is_final:
                found[key.spec] |= measured(result)
    return found


def _finals(ledger: Ledger) -> dict[str, list[dict[str, Any]]]:
    """By spec, the checks of each task and seed; those of later code replace earlier ones."""
    latest = {(key.spec, key.subject, key.seed): result for key, result in ledger.all_evidence("final")}
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for (spec, _, _), result in latest.items():
        found[spec].append(result)
    return found


def _row(
    trial: Trial,
    question: Question,
    finals: Sequence[Mapping[str, Any]],
    later: Mapping[str, Interval],
    named: str | None,
) -> Row:
    d = trial.document
    figures_measured = measured(measurement_of(d)) | dict(later if trial.status == "done" else {})
    strip = tuple((token_mixer, channel_mixer) for token_mixer, channel_mixer in d.get("strip", ()))
    baseline = d.get("baseline") or named
    row = Row(
        trial=trial.number,
        hash=trial.spec,
        name=baseline or trial.spec[:12],
        status=trial.status,  # type: ignore[arg-type]
        reason=d.get("reason", ""),
        baseline=baseline,
        genes=d.get("genes", {}),
        strip=strip,
        costs=d.get("costs", {}),
        hybrid=len({kind for pair in strip for kind in pair[0].split("+") if kind != "none"}) > 1,
        seconds=d.get("seconds", 0.0),
        rung=d.get("rung", "full"),
        cost=float(Fraction(d.get("cost", 1))),
        measured=figures_measured,
        scores={label: statistics.fmean(values) for label, values in d.get("scores", {}).items()},
        score_spread={label: max(values) - min(values) for label, values in d.get("scores", {}).items()},
        metrics=d.get("metrics", {}),
        seed_scores={label: tuple(values) for label, values in d.get("scores", {}).items()},
        of=d.get("of"),
        random=d.get("proposer") == RANDOM_SEARCH,
        spec=d.get("payload", {}).get("spec", ""),
    )
    if trial.status != "done":
        return row
    found = figures(d, question.weights, question.aggregate)
    found |= {name: figure.value for name, figure in figures_measured.items()}
    if unknown := [name for name in question.objectives if name not in found]:
        reason = f"{', '.join(unknown)}: not known of it, since it ran before the study asked"
        return replace(row, status="failed", reason=reason)
    broken = violations(question.budgets, found)
    causality = _causality(finals)
    if causality == "failed":
        broken = (*broken, "the trained model is not causal")
    return replace(
        row,
        objectives={name: found[name] for name in question.objectives},
        feasible=not broken,
        violations=broken,
        causality=causality,
        test_scores=_means(finals, "score"),
        test_metrics=_mean_metrics(finals),
    )


def _causality(finals: Sequence[Mapping[str, Any]]) -> Any:
    verdicts = {final["causality"] for final in finals}
    return next((verdict for verdict in ("failed", "untested", "passed") if verdict in verdicts), "untested")


def _means(finals: Sequence[Mapping[str, Any]], name: str) -> dict[str, float]:
    values: dict[str, list[float]] = defaultdict(list)
    for final in finals:
        values[final["label"]].append(final[name])
    return {label: statistics.fmean(found) for label, found in values.items()}


def _mean_metrics(finals: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    values: dict[str, list[Mapping[str, float]]] = defaultdict(list)
    for final in finals:
        values[final["label"]].append(final["metrics"])
    return {
        label: {name: statistics.fmean(metrics[name] for metrics in found) for name in found[0]}
        for label, found in values.items()
    }
