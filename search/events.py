"""What happens in a search, for whoever shows it, logs it or writes it down."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from search.front import SearchResult
from search.ledger import Trial


@dataclass(frozen=True)
class Event:
    """Something that happened in a search; ``result`` derives the state of the whole for whoever shows it."""

    kind: Literal["surveyed", "resumed", "round", "job", "trial", "finals", "warning", "closed"]
    text: str
    n_trained: int = 0
    n_wanted: int = 0
    trial: Trial | None = None
    result: Callable[[], SearchResult] | None = None
    figures: Mapping[str, float] = field(default_factory=dict)  # all that is known of the trial
    objectives: tuple[str, ...] = ()


Listener = Callable[[Event], None]


def ignore(event: Event) -> None:
    pass
