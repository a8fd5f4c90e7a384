"""A search without torch: candidates from a table, jobs that take no time, and the same in real processes.

``python table_study.py drive OUT TRIALS SLEEP`` is a driver; its workers are table_worker's.
"""

from __future__ import annotations

import hashlib
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import table_worker
from table_worker import HANDLERS

from archspec.closed import Closed
from archspec.study import Study, StudyKinds
from search import proposers
from search.driver import Event, search
from search.evaluate import Candidate, Identity, Need, Unfit
from search.executors import Completion, Job
from search.executors.local import LocalExecutor
from search.front import TaskInfo, TextBaseline
from search.genome import Gene, Genes, Genome
from search.ledger import EvidenceKey
from search.rows import FINAL


class CopyTask(Closed):
    kind: Literal["copy"] = "copy"
    weight: float = 1.0


class ParityTask(Closed):
    kind: Literal["parity"] = "parity"
    weight: float = 1.0


class FakeRecipe(Closed):
    steps: int = 1


KINDS = StudyKinds({"copy": CopyTask, "parity": ParityTask}, proposers.kinds(), FakeRecipe)


def make_study(**changes: Any) -> Study:
    written = {
        "archspec": 1,
        "study": "table",
        "space": "table.yaml",
        "tasks": ["copy", "parity"],
        "objectives": {"score": "maximize", "latency_ms": "minimize"},
        "budgets": {"params": "<= 900"},
        "recipe": {},
        "proposer": "random",
        "trials": 10,
        "batch": 4,
    }
    return Study.model_validate(written | changes, context=KINDS)


class TableEvaluator:
    """Two layers of three mixers, a width, and a gene that changes nothing: 3 * 3 * 8 * 2 fillings."""

    tasks = (TaskInfo("copy", "copy", "accuracy", {}), TaskInfo("parity", "parity", "accuracy", {}))

    def __init__(self, *, space: str = "space", baselines: Mapping[str, Genes] | None = None):
        self.genome = Genome(
            (
                Gene("first", "choice", options=("attention", "mamba2", "pool")),
                Gene("second", "choice", options=("attention", "mamba2", "pool")),
                Gene("width", "int", low=1, high=8),
                Gene("dead", "choice", options=(0, 1)),
            )
        )
        self._space = space
        self._baselines = (
            baselines
            if baselines is not None
            else {"all_attention": {"first": "attention", "second": "attention", "width": 4, "dead": 0}}
        )

    def size(self) -> tuple[float, bool]:
        return 3 * 3 * 8 * 2, True

    def enumerate(self) -> Iterator[dict[str, Any]]:
        names = [gene.name for gene in self.genome.genes]
        ranges = [gene.options or range(int(gene.low), int(gene.high) + 1) for gene in self.genome.genes]
        for values in itertools.product(*ranges):
            yield dict(zip(names, values, strict=True))

    def candidate(self, genes: Genes) -> Candidate:
        if genes["first"] == "pool" and genes["width"] == 8:
            raise Unfit("invalid", "pool is at most 7 wide")
        living = {name: value for name, value in genes.items() if name != "dead"}
        found = hashlib.sha256(repr(sorted(living.items())).encode()).hexdigest()
        strip = tuple((genes[slot], "none") for slot in ("first", "second"))
        weight = {"attention": 100, "mamba2": 60, "pool": 20}
        params = genes["width"] * sum(weight[mixer] for mixer, _ in strip)
        return Candidate(found, genes, strip, {"params": params}, {"genes": living})

    def baselines(self) -> list[Candidate]:
        from dataclasses import replace

        return [replace(self.candidate(genes), baseline=name) for name, genes in self._baselines.items()]

    def training(self, candidate: Candidate) -> list[Need]:
        return [self._need("training", "train", candidate, label) for label in ("copy", "parity")]

    def measurement(self, candidate: Candidate, *, final: bool) -> Need | None:
        key = EvidenceKey("measurement", candidate.hash, "target", "eager", FINAL if final else "first")
        return Need(key, Job("measure", "latency", candidate.payload))

    def final(self, candidate: Candidate) -> list[Need]:
        return [self._need("final", "final", candidate, label) for label in ("copy", "parity")]

    def text_baselines(self) -> tuple[TextBaseline, ...]:
        return ()

    def dump(self, candidate: Candidate, *, comment: str) -> str:
        return f"# {comment}\narchspec: 1\n"

    def identity(self) -> Identity:
        return Identity({"space": self._space}, {"space": "another space"})

    def provenance(self) -> dict[str, Any]:
        return {"target": {"device": "table"}}

    def _need(self, kind: Any, do: str, candidate: Candidate, label: str) -> Need:
        key = EvidenceKey(kind, candidate.hash, label, "recipe")
        return Need(key, Job(do, label, {**candidate.payload, "task": label}, timeout_s=30.0), label)


class InlineExecutor:
    """Runs jobs in this process; ``break_`` may return another completion for a job."""

    def __init__(self, *, n_workers: int = 2, break_: Callable[[Job], Completion | None] = lambda job: None):
        self.n_workers = n_workers
        self.jobs: list[Job] = []  # everything that was run
        self.at_once: list[tuple[str, int]] = []  # what ran beside how many others
        self._waiting: list[Job] = []
        self._break = break_

    def submit(self, job: Job) -> None:
        assert len(self._waiting) < self.n_workers
        self._waiting.append(job)
        self.jobs.append(job)
        self.at_once.append((job.do, len(self._waiting)))

    def wait(self, timeout_s: float) -> list[Completion]:
        job = self._waiting.pop()  # the last one first: order must not matter
        return [self._break(job) or Completion(job, "done", HANDLERS[job.do](job.payload), seconds=0.1)]

    def cancel_all(self) -> None:
        self._waiting.clear()

    def close(self) -> None:
        self.cancel_all()


def _drive(out: str, trials: str, sleep: str) -> None:
    def tell(event: Event) -> None:
        print(event.kind, event.text, flush=True)  # noqa: T201

    def workers(folder: Path) -> LocalExecutor:
        log = str(folder / "begun.log")
        argv = [sys.executable, table_worker.__file__, "worker", log, sleep]
        return LocalExecutor(n_workers=2, argv=argv, log=folder / "workers.log")

    search(make_study(trials=int(trials)), TableEvaluator(), Path(out), make_executor=workers, listen=tell)


if __name__ == "__main__":
    assert sys.argv[1] == "drive"
    _drive(*sys.argv[2:])
