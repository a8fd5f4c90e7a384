"""A running search on stderr: the present front and what is being done, or one line per trial."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from archspec.commands._front_view import front_table, trial_line

if TYPE_CHECKING:
    from search.driver import Event
    from search.front import SearchResult

_SOLVE_EVERY_S = 1.0
_SOLVE_SHARE = 20  # solving the front may take a twentieth of the time


class Progress:
    """Hears events of a search. The front is solved again at most once a second, and only if it is shown."""

    def __init__(self, console: Console | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.n_trained = 0
        self._console = console or Console(stderr=True)
        self._clock = clock
        self._live = Live(console=self._console, refresh_per_second=4, transient=True)
        self._latest: SearchResult | None = None
        self._solve_at = 0.0
        self._doing: list[str] = []

    def __enter__(self) -> Progress:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the terminal back."""
        self._live.stop()

    def hear(self, event: Event) -> None:
        """Show an event."""
        self.n_trained = max(self.n_trained, event.n_trained)  # a warning has none
        if self._console.is_terminal:
            self._redraw(event)
        elif event.trial is not None:
            if event.trial.status in ("done", "failed"):
                line = f"[{event.n_trained}/{event.n_wanted}] {trial_line(event.trial, _objectives(event))}"
                self._console.print(Text(line), soft_wrap=True)
        elif event.kind != "job" and event.text:
            self._console.print(Text(event.text), soft_wrap=True)

    def _redraw(self, event: Event) -> None:
        is_new = event.trial is not None and event.trial.status in ("done", "failed")
        began = self._clock()
        if is_new and event.result is not None and began >= self._solve_at:
            self._latest = event.result()
            took = self._clock() - began
            self._solve_at = began + max(_SOLVE_EVERY_S, _SOLVE_SHARE * took)
        self._doing = [*self._doing, event.text][-4:] if event.text else self._doing
        head = Text(f"{event.n_trained} of {event.n_wanted} candidates trained", style="bold")
        doing = Text("\n".join(self._doing), style="dim")
        front = [front_table(self._latest, most=10)] if self._latest is not None else []
        self._live.update(Group(head, *front, doing))


def _objectives(event: Event) -> dict[str, float]:
    return {name: event.figures[name] for name in event.objectives if name in event.figures}
