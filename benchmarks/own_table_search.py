"""Our own table as an ``Evaluator``: the study's driver, ledger and rounds, trainings that are looked up.

An evaluation is one model with every seed that the table has of all models. Costs are closed-form, so what
breaks a budget is refused before it costs an evaluation.
"""

from __future__ import annotations

import csv
import functools
import itertools
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from in_process import searched

from archspec.closed import Closed
from archspec.quantities import Budget
from archspec.study import Study, StudyKinds
from search import proposers
from search.evaluate import Candidate, Identity, Need
from search.executors import Job
from search.front import TaskInfo, TextBaseline
from search.genome import Gene, Genes, Genome
from search.ledger import EvidenceKey
from search.pareto import Point, hypervolume

TABLE = Path(__file__).parent / "tables" / "own_hybrids.csv"
MIXERS = ("attention", "local", "recurrent", "pool")
N_LAYERS = 4
COSTS = ("params", "flops", "flops_needed", "kv_bytes_per_token", "state_bytes", "inference_peak")
_TASKS = ("copy", "parity")


@dataclass(frozen=True)
class Entry:
    """One model: its costs, and by task its score for each seed."""

    hash: str
    mixers: tuple[str, ...]
    costs: Mapping[str, float]
    scores: Mapping[str, tuple[float, ...]]

    @property
    def score(self) -> float:
        """Mean over tasks and seeds."""
        return statistics.fmean(statistics.fmean(values) for values in self.scores.values())

    @property
    def point(self) -> Point:
        """(-score, FLOPs): smaller is better."""
        return (-self.score, self.costs["flops"])


@dataclass(frozen=True)
class OwnTable:
    """Every model of the space, by its mixers, with the first ``n_seeds`` seeds."""

    entries: Mapping[tuple[str, ...], Entry]
    n_seeds: int

    @cached_property
    def reference(self) -> Point:
        """No score at the FLOPs of the dearest model: it bounds the hypervolume."""
        return (0.0, max(entry.costs["flops"] for entry in self.entries.values()))

    def within(self, budgets: Mapping[str, Budget]) -> list[Entry]:
        """The entries that keep every budget."""
        return [
            entry
            for entry in self.entries.values()
            if all(budget.allows(entry.costs[name]) for name, budget in budgets.items())
        ]

    def volume(self, entries: Iterable[Entry]) -> float:
        """The hypervolume of what ``entries`` reach."""
        return hypervolume([entry.point for entry in entries], self.reference)


def read_rows(table: Path) -> list[dict[str, str]]:
    """The rows of a table, the lines of its head left out."""
    with table.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


def read_table(table: Path = TABLE) -> OwnTable:
    """The whole table; only seeds that every model has are taken."""
    rows = read_rows(table)
    n_models = len(MIXERS) ** N_LAYERS
    n_rows = Counter(row["seed"] for row in rows)
    n_seeds = next(n for n in itertools.count() if n_rows[str(n)] < n_models)
    assert n_seeds > 0, f"{table} does not hold {n_models} models yet: {dict(n_rows)}"
    rows = sorted((row for row in rows if int(row["seed"]) < n_seeds), key=lambda row: int(row["seed"]))
    entries: dict[tuple[str, ...], Entry] = {}
    for row in rows:
        mixers = tuple(row["mixers"].split("-"))
        before = entries[mixers].scores if mixers in entries else dict.fromkeys(_TASKS, ())
        scores = {task: (*before[task], float(row[f"{task}_score"])) for task in _TASKS}
        entries[mixers] = Entry(row["hash"], mixers, {name: float(row[name]) for name in COSTS}, scores)
    return OwnTable(entries, n_seeds)


class _Task(Closed):
    kind: Literal["copy", "parity"]
    weight: float = 1.0


class _Recipe(Closed):
    """The table has been trained already."""


_KINDS = StudyKinds(dict.fromkeys(_TASKS, _Task), proposers.kinds(), _Recipe)


def study_of(
    proposer: str,
    *,
    budgets: Mapping[str, str],
    trials: int,
    batch: int,
    seed: int,
    others: Mapping[str, Any] | None = None,
) -> Study:
    """Score against FLOPs in the table's space; ``others`` are more fields of the study."""
    written = {
        "archspec": 1,
        "study": "own_hybrids",
        "space": "own_hybrids.yaml",
        "tasks": list(_TASKS),
        "objectives": {"score": "maximize", "flops": "minimize"},
        "budgets": dict(budgets),
        "proposer": proposer,
        "trials": trials,
        "batch": batch,
        "seed": seed,
        **(others or {}),
    }
    return Study.model_validate(written, context=_KINDS)


class OwnEvaluator:
    """Genes are the mixers of the four layers."""

    tasks = tuple(TaskInfo(label, label, "accuracy", {}) for label in _TASKS)

    def __init__(self, table: OwnTable):
        self._table = table
        self.genome = Genome(tuple(Gene(f"layer{n}", "choice", options=MIXERS) for n in range(N_LAYERS)))

    def size(self) -> tuple[float, bool]:
        return len(self._table.entries), True

    def enumerate(self) -> Iterator[dict[str, Any]]:
        for mixers in self._table.entries:
            yield {f"layer{n}": mixer for n, mixer in enumerate(mixers)}

    def candidate(self, genes: Genes) -> Candidate:
        entry = self._table.entries[self.genome.key(genes)]
        strip = tuple((mixer, "none") for mixer in entry.mixers)
        return Candidate(entry.hash, genes, strip, entry.costs, {"mixers": list(entry.mixers)})

    def baselines(self) -> list[Candidate]:
        return []

    def training(self, candidate: Candidate) -> list[Need]:
        return [self._need(candidate, label, seed) for label in _TASKS for seed in range(self._table.n_seeds)]

    def _need(self, candidate: Candidate, label: str, seed: int) -> Need:
        key = EvidenceKey("training", candidate.hash, label, "table", seed=seed)
        return Need(key, Job("train", label, {**candidate.payload, "task": label, "seed": seed}), label)

    def measurement(self, candidate: Candidate, *, final: bool) -> Need | None:
        return None

    def final(self, candidate: Candidate) -> list[Need]:
        return []

    def text_baselines(self) -> tuple[TextBaseline, ...]:
        return ()

    def dump(self, candidate: Candidate, *, comment: str) -> str:
        return f"# {comment}\n# {' '.join(candidate.payload['mixers'])}\n"

    def identity(self) -> Identity:
        return Identity({"space": "own_hybrids"})

    def provenance(self) -> dict[str, Any]:
        return {"target": {"table": TABLE.name}}


def look_up(table: OwnTable, job: Job) -> dict[str, Any]:
    """The result of a job."""
    entry = table.entries[tuple(job.payload["mixers"])]
    score = entry.scores[job.payload["task"]][job.payload["seed"]]
    figures = {"score": score, "loss": 1 - score, "metrics": {}, "seconds": 0.0}
    return {"status": "ok", "reason": "", **figures}


def evaluated(
    table: OwnTable, proposer: str, *, budgets: Mapping[str, str], trials: int, batch: int, seed: int
) -> list[Entry]:
    """Search the table; what was evaluated, in order."""
    study = study_of(proposer, budgets=budgets, trials=trials, batch=batch, seed=seed)
    _, trials = searched(study, OwnEvaluator(table), functools.partial(look_up, table))
    return [table.entries[tuple(t.document["payload"]["mixers"])] for t in trials if t.status == "done"]


def curve(table: OwnTable, found: Sequence[Entry | None], budgets: Mapping[str, Budget]) -> list[float]:
    """After each evaluation the hypervolume found, as a share of that of all entries within the budgets.

    None is a candidate that came to nothing.
    """
    whole = table.volume(table.within(budgets))
    return [
        table.volume(entry for entry in found[: n + 1] if entry is not None) / whole
        for n in range(len(found))
    ]
