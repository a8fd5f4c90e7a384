"""Cards in words: signed differences, and how each of them is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from archspec.quantities import show
from search.cards import Card, Change, Relation, Swap
from search.front import Row, SearchResult

_COSTS = ("params", "flops", "inference_peak")


@dataclass(frozen=True)
class SwapWords:
    """One line of a card's table."""

    towards: str
    change: str
    effect: str
    known: str


@dataclass(frozen=True)
class RelationWords:
    """Another candidate: who it is, what differs, and what it has more or less."""

    who: str
    changes: tuple[str, ...]
    effect: str


@dataclass(frozen=True)
class CardWords:
    """A whole card."""

    row: Row
    figures: str
    nearest: RelationWords | None
    neighbours: tuple[RelationWords, ...]
    swaps: tuple[SwapWords, ...]
    n_swaps_left_out: int


def card_words(card: Card, result: SearchResult) -> CardWords:
    """The card as people read it."""
    row = result.row(card.trial)
    nearest = card.nearest_baseline
    return CardWords(
        row=row,
        figures=", ".join(f"{name} {show(name, value)}" for name, value in row.objectives.items()),
        nearest=None if nearest is None else _relation(nearest, result),
        neighbours=tuple(_relation(other, result) for other in card.neighbours),
        swaps=tuple(_swap(swap, result) for swap in card.swaps),
        n_swaps_left_out=card.n_swaps_left_out,
    )


def change_words(change: Change) -> str:
    """``layer 2: attention -> mamba2``."""
    if not change.there:
        return f"{change.place}: without {change.here}"
    if not change.here:
        return f"{change.place}: {change.there} added"
    return f"{change.place}: {change.here} → {change.there}"


def effect_words(effects: Mapping[str, float], result: SearchResult) -> str:
    """Objectives first, then the costs that people ask for."""
    objectives = [objective.quantity for objective in result.objectives]
    names = [*objectives, *(name for name in _COSTS if name not in objectives)]
    return ", ".join(signed(name, effects[name]) for name in names if name in effects)


def signed(name: str, change: float) -> str:
    """``score +0.031``, ``params -1.2k``, ``flops same``."""
    if change == 0:
        return f"{name} same"
    return f"{name} {'+' if change > 0 else '−'}{show(name, abs(change))}"


def _relation(other: Relation, result: SearchResult) -> RelationWords:
    who = other.baseline or f"trial {other.trial}"
    changes = tuple(map(change_words, other.changes))
    return RelationWords(who, changes, effect_words(other.effects, result))


def _swap(swap: Swap, result: SearchResult) -> SwapWords:
    known = {
        "trial": f"trained: trial {swap.trial}",
        "closed form": "costs exact; its score is not known",
        "invalid": "no spec",
    }[swap.source]
    effect = swap.reason or effect_words(swap.effects, result)
    guesses = [f"{signed(name, m)} ± {show(name, s)}" for name, (m, s) in swap.expected.items()]
    if guesses:
        effect += f"; a regression expects {', '.join(guesses)}"
    return SwapWords(swap.towards, change_words(swap.change), effect, known)
