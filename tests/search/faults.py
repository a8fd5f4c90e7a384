"""What the tests with real faults have in common: drivers to start, and what has to be true after any fault."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from faulty_drive import Options
from faulty_worker import spelling

from archspec.errors import SpecError
from search.folder import read_ledger
from search.ledger import Ledger, Trial

ROOT = Path(__file__).parents[2]
DRIVE = Path(__file__).with_name("faulty_drive.py")


@contextmanager
def driver(
    out: Path, options: Options, *, first: Callable[[], None] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """A driver at work; ``first`` runs in its process before it begins. Nothing of it outlives the block."""
    process = subprocess.Popen(
        [sys.executable, str(DRIVE), str(out), options.argument],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        preexec_fn=first,
    )
    try:
        yield process
    finally:
        for worker in workers_of(process):
            worker.kill()
        process.kill()
        process.communicate()


def run(out: Path, options: Options, *, first: Callable[[], None] | None = None) -> tuple[int, str, str]:
    """A driver to its end: exit code, standard output, standard error; it leaves no process behind."""
    with driver(out, options, first=first) as process:
        texts = process.communicate(timeout=60)
        until(lambda: not left_over(out))
        return process.returncode, *texts


def until(condition: Callable[[], bool], *, seconds: float = 60.0) -> None:
    """Wait for something that has to happen."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The workers of a driver, dead ones not counted."""
    try:
        children = psutil.Process(process.pid).children()
        return [child for child in children if child.status() != psutil.STATUS_ZOMBIE]
    except psutil.NoSuchProcess:
        return []


def left_over(out: Path) -> list[int]:
    """Processes whose command names the folder's log of trainings."""
    log = str(_log(out))
    found = []
    for process in psutil.process_iter(["pid", "cmdline", "status"]):
        if process.info["status"] != psutil.STATUS_ZOMBIE and log in (process.info["cmdline"] or ()):
            found.append(process.info["pid"])
    return found


def begun(out: Path) -> Counter[str]:
    """How often each training was begun."""
    lines = _log(out).read_text(encoding="utf-8").splitlines() if _log(out).exists() else []
    return Counter(line.partition(" ")[2] for line in lines)


def trials(out: Path) -> list[Trial]:
    """What the ledger holds; nothing where there is none yet."""
    try:
        ledger = read_ledger(out)
    except SpecError:
        return []
    try:
        return ledger.trials()
    finally:
        ledger.close()


def recorded(out: Path) -> set[str]:
    """Trainings with a result in the ledger, as the log names them."""
    ledger = read_ledger(out)
    try:
        genes = {trial.spec: trial.document["genes"] for trial in ledger.trials()}
        genes |= {asked.spec: asked.document["genes"] for asked in ledger.pending()}
        keys = [key for key, _ in ledger.all_evidence("training")]
        return {spelling(key.subject, genes[key.spec]) for key in keys}
    finally:
        ledger.close()


def assert_whole(out: Path, *, n_trials: int) -> Ledger:
    """A finished search: every trial once, nothing pending, every result there, the budget kept to the last."""
    ledger = read_ledger(out)
    found = ledger.trials()
    trained = [trial for trial in found if trial.status in ("done", "failed")]
    assert [trial.number for trial in found] == list(range(len(found)))
    assert ledger.pending() == []
    assert sum(trial.document["baseline"] is None for trial in trained) == n_trials
    assert len({trial.spec for trial in trained}) == len(trained), "an architecture was counted twice"
    keys = {(key.spec, key.subject) for key, _ in ledger.all_evidence("training")}
    for trial in trained:
        if trial.status == "done":
            assert {(trial.spec, "copy"), (trial.spec, "parity")} <= keys
    assert ledger.runs()[-1]["event"] == "end"
    assert left_over(out) == []
    return ledger


def _log(out: Path) -> Path:
    return out.with_name(f"{out.name}.begun")
