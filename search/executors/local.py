"""Warm worker processes on this machine, replaced when they die.

A worker is one process in a session of its own (the terminal's Ctrl-C reaches the driver alone). A job that
runs over its time or memory costs its worker's life and nothing else: memory is watched from outside, since
limits on address space break CUDA.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import psutil

from archspec.errors import SpecError
from search.executors import Completion, Job, Kind, Options, Outcome, Setup

_LOOK_S = 0.2  # between two looks at clock and memory
_START_S = 300.0
_MOST_FALSE_STARTS = 3  # killed one after the other before they were ready


class Local(Kind):
    """The processors of this machine."""

    kind = "local"

    @classmethod
    def open(cls, setup: Setup, options: Options) -> LocalExecutor:
        """Warm workers, each started when it is first needed."""
        return LocalExecutor(
            n_workers=setup.n_workers,
            argv=[sys.executable, *setup.worker],
            log=setup.folder / "workers.log",
            threads=setup.threads,
        )


class LocalExecutor:
    """``argv`` starts one worker; ``log`` collects what workers write to standard error."""

    def __init__(self, *, n_workers: int, argv: Sequence[str], log: Path, threads: int = 1):
        self.n_workers = n_workers
        self._argv = list(argv)
        self._log = log
        self._threads = threads
        self._messages: queue.Queue[tuple[_Worker, dict[str, Any] | None]] = queue.Queue()
        self._workers: list[_Worker] = []
        self._next_id = 0
        self._n_false_starts = 0

    def submit(self, job: Job) -> None:
        """Give ``job`` to an idle worker, or start one."""
        worker = next((worker for worker in self._workers if worker.job is None), None)
        if worker is None:
            assert len(self._workers) < self.n_workers, "more jobs than workers"
            worker = _Worker(self._argv, self._log, self._threads, self._messages)
            self._workers.append(worker)
        self._next_id += 1
        worker.give(job, self._next_id)

    def wait(self, timeout_s: float) -> list[Completion]:
        """Completed jobs; looks at clock and memory of the running ones meanwhile."""
        deadline = time.monotonic() + timeout_s
        while True:
            done = self._drain(0.0)  # first: who has finished while nobody looked was in time
            done += [c for c in map(self._over_limit, list(self._workers)) if c is not None]
            left = deadline - time.monotonic()
            if not done and left > 0:
                done = self._drain(min(_LOOK_S, left))
            if done or left <= 0:
                return done

    def cancel_all(self) -> None:
        """Kill the workers that have a job."""
        for worker in [worker for worker in self._workers if worker.job is not None]:
            self._retire(worker)

    def close(self) -> None:
        """Kill every worker."""
        for worker in list(self._workers):
            self._retire(worker)

    def _drain(self, timeout_s: float) -> list[Completion]:
        """Completions among the messages that are there, after waiting for the first one."""
        done = []
        with contextlib.suppress(queue.Empty):
            worker, message = self._messages.get(timeout_s > 0, timeout_s or None)
            while True:
                if worker in self._workers and (completion := self._heard(worker, message)) is not None:
                    done.append(completion)
                worker, message = self._messages.get_nowait()
        return done

    def _heard(self, worker: _Worker, message: dict[str, Any] | None) -> Completion | None:
        if message is None:
            return self._died(worker)
        if "ready" in message:
            worker.ready = True
            self._n_false_starts = 0
            return None
        if message.get("id") != worker.job_id:
            return None
        if "started" in message:
            worker.since = time.monotonic()
            return None
        if "error" in message:
            return worker.finish("error", reason=str(message["error"]))
        return worker.finish("done", result=message["result"])

    def _died(self, worker: _Worker) -> Completion | None:
        code = worker.end()
        self._workers.remove(worker)
        worker.release()
        if not worker.ready:
            self._n_false_starts += 1
            if code >= 0 or self._n_false_starts == _MOST_FALSE_STARTS:
                raise SpecError(
                    f"a worker could not start (exit code {code}): {_last_line(self._log)}",
                    hint=f"its messages are in {self._log}",
                )
            if worker.job is not None:  # killed before it looked at its job
                self.submit(worker.job)
            return None
        return worker.finish("died", reason=_death(code)) if worker.job is not None else None

    def _over_limit(self, worker: _Worker) -> Completion | None:
        if (job := worker.job) is None:
            return None
        now = time.monotonic()
        if not worker.ready and now - worker.started > _START_S:
            self._retire(worker)
            raise SpecError(
                f"a worker did not start within {_START_S:.0f} s", hint=f"its messages are in {self._log}"
            )
        if worker.since is None:
            return None
        if job.timeout_s is not None and now - worker.since > job.timeout_s:
            self._retire(worker)
            return worker.finish("timeout", reason=f"stopped after {job.timeout_s:g} s")
        if job.memory is not None and (used := worker.memory()) > job.memory:
            self._retire(worker)
            used, limit = used >> 20, job.memory >> 20
            return worker.finish(
                "memory", reason=f"stopped at {used} MiB of memory; its limit is {limit} MiB"
            )
        return None

    def _retire(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        worker.kill()


class _Worker:
    """One process, and the job that it has."""

    def __init__(
        self,
        argv: list[str],
        log: Path,
        threads: int,
        messages: queue.Queue[tuple[_Worker, dict[str, Any] | None]],
    ):
        with log.open("ab") as errors:
            self.process = subprocess.Popen(  # noqa: S603
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
                env=_environment(threads),
                encoding="utf-8",
            )
        self.started = time.monotonic()
        self.ready = False
        self.job: Job | None = None
        self.job_id = 0
        self.since: float | None = None
        assert self.process.stdout is not None
        self._thread = threading.Thread(
            target=self._listen, args=(self.process.stdout, messages), daemon=True
        )
        self._thread.start()

    def give(self, job: Job, job_id: int) -> None:
        self.job, self.job_id, self.since = job, job_id, None
        assert self.process.stdin is not None
        request = json.dumps({"id": job_id, "do": job.do, "payload": job.payload})
        with contextlib.suppress(BrokenPipeError):  # it died: its closed output says so
            self.process.stdin.write(request + "\n")
            self.process.stdin.flush()

    def finish(
        self, outcome: Outcome, *, result: Mapping[str, Any] | None = None, reason: str = ""
    ) -> Completion:
        assert self.job is not None
        seconds = time.monotonic() - self.since if self.since is not None else 0.0
        done = Completion(self.job, outcome, result, reason, seconds)
        self.job = None
        return done

    def memory(self) -> int:
        """Resident bytes of the process and its children."""
        total = 0
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(self.process.pid)
            for part in (process, *process.children(recursive=True)):
                with contextlib.suppress(psutil.Error):
                    total += part.memory_info().rss
        return total

    def end(self) -> int:
        """Its output is closed: wait for the end, or make one."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.process.wait(timeout=5)
        self.process.kill()
        return self.process.wait()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.release()

    def release(self) -> None:
        self._thread.join(timeout=10)
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()

    def _listen(self, lines: IO[str], messages: queue.Queue[tuple[_Worker, dict[str, Any] | None]]) -> None:
        with contextlib.suppress(ValueError, OSError):
            for line in lines:
                messages.put((self, json.loads(line)))
        messages.put((self, None))


def python_path() -> str:
    """Our own import path for a process that we start, so that plug-ins are found where we find them."""
    return os.pathsep.join(part for part in sys.path if part)


def _environment(threads: int) -> dict[str, str]:
    limits = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    return {**os.environ, **limits, "PYTHONPATH": python_path()}


def _death(code: int) -> str:
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"its worker was killed by {signal.Signals(-code).name}"
    return f"its worker ended with exit code {code}"


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1][:500] if lines else "no message"
