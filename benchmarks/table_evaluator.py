"""A complete table as an ``Evaluator``: our own driver, rounds and ledger, with trainings that are looked up.

What a search sees of an architecture is the accuracy of one of its training seeds, drawn by the study's seed;
what it is judged by is the mean over all of them. Latency and parameters are closed-form costs here, so that
candidates beyond a budget are refused before they cost an evaluation.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from public_tables import Entry, Table

from archspec.closed import Closed
from archspec.study import Study, StudyKinds
from search import proposers
from search.evaluate import Candidate, Identity, Need, Unfit
from search.executors import Job
from search.front import TaskInfo, TextBaseline
from search.genome import Genes, Genome
from search.ledger import EvidenceKey
from search.pareto import Point, hypervolume

Measured = Literal["score", "latency", "size"]


@dataclass(frozen=True)
class Problem:
    """A table under two budgets; ``reference``, (least score, latency budget), bounds the hypervolume."""

    table: Table
    name: str
    latency_ms: float
    params: float
    reference: tuple[float, float]
    best: float  # hypervolume of all feasible entries
    feasible: float  # their share of the table

    def allows(self, entry: Entry) -> bool:
        """Whether an architecture keeps both budgets."""
        return entry.latency_ms <= self.latency_ms and entry.params <= self.params

    def ratio(self, points: list[Point]) -> float:
        """Hypervolume of ``points`` over that of the whole table."""
        least, latency_ms = self.reference
        return hypervolume(points, (-least, latency_ms)) / self.best


def true_point(entry: Entry) -> Point:
    """(-mean score, latency): smaller is better."""
    return (-entry.true_score, entry.latency_ms)


def problem(table: Table, name: str, *, latency_quantile: float, params_quantile: float) -> Problem:
    """Budgets at quantiles of all entries; the least score is the 5 % quantile of the feasible ones."""
    entries = list(table.entries.values())
    latency_ms = float(np.quantile([e.latency_ms for e in entries], latency_quantile))
    params = float(np.quantile([e.params for e in entries], params_quantile))
    feasible = [e for e in entries if e.latency_ms <= latency_ms and e.params <= params]
    least = float(np.quantile([e.true_score for e in feasible], 0.05))
    best = hypervolume([true_point(e) for e in feasible], (-least, latency_ms))
    share = len(feasible) / len(entries)
    return Problem(table, name, latency_ms, params, (least, latency_ms), best, share)


class TableTask(Closed):
    """What a training yields: the score and, where costs are learnt by trying, latency and size."""

    kind: Measured
    weight: float = 1.0


class NoRecipe(Closed):
    """A table has been trained already."""


_TASKS: tuple[Measured, ...] = ("score", "latency", "size")
KINDS = StudyKinds(dict.fromkeys(_TASKS, TableTask), proposers.kinds(), NoRecipe)


@dataclass(frozen=True)
class Variant:
    """What is left out of a search, or added: the rows of an ablation."""

    rejection: bool = True  # else both budgets are only known after an evaluation
    deduplication: bool = True  # else the same architecture may be evaluated again
    structure: bool = True  # else the predictor sees genes and costs, not the structure that they make
    warm: tuple[str, ...] = field(default=())  # keys of entries that are evaluated first


def study_of(
    problem: Problem, proposer: str, *, trials: int, batch: int, seed: int, variant: Variant
) -> Study:
    """The study; without rejection, latency and size are outcomes and their budgets are learnt."""
    latency, size = ("latency_ms", "params") if variant.rejection else ("loss.latency", "loss.size")
    written = {
        "archspec": 1,
        "study": problem.name,
        "space": "table.yaml",
        "tasks": ["score"] if variant.rejection else list(_TASKS),
        "objectives": {"score.score": "maximize", latency: "minimize"},
        "budgets": {latency: f"<= {problem.latency_ms!r}", size: f"<= {problem.params!r}"},
        "proposer": proposer,
        "trials": trials,
        "batch": batch,
        "seed": seed,
    }
    return Study.model_validate(written, context=KINDS)


class _Forgetful(Genome):
    """Never takes two genes for the same."""

    _calls = itertools.count()

    def key(self, genes: Genes) -> tuple[Any, ...]:
        return (*super().key(genes), next(self._calls))


class TableEvaluator:
    """Genes -> the table's entry. ``candidate`` gives the table's own spelling of the genes."""

    def __init__(self, problem: Problem, *, seed: int, variant: Variant = Variant()):
        self._problem, self._table, self._variant, self._seed = problem, problem.table, variant, seed
        self.genome = self._table.genome if variant.deduplication else _Forgetful(self._table.genome.genes)
        kinds = _TASKS[:1] if variant.rejection else _TASKS
        self.tasks = tuple(TaskInfo(kind, kind, "accuracy", {}) for kind in kinds)
        self._known: dict[tuple[Any, ...], Candidate] = {}
        self._n_made = itertools.count()

    def size(self) -> tuple[float, bool]:
        n = 1
        for gene in self.genome.genes:
            n *= len(gene.options)
        return n, self._variant.deduplication

    def enumerate(self) -> Iterator[dict[str, Any]]:
        return self._table.fillings()

    def candidate(self, genes: Genes) -> Candidate:
        if not self._variant.deduplication:
            return self._make(genes)
        spelling = self.genome.key(genes)
        if spelling not in self._known:
            self._known[spelling] = self._make(genes)
        return self._known[spelling]

    def _make(self, genes: Genes) -> Candidate:
        key = self._table.key(genes)
        if (entry := self._table.entries.get(key)) is None:
            raise Unfit("missing", "the table has no such architecture", hash=key)
        costs = {"latency_ms": entry.latency_ms, "params": entry.params} if self._variant.rejection else {}
        if self._variant.deduplication:
            hash, genes = key, entry.genes
        else:
            hash = f"{key}#{next(self._n_made)}"
        features = entry.features if self._variant.structure else None
        return Candidate(hash, genes, entry.strip, costs, {"key": key}, features=features)

    def baselines(self) -> list[Candidate]:
        from dataclasses import replace

        entries = [self._table.entries[key] for key in self._variant.warm]
        return [replace(self.candidate(e.genes), baseline=f"warm{n}") for n, e in enumerate(entries)]

    def training(self, candidate: Candidate) -> list[Need]:
        return [self._need(candidate, task.label) for task in self.tasks]

    def _need(self, candidate: Candidate, label: str) -> Need:
        key = EvidenceKey("training", candidate.hash, label, self._table.name, seed=self._seed)
        payload = {"key": candidate.payload["key"], "task": label, "seed": self._seed}
        return Need(key, Job("train", label, payload), label)

    def measurement(self, candidate: Candidate, *, final: bool) -> Need | None:
        return None

    def final(self, candidate: Candidate) -> list[Need]:
        return []

    def text_baselines(self) -> tuple[TextBaseline, ...]:
        return ()

    def dump(self, candidate: Candidate, *, comment: str) -> str:
        return f"# {comment}\n{candidate.payload['key']}\n"

    def identity(self) -> Identity:
        return Identity({"space": self._table.name})

    def provenance(self) -> dict[str, Any]:
        return {"target": {"table": self._table.source}}


def look_up(table: Table, payload: Mapping[str, Any]) -> dict[str, Any]:
    """The result of a job."""
    entry = table.entries[payload["key"]]
    loss = {"score": 0.0, "latency": entry.latency_ms, "size": entry.params}[payload["task"]]
    score = noisy_score(entry, payload["key"], payload["seed"])
    return {"status": "ok", "score": score, "loss": loss, "metrics": {}, "seconds": 0.0, "reason": ""}


def noisy_score(entry: Entry, key: str, seed: int) -> float:
    """The score of one training seed; which one depends on the study's seed and the architecture."""
    drawn = int.from_bytes(hashlib.sha256(f"{seed} {key}".encode()).digest()[:4], "big")
    return entry.scores[drawn % len(entry.scores)]
