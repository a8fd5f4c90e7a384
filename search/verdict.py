"""Whether a search beat its baselines: in numbers, and in one sentence."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from archspec.quantities import show
from search.front import Objective, Row, Verdict
from search.pareto import hypervolume


def judge(rows: Sequence[Row], objectives: Sequence[Objective]) -> Verdict:
    """The first objective decides what is best; the hypervolume takes all of them in."""
    first = objectives[0]
    done = [row for row in rows if row.status == "done"]
    feasible = [row for row in done if row.feasible]
    baselines = [row for row in done if row.baseline is not None]
    hybrids = [row for row in feasible if row.hybrid and row.baseline is None]
    best, hybrid, rival = (_best(some, first) for some in (feasible, hybrids, baselines))
    return Verdict(
        sentence=_sentence(first, best, hybrid, rival, baselines),
        best=None if best is None else best.trial,
        best_baseline=None if rival is None else rival.trial,
        best_hybrid=None if hybrid is None else hybrid.trial,
        beats_every_baseline=hybrid is not None and rival is not None and _beats(hybrid, rival, first),
        hypervolume=_volume(feasible, objectives),
        hypervolume_baselines=_volume([row for row in baselines if row.feasible], objectives),
    )


def shares(row: Row, objectives: Sequence[Objective]) -> tuple[float, ...]:
    """A row's place in the box of the hypervolume, 0 at the ideal and 1 at the reference."""
    return tuple(objective.share(row.objectives[objective.quantity]) for objective in objectives)


def _volume(rows: Iterable[Row], objectives: Sequence[Objective]) -> float:
    return hypervolume([shares(row, objectives) for row in rows], (1.0,) * len(objectives))


def _best(rows: Sequence[Row], first: Objective) -> Row | None:
    return min(rows, key=lambda row: (first.sign * row.objectives[first.quantity], row.trial), default=None)


def _beats(row: Row, rival: Row, first: Objective) -> bool:
    return first.sign * row.objectives[first.quantity] < first.sign * rival.objectives[first.quantity]


def _sentence(
    first: Objective, best: Row | None, hybrid: Row | None, rival: Row | None, baselines: Sequence[Row]
) -> str:
    if best is None:
        return "No candidate was trained that is within every budget."
    if rival is None:
        return f"The best candidate, {_called(best)}, has {_figure(best, first)}; the study has no baseline."
    others = ", ".join(f"{row.baseline} {_figure(row, first)}" for row in baselines)
    if hybrid is None:
        return f"No hybrid is within every budget; the baselines have: {others}."
    verb = "beats" if _beats(hybrid, rival, first) else "does not beat"
    whole = f"The best hybrid, {_called(hybrid)}, has {_figure(hybrid, first)}"
    return f"{whole} and {verb} every baseline: {others}."


def _called(row: Row) -> str:
    layers = " | ".join("+".join(kind for kind in pair if kind != "none") or "none" for pair in row.strip)
    return f"{row.name} ({layers})" if layers else row.name


def _figure(row: Row, first: Objective) -> str:
    return f"{first.quantity} {show(first.quantity, row.objectives[first.quantity])}"
