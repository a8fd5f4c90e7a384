"""What rungs give on our own table: searches that look at a quarter of a training first, at equal cost.

    python benchmarks/own_table_rungs.py make
    python benchmarks/own_table_rungs.py search [--searches 20] [--save]

``make`` trains every model of ``own_hybrids.csv``, with the same seeds, to a quarter of the same schedule,
into ``own_hybrids_quarter.csv``; it goes on where it was stopped. ``search`` compares the default with and
without that rung. What a search has spent is counted in whole trainings: a candidate that stays behind is a
quarter.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
from in_process import searched
from own_table_make import make
from own_table_search import (
    TABLE,
    Entry,
    OwnEvaluator,
    OwnTable,
    curve,
    look_up,
    read_table,
    study_of,
)
from record import provenance, save

from archspec.fidelity import Fidelity
from archspec.study import Study
from search.evaluate import Candidate, Need
from search.executors import Job
from search.ladder import cost_of

RUNG = Fraction(1, 4)
QUARTER = TABLE.with_name("own_hybrids_quarter.csv")
MARKS = (16, 32, 64)  # whole trainings
BATCH = 8
QUESTIONS: Mapping[str, Mapping[str, str]] = {"no budget": {}, "flops": {"flops": "<= 25M"}}
LADDERS: Mapping[str, Mapping[str, Any]] = {
    "full trainings only": {},
    "a quarter first, no audit": {"rungs": [str(RUNG), "full"], "promote": "1/3", "audit": 0},
    "a quarter first, after an audit of 12": {"rungs": [str(RUNG), "full"], "promote": "1/3", "audit": 12},
}


class RungEvaluator(OwnEvaluator):
    """Candidates that can stop at a quarter of their training."""

    def __init__(self, table: OwnTable, fidelity: Fidelity):
        super().__init__(table)
        self._fidelity = fidelity

    def rung(self, candidate: Candidate, index: int) -> list[Need]:
        """The trainings of the rung; those of the top are whole."""
        needs = self.training(candidate)
        if index == len(self._fidelity.rungs) - 1:
            return needs
        label = self._fidelity.label(index, 1)
        return [
            replace(
                need,
                key=replace(need.key, fidelity=label),
                job=Job("train", need.label, {**need.job.payload, "rung": label}),
            )
            for need in needs
        ]

    def discard(self, candidate: Candidate) -> None:
        """A table keeps everything."""


def run(table: OwnTable, quarter: OwnTable, study: Study) -> tuple[list[tuple[float, Entry | None]], str]:
    """(whole trainings spent, the entry if it was trained wholly), in order, and what the audit said."""
    evaluator = RungEvaluator(table, study.fidelity)
    found, trials = searched(
        study, evaluator, lambda job: look_up(quarter if "rung" in job.payload else table, job)
    )
    spent, steps = Fraction(0), []
    for trial in trials:
        if trial.status in ("done", "dropped"):
            spent += cost_of(trial)
            entry = table.entries[tuple(trial.document["payload"]["mixers"])]
            steps.append((float(spent), entry if trial.status == "done" else None))
    used = "" if found.proxy is None else ("used" if found.proxy.used else "refused")
    return steps, used


def share_at(shares: Sequence[float], costs: Sequence[float], mark: float) -> float:
    """The share of the hypervolume that was found when ``mark`` whole trainings were spent."""
    n = int(np.searchsorted(costs, mark + 1e-9, side="right"))
    return shares[n - 1] if n else 0.0


def measure(table: OwnTable, quarter: OwnTable, n_searches: int) -> list[dict[str, Any]]:
    """Every ladder on every question, ``n_searches`` seeds each."""
    found = []
    for question, budgets in QUESTIONS.items():
        for name, fidelity in LADDERS.items():
            rows, audits = [], []
            for seed in range(n_searches):
                study = study_of(
                    "predictor", budgets=budgets, trials=max(MARKS), batch=BATCH, seed=seed,
                    others={"fidelity": dict(fidelity)} if fidelity else {},
                )  # fmt: skip
                steps, audit = run(table, quarter, study)
                shares = curve(table, [entry for _, entry in steps], study.budgets)
                rows.append([share_at(shares, [cost for cost, _ in steps], mark) for mark in MARKS])
                audits.append(audit)
            found.append({"budgets": question, "ladder": name, "shares": rows, "rung": audits})
            print(_line(found[-1]), flush=True)
    return found


def _line(row: Mapping[str, Any]) -> str:
    shares = np.array(row["shares"])
    cells = " | ".join(
        f"{mean:.3f} ± {sd:.3f}" for mean, sd in zip(shares.mean(0), shares.std(0), strict=True)
    )
    audits = [audit for audit in row["rung"] if audit]
    trusted = f"{audits.count('used')}/{len(audits)}" if audits else ""
    return f"| {row['budgets']} | {row['ladder']} | {cells} | {trusted} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("make", help="train every model to the rung")
    searching = commands.add_parser("search", help="search with and without the rung")
    searching.add_argument("--searches", type=int, default=20)
    searching.add_argument("--save", action="store_true", help="write benchmarks/results")
    args = parser.parse_args()
    if args.command == "make":
        make(QUARTER, limit_s=float("inf"), share=RUNG)
        return
    found = measure(read_table(), read_table(QUARTER), args.searches)
    if args.save:
        marks = " | ".join(f"{mark} trainings" for mark in MARKS)
        head = f"| budgets | ladder | {marks} | rung trusted |\n|---|---|{'---|' * len(MARKS)}---|"
        document = {**provenance(), "rung": str(RUNG), "batch": BATCH, "results": found}
        save("own-table-rungs", document, "\n".join([head, *map(_line, found)]))


if __name__ == "__main__":
    main()
