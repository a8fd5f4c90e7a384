"""The baselines that every search should be compared with, which of them a study has, and who is ahead."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from search.front import Row, SearchResult
from search.pareto import hypervolume
from search.verdict import shares

_ATTENTION = frozenset({"attention", "combiner", "routing"})
_STATE_SPACE = frozenset({"mamba2", "hydra"})


@dataclass(frozen=True)
class Rival:
    """One baseline. ``rows`` are what the study trained of it; ``missing`` is why there is none.

    ``hypervolume`` is that of its feasible candidates, in the search's box. ``n`` is how many were trained.
    """

    name: str
    rows: tuple[Row, ...]
    n: int
    hypervolume: float
    missing: str = ""


def rivals(result: SearchResult) -> tuple[Rival, ...]:
    """Random search, then the classical mixtures, then the study's other baselines."""
    baselines = [row for row in result.baselines if row.status in ("done", "failed")]
    found = [_random(result)]
    named: set[int] = set()
    for name, belongs in _MIXTURES:
        rows = [row for row in baselines if belongs(row)]
        named |= {row.trial for row in rows}
        found.append(_rival(name, rows, result, missing="no baseline of the study is one"))
    others = [row for row in baselines if row.trial not in named]
    return (*found, *(_rival(row.baseline or row.name, [row], result) for row in others))


def _random(result: SearchResult) -> Rival:
    rows = [row for row in result.rows if row.random and row.status == "done"]
    missing = "" if result.hypervolume_random else "say search_baselines: [random], or --with-random"
    reached = result.hypervolume_random[-1].value if result.hypervolume_random else 0.0
    return Rival("random search", tuple(rows), len(result.hypervolume_random), reached, missing)


def _rival(name: str, rows: Sequence[Row], result: SearchResult, *, missing: str = "") -> Rival:
    inside = [shares(row, result.objectives) for row in rows if row.feasible]
    volume = hypervolume(inside, (1.0,) * len(result.objectives))
    return Rival(name, tuple(rows), len(rows), volume, "" if rows else missing)


def _mixture(attention: Fraction) -> Callable[[Row], bool]:
    """Whether a row's mixers are attention in this share, and state spaces for the rest."""

    def belongs(row: Row) -> bool:
        kinds = [kind for kind, _ in row.strip if kind != "none"]
        n = sum(kind in _ATTENTION for kind in kinds)
        return bool(kinds) and Fraction(n, len(kinds)) == attention and _only(kinds)

    return belongs


def _only(kinds: Sequence[str]) -> bool:
    return all(kind in _ATTENTION | _STATE_SPACE for kind in kinds)


_MIXTURES = (
    ("all attention", _mixture(Fraction(1))),
    ("all state space", _mixture(Fraction(0))),
    ("1 attention to 3 state space", _mixture(Fraction(1, 4))),
    ("1 attention to 7 state space", _mixture(Fraction(1, 8))),
)


def compared(result: SearchResult) -> str:
    """One sentence: the search against as many random candidates."""
    if not result.hypervolume_random or not result.hypervolume_search:
        return ""
    n = min(len(result.hypervolume_random), len(result.hypervolume_search))
    ours, theirs = result.hypervolume_search[n - 1].value, result.hypervolume_random[n - 1].value
    verb = "is ahead of" if ours > theirs else "is level with" if ours == theirs else "is behind"
    return (
        f"With {n} candidates each, the search {verb} random search: hypervolume {ours:.3f} against "
        f"{theirs:.3f}, one run of each."
    )
