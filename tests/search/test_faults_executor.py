"""What a driver that was held up, a start that was cut short and a worker's full disk do not cost."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from faults import until
from faulty_drive import WORKER
from table_study import InlineExecutor, TableEvaluator, make_study

from archspec.errors import SpecError
from search.dispatch import Dispatcher
from search.driver import search
from search.evaluate import Need
from search.executors import Completion, Job
from search.executors.local import LocalExecutor
from search.ledger import FILE_NAME, EvidenceKey, Ledger

GENES = {"first": "pool", "second": "pool", "width": 7}


def job(*, timeout_s: float = 30.0) -> Job:
    return Job("train", "copy", {"genes": GENES, "task": "copy"}, timeout_s=timeout_s)


def test_a_job_that_was_through_while_nobody_looked_was_in_time(tmp_path: Path) -> None:
    log = tmp_path / "begun"
    argv = [sys.executable, str(WORKER), str(log), "0.5", "{}"]
    executor = LocalExecutor(n_workers=1, argv=argv, log=tmp_path / "log")
    try:
        executor.submit(job(timeout_s=1.0))
        (worker,) = executor._workers
        until(lambda: executor.wait(0.0) == [] and worker.since is not None)  # hears that it has started
        time.sleep(1.5)
        (completion,) = executor.wait(60)
        assert completion.outcome == "done"
    finally:
        executor.close()


def test_a_worker_killed_before_it_was_ready_is_replaced(tmp_path: Path) -> None:
    once = (
        "import os, pathlib, signal, sys; marker = pathlib.Path(sys.argv[1])\n"
        "if not marker.exists(): marker.touch(); os.kill(os.getpid(), signal.SIGKILL)\n"
        "os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"
    )
    argv = [
        sys.executable,
        "-c",
        once,
        str(tmp_path / "marker"),
        str(WORKER),
        str(tmp_path / "begun"),
        "0",
        "{}",
    ]
    executor = LocalExecutor(n_workers=1, argv=argv, log=tmp_path / "log")
    try:
        executor.submit(job())
        (completion,) = executor.wait(60)
        assert completion.outcome == "done"
    finally:
        executor.close()


def test_workers_that_are_always_killed_at_their_start_end_the_search(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"]
    executor = LocalExecutor(n_workers=1, argv=argv, log=tmp_path / "log")
    try:
        executor.submit(job())
        with pytest.raises(SpecError, match="a worker could not start"):
            until(lambda: bool(executor.wait(1)))
    finally:
        executor.close()


def test_a_disk_that_is_full_for_a_worker_fails_no_candidate(tmp_path: Path) -> None:
    full = "SpecError: out/model: cannot write: No space left on device"
    executor = InlineExecutor(
        break_=lambda job: Completion(job, "error", reason=full) if job.do == "train" else None
    )
    with pytest.raises(SpecError, match="the disk is full") as caught:
        search(make_study(), TableEvaluator(), tmp_path, make_executor=lambda folder: executor)
    assert "make room" in str(caught.value)
    ledger = Ledger(tmp_path / FILE_NAME, writable=False)
    assert [trial for trial in ledger.trials() if trial.status == "failed"] == []
    assert ledger.pending()
    ledger.close()


@pytest.mark.parametrize("is_here", [True, False], ids=["own folder", "another folder"])
def test_a_final_check_reads_the_weights_where_they_were_trained(tmp_path: Path, is_here: bool) -> None:
    ledger = Ledger(tmp_path / FILE_NAME)
    own, other = tmp_path / "own", tmp_path / "other"
    ((own if is_here else other) / "model").mkdir(parents=True)
    key = EvidenceKey("training", "spec", "copy", "recipe")
    ledger.add_evidence(key, {"status": "ok", "directory": str(other), "label": "copy"})
    payload = {"genes": GENES, "task": "copy", "directory": str(own)}
    need = Need(replace(key, kind="final"), Job("final", "copy", payload), "copy")
    executor = InlineExecutor()
    Dispatcher(ledger, executor).run({0: [need]}, at_once=1, settle=lambda number, failure: None)
    ledger.close()
    assert executor.jobs[0].payload["directory"] == str(own if is_here else other)
