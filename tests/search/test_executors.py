"""One contract for every way to run jobs, kept with real processes; and searches that many workers share."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import psutil
import pytest
from table_study import TableEvaluator, make_study

from archspec.errors import SpecError
from search import executors
from search.driver import search
from search.executors import Completion, Executor, Job, Setup

WORKER = Path(__file__).with_name("table_worker.py")
KINDS = executors.kinds()
Open = Callable[..., Executor]


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """One Ray for all tests: a start takes seconds."""
    from search.executors.ray import _connect, _import_ray

    if " " in sys.executable:
        pytest.skip("Ray starts no workers with a Python whose path has a space")
    ray = _import_ray()
    assert _connect(ray, None)
    yield ray
    ray.shutdown()
    until(lambda: not [p for p in psutil.Process().children(recursive=True) if "ray" in " ".join(words(p))])


@pytest.fixture(params=KINDS)
def open_(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Open an executor of a kind, whose trainings sleep; its processes are gone after the test."""
    kind: str = request.param
    if kind == "ray":
        request.getfixturevalue("ray")
    opened: list[Executor] = []

    def start(*, n_workers: int = 1, sleep: float = 0.0) -> Executor:
        opened.append(open_kind(kind, tmp_path, n_workers=n_workers, sleep=sleep))
        return opened[-1]

    yield start
    for executor in opened:
        executor.close()
    until(lambda: not workers(tmp_path))


def open_kind(kind: str, folder: Path, *, n_workers: int, sleep: float = 0.0) -> Executor:
    worker = (str(WORKER), "worker", str(folder / "begun.log"), str(sleep))
    given = {"ray": ["cpus=0.1"], "submitit": ["cluster=local"]}.get(kind, [])
    found = executors.find_kind(kind)
    return found.open(Setup(folder, worker, n_workers, 1, "cpu"), executors.read_options(found, given))


def workers(folder: Path) -> list[psutil.Process]:
    """The worker processes of the executors in ``folder``, whoever is their parent."""
    return [process for process in psutil.process_iter() if str(folder / "begun.log") in words(process)]


def words(process: psutil.Process) -> list[str]:
    """The command line; nothing where the process has ended meanwhile."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def until(condition: Callable[[], bool], *, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def train(width: int = 1, **changes: Any) -> Job:
    payload = {"genes": {"first": "pool", "second": "pool", "width": width}, "task": "copy"}
    return Job("train", "copy", payload, **changes)


def begun(folder: Path) -> list[str]:
    log = folder / "begun.log"
    return log.read_text().splitlines() if log.exists() else []


def one(executor: Executor, job: Job) -> Completion:
    """The one completion of a job; nothing comes after it."""
    executor.submit(job)
    completion = finished(executor)
    assert completion.job is job
    return completion


def finished(executor: Executor) -> Completion:
    """The one completion of what runs."""
    found: list[Completion] = []
    until(lambda: bool(found.extend(executor.wait(1)) or found))
    (completion,) = found
    return completion


def test_every_job_completes_exactly_once(open_: Open, tmp_path: Path) -> None:
    executor = open_(n_workers=2)
    jobs = [train(width) for width in range(1, 6)]
    waiting, done = list(jobs), []
    running = 0
    while waiting or running:
        while waiting and running < 2:
            executor.submit(waiting.pop(0))
            running += 1
        found = executor.wait(10)
        running -= len(found)
        done += found
    assert executor.wait(0.2) == []
    assert {id(completion.job) for completion in done} == set(map(id, jobs))
    assert len(done) == len(begun(tmp_path)) == 5
    assert {completion.outcome for completion in done} == {"done"}
    scores = {c.job.payload["genes"]["width"]: c.result["score"] for c in done if c.result is not None}
    assert scores == {width: pytest.approx(0.1 + 0.02 * width) for width in range(1, 6)}


def test_an_error_has_its_reason_and_the_next_job_runs(open_: Open) -> None:
    executor = open_()
    failed = one(executor, Job("measure", "latency", {}))
    assert (failed.outcome, failed.reason) == ("error", "KeyError: 'genes'")
    assert one(executor, train()).outcome == "done"


def test_a_killed_worker_is_a_death_and_the_next_job_runs(open_: Open, tmp_path: Path) -> None:
    executor = open_(sleep=1.0)
    executor.submit(train())
    until(lambda: bool(executor.wait(0.05)) or len(begun(tmp_path)) == 1)
    os.kill(int(begun(tmp_path)[0].split()[0]), signal.SIGKILL)
    completion = finished(executor)
    assert (completion.outcome, completion.reason) == ("died", "its worker was killed by SIGKILL")
    assert one(executor, train()).outcome == "done"
    assert len(begun(tmp_path)) == 2, "nobody but the driver runs a job again"


def kill_host(folder: Path) -> None:
    """Once a training has begun, SIGKILL the process that holds its worker on the cluster's machine."""
    until(lambda: bool(begun(folder)))
    os.kill(psutil.Process(int(begun(folder)[0].split()[0])).ppid(), signal.SIGKILL)


@pytest.mark.parametrize("open_", ["ray", "submitit"], indirect=True)
def test_a_killed_host_is_a_death_its_worker_ends_and_the_next_job_runs(open_: Open, tmp_path: Path) -> None:
    executor = open_(sleep=60)
    executor.submit(train())
    killer = Thread(target=kill_host, args=(tmp_path,))
    killer.start()
    completion = finished(executor)
    killer.join()
    assert completion.outcome == "died"
    assert completion.reason.startswith(("its worker on Ray ended: ", "SLURM job "))
    until(lambda: not workers(tmp_path))
    assert one(executor, Job("measure", "latency", {"genes": {"width": 3}})).outcome == "done"


def test_ray_and_a_python_below_a_space(monkeypatch: pytest.MonkeyPatch) -> None:
    from search.executors.ray import _connect

    monkeypatch.setattr(sys, "executable", "/a folder/bin/python")
    with pytest.raises(SpecError, match="has a space: /a folder/bin/python"):
        _connect(None, None)


def test_a_search_on_ray_tries_again_what_died_with_its_host(ray: Any, tmp_path: Path) -> None:
    killer = Thread(target=kill_host, args=(tmp_path,))
    killer.start()
    result = search(
        make_study(trials=1),
        TableEvaluator(),
        tmp_path,
        make_executor=lambda out: open_kind("ray", out, n_workers=1, sleep=0.5),
    )
    killer.join()
    assert [row.status for row in result.rows] == ["done"] * len(result.rows)
    assert result.complete
    again = [line.split()[1:] for line in begun(tmp_path)]
    assert len(again) == 2 * len(result.trained) + 1
    assert again[0] == again[1], "the one that died, before anything else"


def test_time_and_memory_are_limited(open_: Open) -> None:
    executor = open_(sleep=60)
    late = one(executor, train(timeout_s=0.3))
    assert (late.outcome, late.reason) == ("timeout", "stopped after 0.3 s")
    fat = one(executor, train(memory=1 << 20))
    assert fat.outcome == "memory"
    assert fat.reason.endswith("its limit is 1 MiB")


def test_cancelled_jobs_end_and_do_not_complete(open_: Open, tmp_path: Path) -> None:
    executor = open_(n_workers=2, sleep=60)
    executor.submit(train(1))
    executor.submit(train(2))
    until(lambda: bool(executor.wait(0.05)) or len(begun(tmp_path)) == 2)
    executor.cancel_all()
    until(lambda: not workers(tmp_path))
    assert executor.wait(0.5) == []
    executor.submit(train(3))
    until(lambda: bool(executor.wait(0.05)) or len(begun(tmp_path)) == 3)
    executor.close()
    until(lambda: not workers(tmp_path))
    assert not list(tmp_path.glob(".site-*"))


def test_an_unknown_kind_or_option_is_told_with_what_was_meant() -> None:
    with pytest.raises(SpecError, match="unknown executor 'rya'"):
        executors.find_kind("rya")
    with pytest.raises(SpecError, match="executor 'ray' has no option 'adress'"):
        executors.read_options(executors.find_kind("ray"), ["adress=auto"])
    with pytest.raises(SpecError, match="KEY=VALUE, got 'nonsense'") as caught:
        executors.read_options(executors.find_kind("ray"), ["nonsense"])
    assert caught.value.problems[0].hint == "its options: address, cpus, gpus, start_s"


def test_two_ray_workers_and_four_local_ones_find_the_same(ray: Any, tmp_path: Path) -> None:
    def rows(kind: str, n_workers: int) -> list[tuple[int, str, str, bool]]:
        folder = tmp_path / kind
        result = search(
            make_study(trials=8),
            TableEvaluator(),
            folder,
            make_executor=lambda out: open_kind(kind, out, n_workers=n_workers),
        )
        assert len(begun(folder)) == 2 * len(result.trained), "each training once"
        return [(row.trial, row.hash, row.status, row.on_front) for row in result.rows]

    assert rows("ray", 2) == rows("local", 4)
    until(lambda: not workers(tmp_path / "ray") and not workers(tmp_path / "local"))
