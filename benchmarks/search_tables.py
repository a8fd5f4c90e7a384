"""Our default proposer beside others on complete public tables, through our own driver, rounds and ledger.

    python benchmarks/search_tables.py [--seeds 20] [--parts main,ablation] [--out FILE] [--save NAME]

Every run is a line of ``--out``; what is there already is not run again, so a run that was killed goes on.
A value is the hypervolume of the true (mean over training seeds) accuracies and latencies of what was
evaluated within both budgets, over that of the whole table. The reference point is the 5 % quantile of the
feasible accuracies and the latency budget. The search sees the accuracy of one training seed. The predictor
sees features of an architecture's structure (``table_features``), the others its genes. pymoo's NSGA-II
(population 20) draws feasible, unseen candidates in its own sampling and mating.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from public_tables import Table, cell_table, graph_table
from record import provenance, save
from search_report import draw, report, results
from table_evaluator import Problem, Variant, problem, true_point
from table_pymoo import run_pymoo
from table_runs import curve, run_search

BATCH = 4
DEFAULT = "predictor"
_N_WARM = 8
_PLOTS = Path(__file__).parents[1] / "docs"

_CELL = {"wide": (0.27, 0.27), "tight": (0.13, 0.27)}  # quantiles of latency and parameters
_GRAPH = {"wide": (0.45, 0.45), "tight": (0.22, 0.45)}
_TABLES: Mapping[str, tuple[Callable[[], Table], Mapping[str, tuple[float, float]]]] = {
    "cifar100": (lambda: cell_table("cifar100"), _CELL),
    "arxiv": (lambda: graph_table("arxiv"), _GRAPH),
    "cifar10": (lambda: cell_table("cifar10"), _CELL),
    **{name: (partial(graph_table, name), _GRAPH) for name in ("citeseer", "computers", "physics")},
}
_DEFAULT_TABLES = "cifar100,arxiv,cifar10"  # the others are for methods that are finished
_WARM_FROM = {"cifar100": "cifar10", "cifar10": "cifar100"}  # arxiv: another citation graph
_METHODS = {"predictor": 200, "random": 500, "evolution": 200, "tpe": 200, "nsga2": 200, "pymoo": 200}
_ABLATIONS = {
    "no rejection": Variant(rejection=False),
    "no deduplication": Variant(deduplication=False),
    "no structure": Variant(structure=False),
    "warm start": Variant(),
}


@dataclass(frozen=True)
class Task:
    """One line of the result: ``method`` is a proposer, ``pymoo``, or an ablation of the default."""

    table: str
    budget: str
    method: str
    trials: int
    seed: int

    @property
    def key(self) -> tuple[str, str, str, int]:
        return self.table, self.budget, self.method, self.seed


@cache
def find_problem(table: str, budget: str) -> Problem:
    """A table under one of its two latency budgets."""
    load, budgets = _TABLES[table]
    latency, params = budgets[budget]
    return problem(load(), f"{table}-{budget}", latency_quantile=latency, params_quantile=params)


def tasks(parts: set[str], n_seeds: int, chosen: set[str], budgets: set[str], most: int) -> Iterator[Task]:
    """Seed by seed, so that an interrupted run has all methods with fewer seeds."""
    for seed in range(n_seeds):
        for table in (t for t in _TABLES if t in chosen):
            for budget in (b for b in ("wide", "tight") if b in budgets):
                if "main" in parts:
                    for method, trials in _METHODS.items():
                        yield Task(table, budget, method, min(trials, most), seed)
            if "ablation" in parts:
                for method in _ABLATIONS:
                    yield Task(table, "wide", method, 100, seed)


def run(task: Task) -> dict[str, Any]:
    """Evaluate one task; the document says what it is and the ratio after each evaluation."""
    place = find_problem(task.table, task.budget)
    if task.method == "pymoo":
        found = run_pymoo(place, trials=task.trials, seed=task.seed)
    else:
        variant = _ABLATIONS.get(task.method, Variant())
        if task.method == "warm start":
            variant = Variant(warm=_warm(task.table, task.budget))
        proposer = DEFAULT if task.method in _ABLATIONS else task.method
        found = run_search(place, proposer, trials=task.trials, batch=BATCH, seed=task.seed, variant=variant)
    return {
        "table": task.table,
        "budget": task.budget,
        "method": task.method,
        "seed": task.seed,
        "refused": found.n_refused,
        "duplicates": len(found.evaluated) - len(set(found.evaluated)),
        "infeasible": sum(not place.allows(place.table.entries[key]) for key in found.evaluated),
        "cpu_s": round(found.seconds, 3),
        "ratios": [round(ratio, 5) for ratio in curve(place, found.evaluated)],
    }


@cache
def _warm(table: str, budget: str) -> tuple[str, ...]:
    """The best of a 100-evaluation search of ours on another data set, with a seed of its own."""
    other = graph_table("cora") if table == "arxiv" else cell_table(_WARM_FROM[table])
    latency, params = _TABLES[table][1][budget]
    there = problem(other, "earlier", latency_quantile=latency, params_quantile=params)
    found = run_search(there, DEFAULT, trials=100, batch=BATCH, seed=1_000)
    points = {key: true_point(other.entries[key]) for key in found.evaluated}
    front = [
        key
        for key, (a, b) in points.items()
        if not any(x <= a and y <= b and (x, y) != (a, b) for x, y in points.values())
    ]
    front = sorted(front, key=lambda key: points[key])
    here = find_problem(table, budget).table.entries
    return tuple(key for key in front if key in here)[:_N_WARM]


def _problems(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = []
    for table, budget in sorted({(row["table"], row["budget"]) for row in rows}):
        p = find_problem(table, budget)
        limits = {"latency_ms": p.latency_ms, "params": p.params}
        found.append(
            {"table": table, "budget": budget, "source": p.table.source, **limits, "feasible": p.feasible,
             "reference": p.reference}
        )  # fmt: skip
    return found


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Runs that are finished; a line that a kill cut off is left out."""
    found = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def main() -> None:
    """Run what is missing, print the summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--parts", default="main,ablation")
    parser.add_argument("--tables", default=_DEFAULT_TABLES, help=f"of {', '.join(_TABLES)}")
    parser.add_argument("--budgets", default="wide,tight")
    parser.add_argument("--trials", type=int, default=500, help="no run is longer than this")
    parser.add_argument("--methods", default="", help="only these, with commas between them")
    parser.add_argument("--out", type=Path, default=Path("runs/search_tables.jsonl"))
    parser.add_argument("--note", default="", help="what a reader of the result must know")
    parser.add_argument(
        "--save", metavar="NAME", help="write benchmarks/results/DATE-NAME.md and docs/NAME.png"
    )
    args = parser.parse_args()
    parts, tables, budgets = (set(text.split(",")) for text in (args.parts, args.tables, args.budgets))
    methods = set(args.methods.split(",")) - {""}
    for asked, known in ((tables, _TABLES), (methods, {*_METHODS, *_ABLATIONS}), (budgets, _GRAPH)):
        if unknown := sorted(asked - set(known)):
            parser.error(f"{unknown[0]!r} is none of {', '.join(known)}")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    done = {(r["table"], r["budget"], r["method"], r["seed"]) for r in read_rows(args.out)}
    for task in tasks(parts, args.seeds, tables, budgets, args.trials):
        if task.key in done or (methods and task.method not in methods):
            continue
        row = run(task)
        with args.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(*task.key, row["ratios"][min(99, len(row["ratios"]) - 1)], row["cpu_s"], file=sys.stderr)
    rows = read_rows(args.out)
    found = results(rows)
    tables = report(rows, DEFAULT, tuple(_METHODS), tuple(_ABLATIONS))
    print(tables)
    if args.save:
        document = {
            **provenance(),
            "batch": BATCH,
            "what": __doc__.replace("\n", " "),
            "note": args.note,
            "problems": _problems(rows),
            "results": found,
        }
        save(args.save, document, tables)
        draw(rows, tuple(_METHODS), _PLOTS / f"{args.save}.png")


if __name__ == "__main__":
    main()
