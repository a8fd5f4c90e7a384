"""Real processes that are killed: nothing finished is lost or run twice, nothing is left running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from table_study import TableEvaluator, make_study

from archspec.errors import SpecError
from search.driver import search
from search.executors import Job
from search.executors.local import LocalExecutor
from search.ledger import FILE_NAME, Ledger
from search.solve import load_result

SCRIPT = Path(__file__).with_name("table_study.py")
WORKER = SCRIPT.with_name("table_worker.py")
ROOT = SCRIPT.parents[2]


def drive(out: Path, *, trials: int, sleep: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), "drive", str(out), str(trials), str(sleep)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def until(condition: Callable[[], bool], *, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def finished(out: Path) -> set[int]:
    """Trials that the ledger holds; none while there is no ledger."""
    try:
        ledger = Ledger(out / FILE_NAME, writable=False)
    except SpecError:
        return set()
    try:
        return {trial.number for trial in ledger.trials() if trial.status == "done"}
    finally:
        ledger.close()


def begun(out: Path) -> list[str]:
    """Every training that a worker began, without its process."""
    log = out / "begun.log"
    return [line.partition(" ")[2] for line in log.read_text().splitlines()] if log.exists() else []


def workers_of(pid: int) -> list[psutil.Process]:
    return [child for child in psutil.Process(pid).children() if "worker" in child.cmdline()]


@pytest.fixture
def driver() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def start(out: Path, *, trials: int, sleep: float) -> subprocess.Popen[str]:
        started.append(drive(out, trials=trials, sleep=sleep))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


Start = Callable[..., subprocess.Popen[str]]


def test_a_killed_driver_goes_on_where_it_was(driver: Start, tmp_path: Path) -> None:
    out = tmp_path / "out"
    recorded: set[tuple[str, str]] = set()
    for wanted in (2, 5):
        process = driver(out, trials=8, sleep=0.15)
        until(lambda wanted=wanted: len(finished(out)) >= wanted)  # type: ignore[misc]
        workers = workers_of(process.pid)
        process.send_signal(signal.SIGKILL)
        process.wait()
        until(lambda workers=workers: not any(worker.is_running() for worker in workers))  # type: ignore[misc]
        ledger = Ledger(out / FILE_NAME, writable=False)
        recorded |= {(key.spec, key.subject) for key, _ in ledger.all_evidence("training")}
        ledger.close()
    before, n_begun = finished(out), len(begun(out))
    process = driver(out, trials=8, sleep=0.0)
    assert process.wait(timeout=60) == 0
    result = load_result(out)
    assert before <= {row.trial for row in result.trained}
    assert len(result.trained) == 9
    assert result.complete
    assert not any(row.status == "failed" for row in result.rows)
    names = {row.hash: row for row in result.rows if row.status == "done"}
    again = set(begun(out)[n_begun:])
    for spec, task in recorded:
        genes = names[spec].genes
        assert f"{task} {genes['first']} {genes['second']} {genes['width']}" not in again


def test_a_resumed_search_finds_what_an_uninterrupted_one_finds(driver: Start, tmp_path: Path) -> None:
    for folder, kills in (("killed", (1, 4)), ("whole", ())):
        out = tmp_path / folder
        for wanted in kills:
            process = driver(out, trials=6, sleep=0.1)
            until(lambda out=out, wanted=wanted: len(finished(out)) >= wanted)  # type: ignore[misc]
            process.kill()
            process.wait()
        assert driver(out, trials=6, sleep=0.0).wait(timeout=60) == 0

    def rows(folder: str) -> list[tuple[int, str, str, bool]]:
        return [(r.trial, r.hash, r.status, r.on_front) for r in load_result(tmp_path / folder).rows]

    assert rows("killed") == rows("whole")


def test_a_killed_worker_costs_neither_the_search_nor_its_trial(driver: Start, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = driver(out, trials=6, sleep=0.3)
    until(lambda: len(begun(out)) >= 3)
    victim = workers_of(process.pid)[0]
    victim.kill()
    assert process.wait(timeout=60) == 0
    result = load_result(out)
    assert len(result.trained) == 7
    assert not any(row.status == "failed" for row in result.rows)
    ledger = Ledger(out / FILE_NAME, writable=False)
    n_dead = sum(ledger.deaths(row.hash) for row in result.trained)
    ledger.close()
    assert n_dead <= 1, "at most the one we killed (it may have been between two jobs)"


def test_a_second_driver_refuses_and_names_the_first(driver: Start, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = driver(out, trials=30, sleep=0.3)
    until(lambda: len(begun(out)) >= 1)
    with pytest.raises(SpecError, match=f"searched by another driver .process {process.pid} on"):
        search(make_study(), TableEvaluator(), out, make_executor=_no_executor)


def test_the_lock_of_a_killed_driver_is_not_in_the_way(driver: Start, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = driver(out, trials=30, sleep=0.3)
    until(lambda: len(begun(out)) >= 1)
    process.kill()
    process.wait()
    assert driver(out, trials=2, sleep=0.0).wait(timeout=60) == 0


def test_ctrl_c_ends_driver_and_workers_at_once(driver: Start, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = driver(out, trials=30, sleep=30)
    until(lambda: len(begun(out)) >= 2)
    workers = workers_of(process.pid)
    assert len(workers) == 2
    process.send_signal(signal.SIGINT)
    process.wait(timeout=20)
    until(lambda: not any(worker.is_running() for worker in workers))


def _no_executor(folder: Path) -> LocalExecutor:
    raise AssertionError("no executor is needed")


def executor(tmp_path: Path, *, sleep: float = 0.0) -> LocalExecutor:
    argv = [sys.executable, str(WORKER), "worker", str(tmp_path / "begun.log"), str(sleep)]
    return LocalExecutor(n_workers=1, argv=argv, log=tmp_path / "workers.log")


def job(**changes: object) -> Job:
    payload = {"genes": {"first": "pool", "second": "pool", "width": 1}, "task": "copy"}
    return Job("train", "copy", payload, **changes)  # type: ignore[arg-type]


def test_a_job_over_its_time_is_stopped_and_the_next_one_runs(tmp_path: Path) -> None:
    with_limit = executor(tmp_path, sleep=60)
    try:
        with_limit.submit(job(timeout_s=0.3))
        (completion,) = with_limit.wait(60)
        assert (completion.outcome, completion.reason) == ("timeout", "stopped after 0.3 s")
        with_limit.submit(Job("measure", "latency", {"genes": {"width": 3}}))
        (completion,) = with_limit.wait(60)
        assert completion.outcome == "done"
    finally:
        with_limit.close()


def test_a_job_over_its_memory_is_stopped(tmp_path: Path) -> None:
    with_limit = executor(tmp_path, sleep=60)
    try:
        with_limit.submit(job(memory=1 << 20))
        (completion,) = with_limit.wait(60)
        assert completion.outcome == "memory"
        assert completion.reason.endswith("MiB of memory; its limit is 1 MiB")
    finally:
        with_limit.close()


def test_a_killed_job_says_by_which_signal(tmp_path: Path) -> None:
    one = executor(tmp_path, sleep=60)
    try:
        one.submit(job())
        until(lambda: len(begun(tmp_path)) == 1)
        pid = int((tmp_path / "begun.log").read_text().split()[0])
        os.kill(pid, signal.SIGKILL)
        (completion,) = one.wait(60)
        assert (completion.outcome, completion.reason) == ("died", "its worker was killed by SIGKILL")
    finally:
        one.close()


def test_an_exception_in_a_job_leaves_its_worker_alive(tmp_path: Path) -> None:
    one = executor(tmp_path)
    try:
        one.submit(Job("measure", "latency", {}))
        (completion,) = one.wait(60)
        assert (completion.outcome, completion.reason) == ("error", "KeyError: 'genes'")
        worker = psutil.Process(os.getpid()).children()[0]
        one.submit(job())
        (completion,) = one.wait(60)
        assert completion.outcome == "done"
        assert worker.is_running()
    finally:
        one.close()
    assert not worker.is_running()


def test_workers_that_cannot_start_end_the_search_with_their_message(tmp_path: Path) -> None:
    broken = LocalExecutor(
        n_workers=1, argv=[sys.executable, "-c", "raise SystemExit('no such model')"], log=tmp_path / "log"
    )
    try:
        broken.submit(job())
        with pytest.raises(SpecError, match=r"a worker could not start \(exit code 1\): no such model"):
            broken.wait(60)
    finally:
        broken.close()
