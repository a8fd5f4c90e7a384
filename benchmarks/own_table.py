"""A table of our own: every model of a small space trained, and how fast the search finds its front.

    python benchmarks/own_table.py make [--hours 1]
    python benchmarks/own_table.py search [--searches 20] [--save]

``make`` trains what benchmarks/tables/own_hybrids.csv lacks; it may be stopped and called again. ``search``
runs the default proposer and random search on the table, through the driver of a study, and reports the
hypervolume of score against FLOPs as a share of that of the whole table, at a quarter of the evaluations
that an exhaustive search takes. Both refuse what breaks a budget before it costs an evaluation.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from own_table_make import make
from own_table_search import TABLE, OwnTable, curve, evaluated, read_table, study_of
from record import provenance, save

BATCH = 8
QUESTIONS: dict[str, dict[str, str]] = {
    "no budget": {},
    "flops": {"flops": "<= 25M"},
    "flops and params": {"flops": "<= 25M", "params": "<= 19k"},
}
PROPOSERS = ("predictor", "random")
WANTED = 0.95


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("make", help="train every model that the table lacks")
    making.add_argument("--hours", type=float, default=24.0, help="stop after so long")
    searching = commands.add_parser("search", help="search the table")
    searching.add_argument("--searches", type=int, default=20, help="with seeds from 0 on, of each kind")
    searching.add_argument("--save", action="store_true", help="write benchmarks/results")
    args = parser.parse_args()
    if args.command == "make":
        make(TABLE, limit_s=3600 * args.hours)
    else:
        _search(args.searches, save_it=args.save)


@dataclass(frozen=True)
class _Outcome:
    """One proposer on one question: a curve per seed, as long as the quarter of the whole table is."""

    question: str
    proposer: str
    n_feasible: int
    curves: list[list[float]]

    def at(self, n: int) -> list[float]:
        """The shares after ``n`` evaluations; a search that ran out of candidates keeps what it has."""
        return [curve[min(n, len(curve)) - 1] for curve in self.curves]

    def reaching(self, wanted: float) -> list[int | None]:
        """Evaluations until a search has ``wanted``; None if it never has."""
        return [next((n + 1 for n, share in enumerate(c) if share >= wanted), None) for c in self.curves]


def _search(n_searches: int, *, save_it: bool) -> None:
    table = read_table()
    n_quarter = len(table.entries) // 4
    outcomes = []
    for question, budgets in QUESTIONS.items():
        for proposer in PROPOSERS:
            outcomes.append(_outcome(table, question, budgets, proposer, n_quarter, n_searches))
            print(_line(outcomes[-1], n_quarter), flush=True)
    if save_it:
        _save(table, outcomes, n_quarter, n_searches)


def _outcome(
    table: OwnTable, question: str, budgets: Mapping[str, str], proposer: str, trials: int, n_searches: int
) -> _Outcome:
    limits = study_of(proposer, budgets=budgets, trials=1, batch=1, seed=0).budgets
    curves = []
    for seed in range(n_searches):
        found = evaluated(table, proposer, budgets=budgets, trials=trials, batch=BATCH, seed=seed)
        curves.append(curve(table, found, limits))
    return _Outcome(question, proposer, len(table.within(limits)), curves)


def _line(outcome: _Outcome, n_quarter: int) -> str:
    strict, loose = (outcome.at(n) for n in (outcome.n_feasible // 4, n_quarter))
    reached = [n for n in outcome.reaching(WANTED) if n is not None]
    median = f"{statistics.median(reached):g}" if 2 * len(reached) > len(outcome.curves) else "-"
    return (
        f"| {outcome.question} | {outcome.proposer} | {outcome.n_feasible} | {outcome.n_feasible // 4} "
        f"| {np.mean(strict):.4f} ({min(strict):.4f}) | {sum(s >= WANTED for s in strict)}/{len(strict)} "
        f"| {np.mean(loose):.4f} ({min(loose):.4f}) | {median} |"
    )


def _save(table: OwnTable, outcomes: list[_Outcome], n_quarter: int, n_searches: int) -> None:
    head = (
        "| budgets | proposer | feasible | a quarter of them | share there: mean (least) "
        f"| searches >= {WANTED:.0%} there | share at {n_quarter}: mean (least) "
        f"| median evaluations to {WANTED:.0%} |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    document: dict[str, Any] = {
        **provenance(),
        "table": f"benchmarks/tables/{TABLE.name}",
        "models": len(table.entries),
        "training seeds": table.n_seeds,
        "searches of each kind": n_searches,
        "batch": BATCH,
        "hypervolume": f"score against FLOPs, reference score 0 at {table.reference[1]:.0f} FLOPs",
        "budgets": "; ".join(f"{name}: {budgets or 'none'}" for name, budgets in QUESTIONS.items()),
        "outcomes": [
            {
                "budgets": QUESTIONS[outcome.question],
                "proposer": outcome.proposer,
                "n_feasible": outcome.n_feasible,
                "curves": [[round(share, 5) for share in curve] for curve in outcome.curves],
            }
            for outcome in outcomes
        ],
    }
    save("own-table", document, "\n".join([head, *(_line(outcome, n_quarter) for outcome in outcomes)]))


if __name__ == "__main__":
    main()
