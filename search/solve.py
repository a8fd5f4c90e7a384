"""Ledger -> SearchResult: rows, the front under the study's present budgets, hypervolume and verdict.

Everything is derived from what is stored, so a front can be solved again at any time: budgets, objectives
and the aggregate may have changed since the trials ran.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from archspec.errors import SpecError
from archspec.quantities import Budget, find_quantity
from search.folder import read_ledger
from search.front import (
    HypervolumePoint,
    Limit,
    Objective,
    Row,
    SearchResult,
    TaskInfo,
    TextBaseline,
    Verdict,
)
from search.ledger import Ledger, Trial
from search.pareto import Point, hypervolume, ranks
from search.proxy_validity import AUDIT, ProxyValidity, learned_quantity, validity_of
from search.rows import Question, rows_of
from search.verdict import judge, shares


def load_result(folder: Path, *, budgets: Mapping[str, Budget] | None = None) -> SearchResult:
    """The result of the search in ``folder``, finished or not, under other ``budgets`` if there are some.

    Nothing is written, and nothing runs.
    """
    ledger = read_ledger(Path(folder))
    try:
        return solve(ledger, budgets=budgets)
    finally:
        ledger.close()


def solve(ledger: Ledger, *, budgets: Mapping[str, Budget] | None = None) -> SearchResult:
    """The result of all that ``ledger`` holds, as its last driver put the question, or under ``budgets``."""
    runs = ledger.runs()
    starts = [run for run in runs if run["event"] == "start"]
    if not starts:
        raise SpecError(f"{ledger.where} holds no search that has begun")
    run = starts[-1]
    end = runs[-1] if runs[-1]["event"] == "end" else {}
    tasks = tuple(TaskInfo(**task) for task in run["tasks"])
    if budgets is None:
        budgets = stored_budgets(run)
    weights = {task.label: task.weight for task in tasks}
    question = Question(run["objectives"], budgets, weights, run["aggregate"])
    rows = rows_of(ledger, question)
    objectives = question.boxed(rows)
    rows = _ranked(rows, objectives)
    searched = [row for row in rows if not row.random]
    trials = ledger.trials()
    codes = Counter(trial.document["code"] for trial in trials if trial.status == "refused")
    survey = run["survey"]
    return SearchResult(
        study=run["study"],
        description=run["description"],
        objectives=objectives,
        budgets=tuple(_limit(budget, codes) for budget in budgets.values()),
        tasks=tasks,
        aggregate=run["aggregate"],
        target=run["provenance"].get("target", {}),
        rows=rows,
        hypervolume=_history(searched, objectives),
        text_baselines=tuple(TextBaseline(**text) for text in end.get("text_baselines", ())),
        verdict=_judged(searched, objectives, trials),
        refusals=dict(codes.most_common()),
        failures=dict(Counter(row.reason for row in rows if row.status == "failed").most_common()),
        fronts_by_aggregate=_fronts_by_aggregate(ledger, question, rows),
        space_size=(survey["fillings"], survey["exact"]),
        seed=run["seed"],
        complete=bool(end),
        stopped=end.get("stopped", "interrupted"),
        provenance=run["provenance"],
        n_wanted=run["trials"],
        hypervolume_search=_history([row for row in searched if row.baseline is None], objectives),
        hypervolume_random=_history(_random(rows), objectives),
        proxy=_validity(run, trials, weights),
        survey=survey,
    )


def _judged(rows: Sequence[Row], objectives: Sequence[Objective], trials: Sequence[Trial]) -> Verdict:
    """The verdict, which says so where scores are of shrunk twins."""
    verdict = judge(rows, objectives)
    payloads = [trial.document.get("payload", {}) for trial in trials if trial.status == "done"]
    sizes = [payload["twin"]["params"] for payload in payloads if "twin" in payload]
    if not sizes:
        return verdict
    among = f"{min(sizes):,}" if min(sizes) == max(sizes) else f"{min(sizes):,} to {max(sizes):,}"
    note = f"Each score is that of a shrunk twin of {among} parameters; costs and specs are full-size."
    return replace(verdict, sentence=f"{verdict.sentence} {note}")


def _validity(
    run: Mapping[str, Any], trials: Sequence[Trial], weights: Mapping[str, float]
) -> ProxyValidity | None:
    """What the audit says, in a search with more than one rung that had one."""
    quantity = learned_quantity((*run["objectives"], *run["budgets"]))
    is_audited = any(trial.document.get("proposer") == AUDIT for trial in trials)
    if not is_audited or quantity is None:
        return None
    return validity_of(trials, run["rungs"], quantity, weights=weights, aggregate=run["aggregate"])


def stored_budgets(run: Mapping[str, Any]) -> dict[str, Budget]:
    """The budgets with which a driver began, from what it wrote of itself."""
    return {name: Budget(**budget) for name, budget in run["budgets"].items()}


def _ranked(rows: Sequence[Row], objectives: Sequence[Objective]) -> tuple[Row, ...]:
    """Non-dominated ranks among the feasible."""
    feasible = [row for row in rows if row.feasible]
    rank = dict(
        zip((r.trial for r in feasible), ranks([_point(r, objectives) for r in feasible]), strict=True)
    )
    return tuple(
        replace(row, rank=rank.get(row.trial), on_front=rank.get(row.trial) == 0)
        if row.trial in rank
        else row
        for row in rows
    )


def _fronts_by_aggregate(
    ledger: Ledger, question: Question, ranked: Sequence[Row]
) -> dict[str, tuple[int, ...]]:
    """The front under each way to make one score of the tasks' scores; ``ranked`` are the question's own."""
    if "score" not in question.objectives:
        return {}
    fronts = {}
    for aggregate in ("mean", "min"):
        if aggregate == question.aggregate:
            rows = ranked
        else:
            others = rows_of(ledger, replace(question, aggregate=aggregate))
            rows = _ranked(others, question.boxed(others))
        fronts[aggregate] = tuple(row.trial for row in rows if row.on_front)
    return fronts


def _limit(budget: Budget, codes: Mapping[str, int]) -> Limit:
    quantity = find_quantity(budget.quantity)
    return Limit(
        quantity=budget.quantity,
        op=budget.op,
        value=budget.value,
        unit=quantity.unit,
        text=budget.text or f"{budget.op} {budget.value:g}",
        closed_form=quantity.closed_form,
        n_refused=codes.get(budget.quantity, 0),
    )


def _point(row: Row, objectives: Sequence[Objective]) -> tuple[float, ...]:
    return tuple(objective.sign * row.objectives[objective.quantity] for objective in objectives)


def _random(rows: Sequence[Row]) -> list[Row]:
    """The random candidates in order; one that was there before has its figures from that trial."""
    by_trial = {row.trial: row for row in rows}
    return [by_trial[row.trial if row.of is None else row.of] for row in rows if row.random]


def _history(rows: Sequence[Row], objectives: Sequence[Objective]) -> tuple[HypervolumePoint, ...]:
    """The hypervolume after every trained candidate, as a share of its box."""
    points: list[HypervolumePoint] = []
    front: list[Point] = []  # what cannot change the volume is left out
    seconds, cost, value = 0.0, 0.0, 0.0
    for row in rows:
        if row.status not in ("done", "dropped", "failed"):
            continue
        seconds += row.seconds
        cost += row.cost
        place = shares(row, objectives) if row.feasible else None
        if place is not None and not any(_covers(member, place) for member in front):
            front = [member for member in front if not _covers(place, member)] + [place]
            value = hypervolume(front, (1.0,) * len(objectives))
        points.append(HypervolumePoint(cost, row.trial, seconds, value))
    return tuple(points)


def _covers(point: Point, other: Point) -> bool:
    """Whether ``point`` is no worse anywhere."""
    return all(a <= b for a, b in zip(point, other, strict=True))
