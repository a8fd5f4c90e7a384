"""A SLURM cluster through submitit: one SLURM job per piece of work, watched on the machine where it runs."""

from __future__ import annotations

import contextlib
import importlib
import shlex
import time
from pathlib import Path
from typing import Any

import psutil
from pydantic import Field

from archspec.errors import SpecError
from search.executors import Completion, Job, Kind, Options, Outcome, Setup
from search.executors.local import python_path
from search.job_host import Site, checked, host_once, marked

_LOOK_S = 0.2
_OUTCOMES: dict[str, Outcome] = {"TIMEOUT": "timeout", "OUT_OF_MEMORY": "memory"}  # by SLURM's state


class SubmititOptions(Options):
    """What every SLURM job asks for; what is left out is as the cluster has it."""

    cluster: str = "slurm"  # "local" runs the same on this machine, for a try
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    cpus: int | None = Field(default=None, ge=1)  # None: the threads of a worker
    gpus: int | None = Field(default=None, ge=0)  # None: one where the target is a GPU, else none
    memory_gb: float | None = Field(default=None, gt=0)
    minutes: int = Field(default=240, ge=1)


class Submitit(Kind):
    """A SLURM cluster."""

    kind = "submitit"
    options = SubmititOptions
    n_workers = 8

    @classmethod
    def open(cls, setup: Setup, options: SubmititOptions) -> SubmititExecutor:
        """Nothing is submitted yet."""
        is_gpu = setup.wants_gpu("SLURM")
        return SubmititExecutor(
            folder=setup.folder,
            worker=setup.worker,
            n_workers=setup.n_workers,
            threads=setup.threads,
            parameters=_parameters(options, threads=setup.threads, is_gpu=is_gpu),
            cluster=options.cluster,
        )


class SubmititExecutor:
    """``parameters`` are submitit's; its files are in the folder ``slurm`` of ``folder``."""

    def __init__(
        self,
        *,
        folder: Path,
        worker: tuple[str, ...],
        n_workers: int,
        threads: int = 1,
        cluster: str = "slurm",
        parameters: dict[str, Any] | None = None,
    ):
        self.n_workers = n_workers
        self._submitit = _import_submitit()
        self._jobs: list[tuple[Job, Any]] = []
        self._is_local = cluster == "local"
        self._stack = contextlib.ExitStack()
        with contextlib.ExitStack() as stack:
            self._site = Site(stack.enter_context(marked(folder)), worker, threads)
            self._executor = self._open(folder.absolute() / "slurm", cluster, parameters or {})
            self._stack = stack.pop_all()

    def submit(self, job: Job) -> None:
        """Put ``job`` into the cluster's queue."""
        assert len(self._jobs) < self.n_workers, "more jobs than workers"
        try:
            self._jobs.append((job, self._executor.submit(host_once, self._site, job)))
        except (RuntimeError, OSError) as error:  # all of submitit's errors are RuntimeErrors
            raise SpecError(f"SLURM took no job: {_last_line(error)}") from None

    def wait(self, timeout_s: float) -> list[Completion]:
        """Completed jobs."""
        deadline = time.monotonic() + timeout_s
        while True:
            over = [(job, handle) for job, handle in self._jobs if handle.done()]
            for pair in over:
                self._jobs.remove(pair)
            done = [self._completion(job, handle) for job, handle in over]
            left = deadline - time.monotonic()
            if done or left <= 0:
                return done
            time.sleep(min(_LOOK_S, left))

    def cancel_all(self) -> None:
        """Cancel what is queued or runs."""
        jobs, self._jobs = self._jobs, []
        for _, handle in jobs:
            if self._is_local:
                _kill(handle)
            else:
                handle.cancel(check=False)

    def close(self) -> None:
        """Cancel everything."""
        self.cancel_all()
        self._stack.close()

    def _completion(self, job: Job, handle: Any) -> Completion:
        try:
            completion = checked(handle.result())
        except self._submitit.core.utils.UncompletedJobError:
            state = handle.state
            outcome = _OUTCOMES.get(state.split()[0], "died")
            return Completion(
                job, outcome, reason=f"SLURM job {handle.job_id} ended without a result: {state}"
            )
        finally:
            for path in (handle.paths.submitted_pickle, handle.paths.result_pickle):
                path.unlink(missing_ok=True)
        return Completion(job, completion.outcome, completion.result, completion.reason, completion.seconds)

    def _open(self, folder: Path, cluster: str, parameters: dict[str, Any]) -> Any:
        try:
            executor = self._submitit.AutoExecutor(folder=folder, cluster=cluster)
        except (RuntimeError, ValueError) as error:
            raise SpecError(
                f"SLURM cannot be used: {_last_line(error)}",
                hint="run this where sbatch is, or try --executor-option cluster=local",
            ) from None
        executor.update_parameters(**parameters)
        return executor


def _kill(handle: Any) -> None:
    """End a job of this machine: submitit's own way is a SIGINT, which a shell's background ignores."""
    with contextlib.suppress(psutil.Error):
        shell = psutil.Process(int(handle.job_id))
        for process in (shell, *shell.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                process.kill()
    while not handle.done():
        time.sleep(0.01)


def _parameters(options: SubmititOptions, *, threads: int, is_gpu: bool) -> dict[str, Any]:
    """The options in submitit's words."""
    gpus = int(is_gpu) if options.gpus is None else options.gpus
    found: dict[str, Any] = {
        "name": "archspec",
        "timeout_min": options.minutes,
        "cpus_per_task": options.cpus or threads,
        "gpus_per_node": gpus or None,
        "mem_gb": options.memory_gb,
        "slurm_partition": options.partition,
        "slurm_account": options.account,
        "slurm_qos": options.qos,
        "slurm_constraint": options.constraint,
        f"{options.cluster}_setup": [f"export PYTHONPATH={shlex.quote(python_path())}"],
    }
    return {name: value for name, value in found.items() if value is not None}


def _import_submitit() -> Any:
    try:
        return importlib.import_module("submitit")
    except ImportError:
        raise SpecError(
            "executor 'submitit' needs submitit, which is not installed",
            hint='pip install "archspec-compiler[slurm]"',
        ) from None


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]
