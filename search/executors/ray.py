"""Many machines through Ray: one actor per worker, each with a warm process that is watched where it runs.

Ray places, we decide: it restarts nothing and repeats nothing, so that a job completes exactly once and the
driver alone says whether one that died is tried again. A job is handed to an actor that runs, never to one
that waits for its place.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

from pydantic import Field

from archspec.errors import SpecError
from search.executors import Completion, Job, Kind, Options, Setup
from search.executors.local import python_path
from search.job_host import JobHost, Site, checked, marked, no_place

_N_STARTS = 3  # actors in a row that may end before their first word
_OBJECT_STORE = 80 << 20  # bytes; jobs and results are small
_ASIDE = "ray._private.authentication.authentication_token_setup"  # says at every start that a token is used


class RayOptions(Options):
    """Where Ray is, and what each worker holds there."""

    address: str | None = None  # "auto", "ray://host:10001", "host:6379"; None: one of our own
    cpus: float | None = Field(default=None, gt=0)  # None: the threads of a worker
    gpus: float | None = Field(default=None, ge=0)  # None: one where the target is a GPU, else none
    start_s: float = Field(default=300.0, gt=0)  # how long the first worker may wait for its place


class Ray(Kind):
    """A cluster of Ray."""

    kind = "ray"
    options = RayOptions
    n_workers = 8

    @classmethod
    def open(cls, setup: Setup, options: RayOptions) -> RayExecutor:
        """Connect, or start Ray here."""
        is_gpu = setup.wants_gpu("Ray")
        return RayExecutor(
            folder=setup.folder,
            worker=setup.worker,
            n_workers=setup.n_workers,
            threads=setup.threads,
            address=options.address,
            cpus=setup.threads if options.cpus is None else options.cpus,
            gpus=float(is_gpu) if options.gpus is None else options.gpus,
            start_s=options.start_s,
        )


class RayExecutor:
    """``cpus`` and ``gpus`` are reserved for every worker; without ``address`` Ray is started and ended here.

    The first measurement binds the later ones to its machine, so that latencies can be compared.
    """

    def __init__(
        self,
        *,
        folder: Path,
        worker: tuple[str, ...],
        n_workers: int,
        threads: int = 1,
        address: str | None = None,
        cpus: float = 1.0,
        gpus: float = 0.0,
        start_s: float = 300.0,
    ):
        self.n_workers = n_workers
        self._ray = _import_ray()
        self._cpus, self._gpus, self._start_s = cpus, gpus, start_s
        self._stack = contextlib.ExitStack()
        self._actors: list[_Actor] = []
        self._waiting: list[Job] = []
        self._n_bad_starts = 0
        self._alone_since = time.monotonic()  # since when no worker has its place
        self._measuring_node: str | None = None
        with contextlib.ExitStack() as stack:
            self._site = Site(stack.enter_context(marked(folder)), worker, threads)
            if _connect(self._ray, address):
                stack.callback(self._ray.shutdown)
                self._check_room()
            self._stack = stack.pop_all()

    def submit(self, job: Job) -> None:
        """Queue ``job`` for the next actor that is free; start another one where there may be one."""
        self._waiting.append(job)
        assert len(self._waiting) + sum(a.job is not None for a in self._actors) <= self.n_workers
        self._hand_out()

    def wait(self, timeout_s: float) -> list[Completion]:
        """Completed jobs; places that were found meanwhile are filled."""
        deadline = time.monotonic() + timeout_s
        while True:
            left = deadline - time.monotonic()
            done = self._hear(max(0.0, min(1.0, left)))
            self._hand_out()
            self._check_start()
            if done or left <= 0:
                return done

    def cancel_all(self) -> None:
        """Kill the actors that have a job; their processes end with them."""
        self._waiting.clear()
        for actor in [actor for actor in self._actors if actor.job is not None]:
            self._retire(actor)

    def close(self) -> None:
        """Kill every actor, and end the Ray that was started here."""
        self._waiting.clear()
        for actor in list(self._actors):
            self._retire(actor)
        self._stack.close()

    def _hear(self, timeout_s: float) -> list[Completion]:
        by_ref = {actor.expected: actor for actor in self._actors if actor.expected is not None}
        if not by_ref:
            time.sleep(min(0.05, timeout_s))
            return []
        ready, _ = self._ray.wait(list(by_ref), num_returns=1, timeout=timeout_s)
        if ready:
            ready, _ = self._ray.wait(list(by_ref), num_returns=len(by_ref), timeout=0)
        found = [self._answer(by_ref[ref]) for ref in ready]
        return [completion for completion in found if completion is not None]

    def _answer(self, actor: _Actor) -> Completion | None:
        ref, actor.expected = actor.expected, None
        job = actor.job
        try:
            answer = self._ray.get(ref)
        except self._ray.exceptions.RayError as error:
            self._retire(actor)
            why = _first_line(error)
            if job is None:
                self._n_bad_starts += 1
                if self._n_bad_starts >= _N_STARTS:
                    raise no_place(why) from None
                return None
            seconds = time.monotonic() - actor.since
            return Completion(job, "died", reason=f"its worker on Ray ended: {why}", seconds=seconds)
        if job is None:
            trouble, actor.node = answer
            if trouble:
                raise no_place(trouble)
            self._n_bad_starts = 0
            return None
        actor.job = None
        completion = checked(answer)
        return Completion(job, completion.outcome, completion.result, completion.reason, completion.seconds)

    def _hand_out(self) -> None:
        for job in list(self._waiting):
            actor = next((actor for actor in self._actors if self._suits(actor, job)), None)
            if actor is None:
                continue
            self._waiting.remove(job)
            if job.do == "measure":
                self._measuring_node = actor.node
            actor.run(job)
        if not self._waiting:
            return
        is_measure = self._waiting[0].do == "measure"
        coming = sum(actor.node is None for actor in self._actors)
        if is_measure and coming == 0 and len(self._actors) >= self.n_workers:
            for actor in [actor for actor in self._actors if actor.job is None][:1]:
                self._retire(actor)  # to make room on the right machine
        while coming < len(self._waiting) and len(self._actors) < self.n_workers:
            self._actors.append(self._start(self._measuring_node if is_measure else None))
            coming += 1

    def _suits(self, actor: _Actor, job: Job) -> bool:
        if actor.job is not None or actor.node is None:
            return False
        return job.do != "measure" or self._measuring_node in (None, actor.node)

    def _start(self, node: str | None) -> _Actor:
        where: dict[str, Any] = {}
        if node is not None:
            strategies = importlib.import_module("ray.util.scheduling_strategies")
            where["scheduling_strategy"] = strategies.NodeAffinitySchedulingStrategy(node, soft=False)
        remote = self._ray.remote(
            num_cpus=self._cpus,
            num_gpus=self._gpus,
            max_restarts=0,
            max_task_retries=0,
            runtime_env={"env_vars": {"PYTHONPATH": python_path()}},
            **where,
        )(_Host)
        return _Actor(remote.remote(self._site))

    def _retire(self, actor: _Actor) -> None:
        self._actors.remove(actor)
        self._ray.kill(actor.handle, no_restart=True)

    def _check_start(self) -> None:
        """The first worker has its place within reason, or the user hears why the search does not begin."""
        if not self._waiting or any(actor.node is not None for actor in self._actors):
            self._alone_since = time.monotonic()
        elif time.monotonic() - self._alone_since > self._start_s:
            raise self._no_room(f"none in {self._start_s:g} s")

    def _check_room(self) -> None:
        """A Ray of our own does not grow: what it lacks now it will always lack."""
        has = self._ray.cluster_resources()
        if self._cpus > has.get("CPU", 0.0) or self._gpus > has.get("GPU", 0.0):
            raise self._no_room(f"this machine has {has.get('CPU', 0.0):g} and {has.get('GPU', 0.0):g}")

    def _no_room(self, found: str) -> SpecError:
        return SpecError(
            f"Ray has no room for a worker with {self._cpus:g} CPUs and {self._gpus:g} GPUs: {found}",
            hint="ask for less with --executor-option cpus=N or gpus=N, or name a larger one: address=...",
        )


class _Host:
    """What runs on the cluster."""

    def __init__(self, site: Site):
        self._host = JobHost(site)

    def place(self) -> tuple[str, str]:
        """What is wrong with this machine, empty if nothing is; and which node of Ray it is."""
        return self._host.trouble(), importlib.import_module("ray").get_runtime_context().get_node_id()

    def run(self, job: Job) -> Completion:
        return self._host.run(job)


class _Actor:
    """One worker as the driver sees it. ``node`` is there once it has its place."""

    def __init__(self, handle: Any):
        self.handle = handle
        self.job: Job | None = None
        self.node: str | None = None
        self.since = time.monotonic()
        self.expected: Any = handle.place.remote()

    def run(self, job: Job) -> None:
        self.job, self.since = job, time.monotonic()
        self.expected = self.handle.run.remote(job)


def _import_ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError:
        raise SpecError(
            "executor 'ray' needs Ray, which is not installed", hint='pip install "archspec-compiler[ray]"'
        ) from None


def _connect(ray: Any, address: str | None) -> bool:
    """Whether it was us who connected, so that we have to end it."""
    if address is None and " " in sys.executable:
        raise SpecError(
            f"Ray cannot start workers with a Python whose path has a space: {sys.executable}",
            hint="use an environment in a folder without one, or --executor local",
        )
    if ray.is_initialized():
        return False
    quiet = {"log_to_driver": False, "configure_logging": False}
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        if address is None:
            logging.getLogger(_ASIDE).setLevel(logging.ERROR)
            ray.init(address="local", include_dashboard=False, object_store_memory=_OBJECT_STORE, **quiet)
        else:
            ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise SpecError(
            f"Ray at {address or 'this machine'} cannot be used: {_first_line(error)}",
            hint="start a cluster with 'ray start --head', or leave the address out to start one here",
        ) from None
    return True


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]
