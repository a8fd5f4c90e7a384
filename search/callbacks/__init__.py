"""Trackers that hear of every finished trial, one per file; the file's name is its ``kind``."""

from __future__ import annotations

import importlib
import pkgutil
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from archspec.errors import SpecError, did_you_mean, shown
from search.front import Row, SearchResult


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
        """The search is over."""


def kinds() -> tuple[str, ...]:
    """Every tracker there is."""
    return tuple(sorted(info.name for info in pkgutil.iter_modules(__path__)))


def open_trackers(names: Iterable[str], folder: Path, study: str) -> list[Tracker]:
    """The trackers called ``names``, writing below ``folder``."""
    found: list[Tracker] = []
    for name in dict.fromkeys(names):
        if name not in kinds():
            raise SpecError(f"unknown tracker {shown(name)}", hint=did_you_mean(name, kinds()))
        module = importlib.import_module(f"{__name__}.{name}")
        (cls,) = (
            value
            for value in vars(module).values()
            if isinstance(value, type) and issubclass(value, Tracker) and value.__module__ == module.__name__
        )
        found.append(cls(folder, study))
    return found


def heard_by(trackers: Sequence[Tracker], listen: Callable[[Any], None]) -> Callable[[Any], None]:
    """A listener that tells ``listen`` and the trackers; one that fails is named once and told no more."""
    alive = list(trackers)

    def attempt(tracker: Tracker, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:
            alive.remove(tracker)
            what = f"{type(error).__name__}: {str(error)[:300]}"
            warnings.warn(f"--log {tracker.kind} failed and is told no more: {what}", stacklevel=2)

    def hear(event: Any) -> None:
        listen(event)
        trial = event.trial
        if alive and trial is not None and trial.status in ("done", "failed"):
            result = event.result()
            row = result.row(trial.number)
            for tracker in list(alive):
                attempt(tracker, lambda tracker=tracker: tracker.trial(row, result))  # type: ignore[misc]
        if event.kind == "closed":
            for tracker in list(alive):
                attempt(tracker, tracker.close)

    return hear


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
