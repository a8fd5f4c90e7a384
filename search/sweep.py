"""The learning rates that go on from the lowest rung: written down there, read by the rungs above it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from archspec import SpecError
from search.checkpoint import checkpoint_of, write_text
from search.train import Attempt, TrainResult, best_first

_FILE = "sweep.json"


@dataclass(frozen=True)
class Swept:
    """A finished sweep: rates, the best first, and what each cost."""

    rates: tuple[float, ...]
    seconds: tuple[float, ...]
    cpu_seconds: tuple[float, ...]

    def kept(self, n: int) -> tuple[float, ...]:
        """The rates that go on."""
        return self.rates[:n]

    def spent_on_others(self, n: int) -> tuple[float, float]:
        """Wall-clock and CPU seconds of the rates that do not go on."""
        return sum(self.seconds[n:]), sum(self.cpu_seconds[n:])


def write_sweep(directory: Path, result: TrainResult, *, keep: int) -> Swept:
    """Remember the order of the rates, then delete the checkpoints of those that do not go on."""
    order: list[Attempt] = best_first(result.attempts)
    rows = [[a.learning_rate, a.seconds, a.cpu_seconds] for a in order]
    write_text(directory / _FILE, json.dumps({"best_first": rows}) + "\n")
    for attempt in order[keep:]:
        checkpoint_of(directory, attempt.learning_rate).unlink(missing_ok=True)
    return _swept(rows)


def read_sweep(directory: Path) -> Swept | None:
    """The sweep that was finished in ``directory``; None where none was."""
    file = directory / _FILE
    if not file.exists():
        return None
    try:
        return _swept(json.loads(file.read_text(encoding="utf-8"))["best_first"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SpecError(
            f"cannot be read: {error}", file=str(file), hint="delete it to sweep again"
        ) from error


def _swept(rows: list[list[float]]) -> Swept:
    rates, seconds, cpu_seconds = zip(*rows, strict=True)
    return Swept(rates, seconds, cpu_seconds)
