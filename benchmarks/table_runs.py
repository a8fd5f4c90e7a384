"""One search on a complete table: what was evaluated, in order, and what it is worth together."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from in_process import searched
from public_tables import Table
from table_evaluator import Problem, TableEvaluator, Variant, look_up, study_of, true_point

from search.pareto import Point


@dataclass(frozen=True)
class Run:
    """``evaluated`` are keys of the table in the order of evaluation; ``seconds`` of CPU."""

    evaluated: tuple[str, ...]
    n_refused: int
    n_duplicates: int
    seconds: float


def run_search(
    problem: Problem, proposer: str, *, trials: int, batch: int, seed: int, variant: Variant | None = None
) -> Run:
    """A study through ``search.driver.search``, with a ledger in a folder that is deleted afterwards."""
    variant = variant or Variant()
    begun = time.process_time()
    study = study_of(
        problem, proposer, trials=trials - len(variant.warm), batch=batch, seed=seed, variant=variant
    )
    evaluator = TableEvaluator(problem, seed=seed, variant=variant)
    _, rows = searched(study, evaluator, lambda job: look_up(problem.table, job.payload))
    done = tuple(row.document["payload"]["key"] for row in rows if row.status == "done")
    counts = [sum(row.status == status for row in rows) for status in ("refused", "duplicate")]
    return Run(done, counts[0], counts[1], time.process_time() - begun)


def curve(problem: Problem, evaluated: Sequence[str]) -> list[float]:
    """After each evaluation the true hypervolume of what was found, over that of the whole table."""
    found: list[Point] = []
    ratios: list[float] = []
    for key in evaluated:
        entry = problem.table.entries[key]
        point = true_point(entry)
        news = problem.allows(entry) and not any(p[0] <= point[0] and p[1] <= point[1] for p in found)
        if news:
            found = [p for p in found if not (point[0] <= p[0] and point[1] <= p[1])] + [point]
        ratios.append(problem.ratio(found) if news or not ratios else ratios[-1])
    return ratios


def n_wasted(table: Table, problem: Problem, evaluated: Sequence[str]) -> tuple[int, int]:
    """Evaluations beyond a budget, and evaluations of what had been evaluated before."""
    beyond = sum(not problem.allows(table.entries[key]) for key in evaluated)
    return beyond, len(evaluated) - len(set(evaluated))
