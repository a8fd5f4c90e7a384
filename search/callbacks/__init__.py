"""Trackers that hear of every finished trial, one per file; the file's name is its ``kind``."""

from __future__ import annotations

import contextlib
import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from archspec.errors import SpecError, did_you_mean, shown
from search.driver import Event, Listener
from search.front import Row, SearchResult
from search.one_per_file import class_in, file_names


class Tracker(ABC):
    """Writes what it hears somewhere else; the search does not depend on it."""

    kind: ClassVar[str]

    @abstractmethod
    def __init__(self, folder: Path, study: str): ...

    @abstractmethod
    def trial(self, row: Row, result: SearchResult) -> None:
        """A trial is done or has failed."""

    @abstractmethod
    def close(self) -> None:
        """Nothing more comes: the search is over, was interrupted, or has failed."""


def kinds() -> tuple[str, ...]:
    """Every tracker there is."""
    return file_names(__path__)


def open_trackers(names: Iterable[str], folder: Path, study: str) -> list[Tracker]:
    """The trackers called ``names``, writing below ``folder``; where one cannot be had, none stays open."""
    names = tuple(dict.fromkeys(names))
    for name in names:
        if name not in kinds():
            raise SpecError(f"unknown tracker {shown(name)}", hint=did_you_mean(name, kinds()))
    found: list[Tracker] = []
    with contextlib.ExitStack() as stack:
        for name in names:
            found.append(_open(name, folder, study))
            stack.callback(found[-1].close)
        stack.pop_all()
    return found


def _open(name: str, folder: Path, study: str) -> Tracker:
    cls = class_in(__name__, name, Tracker)  # type: ignore[type-abstract]
    try:
        return cls(folder, study)
    except SpecError:
        raise
    except Exception as error:
        raise SpecError(
            f"--log {name} cannot be opened: {_first_line(error)}", hint=f"mend it, or leave out --log {name}"
        ) from None


@contextlib.contextmanager
def heard_by(trackers: Sequence[Tracker], listen: Listener) -> Iterator[Listener]:
    """A listener that tells ``listen`` and the trackers, which are closed however the block ends.

    A tracker that fails is named in one warning and told no more; the search goes on.
    """
    alive = list(trackers)

    def attempt(tracker: Tracker, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:
            alive.remove(tracker)
            text = f"--log {tracker.kind} failed and is told no more: {_first_line(error)}"
            listen(Event("warning", text))

    def hear(event: Event) -> None:
        listen(event)
        trial = event.trial
        if alive and trial is not None and trial.status in ("done", "failed"):
            assert event.result is not None
            result = event.result()
            row = result.row(trial.number)
            for tracker in list(alive):
                attempt(tracker, lambda tracker=tracker: tracker.trial(row, result))  # type: ignore[misc]

    try:
        yield hear
    finally:
        for tracker in list(alive):
            attempt(tracker, tracker.close)


def _first_line(error: BaseException) -> str:
    """What went wrong, for one line of text."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {(lines or ['no message'])[0][:300]}"


def library(name: str, kind: str) -> Any:
    """The tracker's own library; a ``SpecError`` names the extra where it is missing."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise SpecError(
            f"--log {kind} needs {name}, which is not installed",
            hint='pip install "archspec-compiler[tracking]"',
        ) from None


def scalars(row: Row, result: SearchResult) -> dict[str, float]:
    """The figures of a trial: objectives, costs, training time, and the front's hypervolume so far."""
    found = {f"objective.{name}": value for name, value in row.objectives.items()}
    found |= {f"cost.{name}": value for name, value in row.costs.items()}
    found["training_s"] = row.seconds
    if result.hypervolume:
        found["front.hypervolume"] = result.hypervolume[-1].value
    return {name: float(value) for name, value in found.items()}


def words(row: Row) -> dict[str, str]:
    """What a trial was: its fate, name and genes."""
    genes = {f"gene.{name}": str(value) for name, value in row.genes.items()}
    return {"trial": str(row.trial), "spec": row.hash, "status": row.status, "reason": row.reason, **genes}
