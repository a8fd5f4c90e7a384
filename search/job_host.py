"""One job after another in a watched process of this machine, for jobs that come from elsewhere."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from archspec.errors import SpecError
from search.executors import Completion, Job
from search.executors.local import LocalExecutor

_SEEN_S = 15.0  # a network file system may be that late to show a new file
_BEAT_S = 5.0
_SILENCE_S = 180.0
_LOOK_S = 1.0
_NO_PLACE = "no place: "


@dataclass(frozen=True)
class Site:
    """What a machine needs to know before it can host jobs.

    ``marker`` is a file in the search's folder: trained weights lie there, so a machine that cannot see it
    cannot work. The driver touches it now and then; where it is gone, or untouched for long, so is the
    driver, and what it has asked for ends. ``worker`` are the arguments of Python that start one worker.
    """

    marker: Path
    worker: tuple[str, ...]
    threads: int


@contextlib.contextmanager
def marked(folder: Path) -> Iterator[Path]:
    """The marker in ``folder``, kept fresh; those of earlier drivers go, and with them what still runs."""
    for stale in folder.glob(".site-*"):
        stale.unlink(missing_ok=True)
    marker = folder.absolute() / f".site-{uuid.uuid4().hex}"
    marker.touch()
    over = threading.Event()
    beat = threading.Thread(target=_keep_fresh, args=(marker, over), daemon=True)
    beat.start()
    try:
        yield marker
    finally:
        over.set()
        beat.join()
        marker.unlink(missing_ok=True)


def _keep_fresh(marker: Path, over: threading.Event) -> None:
    while not over.wait(_BEAT_S):
        with contextlib.suppress(OSError):  # a full disk ends the search elsewhere
            os.utime(marker)


class JobHost:
    """A warm worker on this machine. It ends with the process that holds this object, however that ends."""

    def __init__(self, site: Site):
        self._site = site
        self._executor: LocalExecutor | None = None

    def trouble(self) -> str:
        """Why this machine cannot host jobs; empty if it can."""
        deadline = time.monotonic() + _SEEN_S
        folder = self._site.marker.parent
        while not self._site.marker.exists():
            if time.monotonic() > deadline:
                return f"{socket.gethostname()} does not see the search's folder {folder}"
            time.sleep(0.5)
        return ""

    def run(self, job: Job) -> Completion:
        """The job's completion; outcome ``error`` with a reason of ``no_place`` where it could not begin."""
        if trouble := self.trouble():
            return Completion(job, "error", reason=_NO_PLACE + trouble)
        if self._executor is None:
            log = self._site.marker.with_name(f"workers-{socket.gethostname()}.log")
            argv = [sys.executable, *self._site.worker]
            self._executor = LocalExecutor(n_workers=1, argv=argv, log=log, threads=self._site.threads)
        try:
            self._executor.submit(job)
            driver = _Driver(self._site.marker)
            while not (done := self._executor.wait(_LOOK_S)):
                if driver.is_gone():
                    self._executor.cancel_all()
                    return Completion(job, "died", reason="its driver is gone")
        except SpecError as error:
            return Completion(job, "error", reason=f"{_NO_PLACE}{socket.gethostname()}: {error.message}")
        return done[0]

    def close(self) -> None:
        """End the worker."""
        if self._executor is not None:
            self._executor.close()
            self._executor = None


class _Driver:
    """Whether the driver still lives, by the marker's time stamps; the machines' clocks need not agree."""

    def __init__(self, marker: Path):
        self._marker = marker
        self._seen: float | None = None
        self._changed = time.monotonic()

    def is_gone(self) -> bool:
        try:
            stamp: float | None = self._marker.stat().st_mtime
        except FileNotFoundError:
            return True
        except OSError:  # the file system stutters: it will be silent for long if it is over
            stamp = self._seen
        if stamp != self._seen:
            self._seen, self._changed = stamp, time.monotonic()
        return time.monotonic() - self._changed > _SILENCE_S


def host_once(site: Site, job: Job) -> Completion:
    """One job in a fresh worker."""
    host = JobHost(site)
    try:
        return host.run(job)
    finally:
        host.close()


def checked(completion: Completion) -> Completion:
    """The completion of a job that had a place; ``SpecError`` for one that had none."""
    if completion.outcome == "error" and completion.reason.startswith(_NO_PLACE):
        raise no_place(completion.reason.removeprefix(_NO_PLACE))
    return completion


def no_place(why: str) -> SpecError:
    """A machine of the cluster cannot host jobs."""
    return SpecError(
        f"a machine cannot work for this search: {why}",
        hint="every machine needs archspec, and the --out folder at the same path on a shared file system",
    )
