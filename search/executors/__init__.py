"""Ways to run jobs: an ``Executor`` takes jobs and hands back what became of each, as they complete."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol


@dataclass(frozen=True)
class Job:
    """One piece of work for a worker: ``do`` names it, ``payload`` is JSON; its limits stop it."""

    do: str  # "train", "measure", "final"
    label: str  # what people read: "copy, seed 0"
    payload: Mapping[str, Any]
    timeout_s: float | None = None
    memory: int | None = None  # bytes of resident memory


Outcome = Literal["done", "error", "died", "timeout", "memory"]


@dataclass(frozen=True)
class Completion:
    """What became of a job. ``result`` is there exactly when the outcome is ``done``."""

    job: Job
    outcome: Outcome
    result: Mapping[str, Any] | None = None
    reason: str = ""
    seconds: float = 0.0


class Executor(Protocol):
    """Runs up to ``n_workers`` jobs at a time; each one completes exactly once, whatever happens."""

    n_workers: int

    def submit(self, job: Job) -> None:
        """Start a job; the caller submits no more than ``n_workers`` at a time."""

    def wait(self, timeout_s: float) -> list[Completion]:
        """Jobs that completed, as soon as there is one; an empty list after ``timeout_s``."""

    def cancel_all(self) -> None:
        """Stop running jobs at once; they do not complete."""

    def close(self) -> None:
        """Give everything back; no process of ours is left."""
