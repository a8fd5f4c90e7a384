"""The table of ``table_study`` with rungs: scores at a low rung that agree with the top's, or do not.

``python rung_table.py worker LOG SLEEP`` is a worker, ``python rung_table.py drive OUT SLEEP`` a driver.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from table_study import TableEvaluator, make_study
from table_worker import HANDLERS, train

from archspec.fidelity import Fidelity
from search.driver import Event, search
from search.evaluate import Candidate, Need
from search.executors import Job
from search.executors.local import LocalExecutor

Proxy = Literal["faithful", "size", "noise", "late"]


class RungTable(TableEvaluator):
    """``proxy`` says what a low rung shows: the truth but for its level, the size alone, nothing, or the truth late."""

    def __init__(self, fidelity: Fidelity, *, proxy: Proxy = "faithful", **others: Any):
        super().__init__(**others)
        self._fidelity, self._proxy = fidelity, proxy
        self.discarded: list[str] = []

    def candidate(self, genes: Mapping[str, Any]) -> Candidate:
        found = super().candidate(genes)
        # The size says nothing about the table's scores, so that a faithful rung can beat it.
        size = int(found.hash[:6], 16)
        return replace(found, costs={**found.costs, "flops": size})

    def training(self, candidate: Candidate) -> list[Need]:
        return self.rung(candidate, len(self._fidelity.rungs) - 1)

    def rung(self, candidate: Candidate, index: int) -> list[Need]:
        rung = self._fidelity.rungs[index]
        needs = []
        for need in super().training(candidate):
            key = replace(need.key, fidelity=self._fidelity.label(index, 1))
            payload = {**need.job.payload, "steps": str(rung.steps), "proxy": self._proxy}
            run = f"{candidate.hash} {need.label}"
            job = Job("train", need.job.label, {**payload, "directory": run}, timeout_s=30.0)
            needs.append(Need(key, job, need.label))
        return needs

    def discard(self, candidate: Candidate) -> None:
        self.discarded.append(candidate.hash)


def train_to_rung(payload: Mapping[str, Any]) -> dict[str, Any]:
    """The table's score at the top, and below it what the proxy shows."""
    document = train(payload)
    steps = Fraction(payload["steps"])
    document["seconds"] *= float(steps)
    if steps != 1:
        genes = payload["genes"]
        hidden = int(hashlib.sha256(repr(sorted(genes.items())).encode()).hexdigest()[:6], 16) / 16**6
        shown = {"faithful": document["score"] / 2, "size": genes["width"] / 10, "noise": hidden}
        shown["late"] = shown["faithful" if steps > Fraction(1, 9) else "noise"]
        document["score"] = shown[payload["proxy"]]
        document["loss"] = 1 - document["score"]
    return document


RUNG_HANDLERS = {**HANDLERS, "train": train_to_rung}
STUDY: dict[str, Any] = {
    "fidelity": {"rungs": ["1/9", "full"], "promote": "1/3", "audit": 8},
    "trials": 20,
    "batch": 6,
    "budgets": {},
    "objectives": {"score": "maximize", "latency_ms": "minimize"},
}


def _work(log: str, sleep: str) -> None:
    from search.worker import serve

    def slow_train(payload: Mapping[str, Any]) -> Mapping[str, Any]:
        genes = payload["genes"]
        with Path(log).open("a", encoding="utf-8") as file:
            file.write(f"{payload['task']} {sorted(genes.items())} {payload['steps']}\n")
        time.sleep(float(sleep))
        return train_to_rung(payload)

    serve({**RUNG_HANDLERS, "train": slow_train})


def _drive(out: str, sleep: str) -> None:
    def tell(event: Event) -> None:
        print(event.kind, event.text, flush=True)  # noqa: T201

    def workers(folder: Path) -> LocalExecutor:
        argv = [sys.executable, __file__, "worker", str(folder / "begun.log"), sleep]
        return LocalExecutor(n_workers=2, argv=argv, log=folder / "workers.log")

    study = make_study(**STUDY)
    search(study, RungTable(study.fidelity), Path(out), make_executor=workers, listen=tell)


if __name__ == "__main__":
    {"worker": _work, "drive": _drive}[sys.argv[1]](*sys.argv[2:])
