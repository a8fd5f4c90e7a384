"""A search as people see it in a terminal: the front as a table, a trial as a line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from archspec.errors import printable
from archspec.quantities import show

if TYPE_CHECKING:
    from search.front import Row, SearchResult
    from search.ledger import Trial


def front_table(result: SearchResult, *, most: int | None = None) -> Table:
    """The front, then the baselines that are not on it; ``most`` rows of the front at most."""
    n = len(result.front)
    title = f"Pareto front: {n} of {len(result.trained)} trained"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    labels = [task.label for task in result.tasks]
    names = [objective.quantity for objective in result.objectives]
    beside = [name for name in ("params",) if name not in names]
    tested = any(row.test_scores for row in result.trained)
    table.add_column("trial", justify="right")
    table.add_column("layers", overflow="fold", min_width=18)
    for name in (*names, *labels, *(["test"] if tested else []), *beside):
        table.add_column(Text(name), justify="right", no_wrap=True, overflow="ellipsis")
    table.add_column("", no_wrap=True)
    shown = result.front[:most]
    for row in (*shown, *(row for row in result.baselines if row.status == "done" and not row.on_front)):
        cells = [show(name, row.objectives[name]) for name in names]
        cells += [f"{row.scores[label]:.3f}" if label in row.scores else "" for label in labels]
        if tested:
            cells.append(_tested(row, result))
        cells += [show(name, row.costs[name]) if name in row.costs else "" for name in beside]
        style = "bold" if row.on_front else "dim"
        table.add_row(str(row.trial), Text(layers(row.strip)), *cells, Text(row.baseline or ""), style=style)
    if n > len(shown):
        table.add_row("", f"and {n - len(shown)} more")
    return table


def result_console() -> Console:
    """Standard output; where it is no terminal, wide enough for a table."""
    console = Console()
    return console if console.is_terminal else Console(width=max(console.width, 120))


def _tested(row: Row, result: SearchResult) -> str:
    """The tasks' scores on the sealed test, combined as the study combines them."""
    from search.figures import combine

    if not row.test_scores:
        return ""
    weights = {task.label: task.weight for task in result.tasks}
    return f"{combine(row.test_scores, weights, result.aggregate):.3f}"


def trial_line(trial: Trial, objectives: Mapping[str, float]) -> str:
    """One trial: its fate, layers and figures, or the reason why it has none."""
    told = ", ".join(f"{name} {show(name, value)}" for name, value in objectives.items())
    drawn = layers(trial.document.get("strip", ()))
    if trial.status != "done" or not told:
        told = trial.document.get("reason", "")
    return printable(f"trial {trial.number} {trial.status}: {drawn}  {told}")


def layers(strip: Iterable[Iterable[str]]) -> str:
    """A strip as text: ``mamba2+mlp | attention``."""
    return " | ".join("+".join(kind for kind in pair if kind != "none") or "none" for pair in strip)
