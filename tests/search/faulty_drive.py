"""A driver in a process of its own, with workers that misbehave: ``python faulty_drive.py OUT OPTIONS``.

``OPTIONS`` is JSON, see ``Options``. A ``SpecError`` goes to standard error, and the exit code is 1.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from table_study import TableEvaluator, make_study

from archspec.errors import SpecError
from search.driver import Event, search
from search.evaluate import Candidate, Need
from search.executors.local import LocalExecutor
from search.ledger import Ledger

WORKER = Path(__file__).with_name("faulty_worker.py")


@dataclass(frozen=True)
class Options:
    """What happens in a driver."""

    trials: int
    sleep: float = 0.0  # of each training
    workers: int = 2
    seed: int = 0
    storage: str | None = None
    timeout_s: float | None = None  # of the search
    job_timeout_s: float = 30.0
    memory: int | None = None
    faults: dict[str, str] = field(default_factory=dict)
    die: tuple[str, str, int] | None = None  # ("before" | "after", a method of the ledger, its n-th call)

    @property
    def argument(self) -> str:
        """As the driver's process takes it."""
        return json.dumps(asdict(self))


class Limited(TableEvaluator):
    """The table's candidates with limits of a test's own."""

    def __init__(self, options: Options):
        good = {"first": "attention", "second": "mamba2", "width": 8, "dead": 0}
        super().__init__(space=f"space {options.seed}", baselines={"good": good})
        self._options = options

    def training(self, candidate: Candidate) -> list[Need]:
        limits = {"timeout_s": self._options.job_timeout_s, "memory": self._options.memory}
        needs = super().training(candidate)
        return [replace(need, job=replace(need.job, **limits)) for need in needs]  # type: ignore[arg-type]


def drive(out: Path, options: Options) -> None:
    if options.die is not None:
        _die_at(*options.die)

    def tell(event: Event) -> None:
        print(event.kind, event.text, flush=True)  # noqa: T201

    def workers(folder: Path) -> LocalExecutor:
        log = str(out.with_name(f"{out.name}.begun"))  # beside the folder, which may be full
        argv = [sys.executable, str(WORKER), log, str(options.sleep), json.dumps(options.faults)]
        return LocalExecutor(n_workers=options.workers, argv=argv, log=folder / "workers.log")

    search(
        make_study(trials=options.trials, seed=options.seed, budgets={}),
        Limited(options),
        out,
        make_executor=workers,
        timeout_s=options.timeout_s,
        storage=options.storage,
        listen=tell,
    )


def _die_at(when: str, name: str, n: int) -> None:
    """SIGKILL to ourselves at the ``n``-th call of a method of the ledger."""
    kept: Callable[..., Any] = getattr(Ledger, name)
    calls: list[str] = []

    def deadly(self: Ledger, *given: Any, **named: Any) -> Any:
        calls.append(name)
        if len(calls) == n and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        found = kept(self, *given, **named)
        if len(calls) == n:
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    setattr(Ledger, name, deadly)


if __name__ == "__main__":
    try:
        drive(Path(sys.argv[1]), Options(**json.loads(sys.argv[2])))
    except SpecError as error:
        sys.exit(str(error))
