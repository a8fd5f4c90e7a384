"""The table of candidates in words: which rows it shows, in what order, and what stands in each cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from archspec.quantities import show
from search.confidence import interval, membership
from search.front import Row, SearchResult
from search.report.charts import most_telling

MOST_ROWS = 200
_COSTS = ("params", "flops", "inference_peak", "kv_bytes_per_token", "state_bytes")


@dataclass(frozen=True)
class Cell:
    """What is shown, and the number to sort by (None: nothing there)."""

    text: str
    value: float | None


@dataclass(frozen=True)
class Shown:
    """One row: its group colours it."""

    row: Row
    group: str  # "front", "baseline", "dominated", "outside"
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Candidates:
    """The whole table; ``headings`` are those of the cells."""

    headings: tuple[str, ...]
    rows: tuple[Shown, ...]
    n_left_out: int
    has_intervals: bool


def candidates(result: SearchResult) -> Candidates:
    """The front, the baselines, then the rest by rank; at most ``MOST_ROWS`` beside the first two."""
    certain = membership(result)
    objectives = [objective.quantity for objective in result.objectives]
    labels = [task.label for task in result.tasks]
    tested = any(row.test_scores for row in result.trained)
    costs = cost_names(result)
    headings = (
        *objectives,
        *(["stays on the front"] if certain else []),
        *(word for label in labels for word in ([label, f"{label}, sealed test"] if tested else [label])),
        *costs,
    )
    rows = list(_in_order(result))

    def shown(row: Row) -> Shown:
        cells = [
            *(_objective(row, name, result) for name in objectives),
            *([_share(row, certain)] if certain else []),
            *(cell for label in labels for cell in _scores(row, label, result, tested=tested)),
            *(_cost(row, name) for name in costs),
        ]
        return Shown(row, _group(row), tuple(cells))

    has_intervals = any(interval(row, name, result) for row in rows for name in objectives)
    return Candidates(headings, tuple(map(shown, rows)), len(result.trained) - len(rows), has_intervals)


def cost_names(result: SearchResult) -> list[str]:
    """Costs that are no objectives, where they are known."""
    shown = {objective.quantity for objective in result.objectives}
    return [name for name in _COSTS if name not in shown and any(name in row.costs for row in result.trained)]


def _in_order(result: SearchResult) -> Sequence[Row]:
    front = result.front
    baselines = [row for row in result.baselines if row.status == "done" and not row.on_front]
    rest = [row for row in result.trained if not row.on_front and row.baseline is None]
    last = len(result.rows)
    kept = most_telling(rest, MOST_ROWS)
    kept.sort(key=lambda row: (last if row.rank is None else row.rank, row.trial))
    return (*front, *baselines, *kept)


def _group(row: Row) -> str:
    if row.on_front:
        return "front"
    if row.baseline:
        return "baseline"
    return "dominated" if row.feasible else "outside"


def _objective(row: Row, name: str, result: SearchResult) -> Cell:
    if name not in row.objectives:
        return Cell("—", None)
    text, value = show(name, row.objectives[name]), row.objectives[name]
    if (measured := row.measured.get(name)) is not None:
        text += f" [{measured.low:.3g}, {measured.high:.3g}]"
    elif (found := interval(row, name, result)) is not None:
        text += f" [{found[0]:.3f}, {found[1]:.3f}]"
    return Cell(text, value)


def _share(row: Row, certain: Mapping[int, float]) -> Cell:
    share = certain.get(row.trial)
    return Cell("—" if share is None else f"{share:.0%}", share)


def _scores(row: Row, label: str, result: SearchResult, *, tested: bool) -> list[Cell]:
    values = row.seed_scores.get(label, ())
    cells = [_score(row.scores.get(label))]
    if len(values) > 1 and row.score_spread.get(label):
        cells = [Cell(f"{cells[0].text} ± {row.score_spread[label] / 2:.3f}", cells[0].value)]
    return [*cells, _score(row.test_scores.get(label))] if tested else cells


def _score(score: float | None) -> Cell:
    return Cell("—" if score is None else f"{score:.3f}", score)


def _cost(row: Row, name: str) -> Cell:
    value: Any = row.costs.get(name)
    return Cell("" if value is None else show(name, value), value)
