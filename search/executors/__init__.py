"""Ways to run jobs, one per file; the file's name is its ``kind``.

An ``Executor`` takes jobs and hands back what became of each, as they complete.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from pydantic import BaseModel, ConfigDict, ValidationError

from archspec.errors import SpecError, did_you_mean, shown
from search.one_per_file import class_in, file_names


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


@dataclass(frozen=True)
class Setup:
    """What every way to run jobs is told; ``worker`` are the arguments of Python that start one worker."""

    folder: Path  # of the search: for logs; on many machines, the one that all of them see
    worker: tuple[str, ...]
    n_workers: int
    threads: int
    device: str  # "cpu", "cuda:0"

    def wants_gpu(self, chooser: str) -> bool:
        """Whether jobs run on a GPU; a ``SpecError`` if the target names one, which ``chooser`` does."""
        is_gpu = self.device.startswith("cuda")
        if is_gpu and self.device not in ("cuda", "cuda:0"):
            raise SpecError(
                f"target.device is {self.device}, but {chooser} chooses the GPU of every job",
                hint="say device: cuda",
            )
        return is_gpu


class Options(BaseModel):
    """What one kind of executor can be told with KEY=VALUE; values are read from their text."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Kind(ABC):
    """One way to run jobs: its options, and how it is opened."""

    kind: ClassVar[str]
    options: ClassVar[type[Options]] = Options
    n_workers: ClassVar[int | None] = None  # where the user gives none; None: as many as this machine holds

    @classmethod
    @abstractmethod
    def open(cls, setup: Setup, options: Any) -> Executor:
        """An executor that takes jobs; a ``SpecError`` where this way cannot be had."""


def kinds() -> tuple[str, ...]:
    """Every way to run jobs that there is."""
    return file_names(__path__)


def find_kind(kind: str) -> type[Kind]:
    """The way to run jobs in the file ``kind``; what it needs beside archspec is not imported yet."""
    if kind not in kinds():
        raise SpecError(f"unknown executor {shown(kind)}", hint=did_you_mean(kind, kinds()))
    return class_in(__name__, kind, Kind)  # type: ignore[type-abstract]


def read_options(kind: type[Kind], given: Iterable[str]) -> Options:
    """``KEY=VALUE`` texts as the options of ``kind``."""
    known = list(kind.options.model_fields)
    has = f"its options: {', '.join(known)}" if known else f"executor '{kind.kind}' has no options"
    pairs: dict[str, str] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals:
            raise SpecError(f"an option of an executor is KEY=VALUE, got {shown(text)}", hint=has)
        if key not in known:
            hint = did_you_mean(key, known) or has
            raise SpecError(f"executor '{kind.kind}' has no option {shown(key)}", hint=hint)
        pairs[key] = value
    try:
        return kind.options.model_validate(pairs)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = str(first["loc"][0])
        raise SpecError(f"option {key}={pairs[key]} of executor '{kind.kind}': {first['msg']}") from None
