"""archspec front --explain: the card of each member in the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from archspec.commands._front_view import layers
from archspec.errors import SpecError, did_you_mean, printable

if TYPE_CHECKING:
    from search.cards import Card
    from search.front import SearchResult
    from search.report.card_words import CardWords, RelationWords


def chosen_cards(result: SearchResult, name: str | None) -> list[Card]:
    """All cards, or that of the member with this name, hash, trial or file."""
    from search.cards import cards

    told = list(cards(result))
    if name is None:
        return told
    names: dict[str, Card] = {}
    for card in told:
        row = result.row(card.trial)
        names |= dict.fromkeys(
            (row.name, str(row.trial), row.hash, row.short, f"front/{row.name}.yaml"), card
        )
    if name in names:
        return [names[name]]
    found = [card for word, card in names.items() if len(name) >= 4 and word.startswith(name)]
    if found and all(card is found[0] for card in found):
        return found[:1]
    known = did_you_mean(name, [card.name for card in told])
    raise SpecError(f"nobody called '{printable(name)}' is on the front", hint=known)


def card_view(card: Card, result: SearchResult) -> Group:
    """One card."""
    from search.report.card_words import card_words

    return Group(*_parts(card_words(card, result)))


def _parts(words: CardWords) -> Iterator[Text | Table]:
    row = words.row
    yield Text(f"trial {row.trial}: {row.baseline or row.name}", style="bold")
    yield Text(f"  {layers(row.strip)}")
    yield Text(f"  {words.figures}")
    if words.nearest is None:
        yield Text("nearest baseline: the study has no other one")
    else:
        yield from _relation("nearest baseline", words.nearest)
    for beside in words.neighbours:
        yield from _relation("beside it on the front", beside)
    if words.swaps:
        table = Table(title="one layer swapped back", title_justify="left", box=None, pad_edge=False)
        for heading in ("as in", "change", "effect", "how it is known"):
            table.add_column(heading, overflow="fold")
        for swap in words.swaps:
            table.add_row(*map(Text, (swap.towards, swap.change, swap.effect, swap.known)))
        yield table
    if words.n_swaps_left_out:
        yield Text(f"and {words.n_swaps_left_out} more swaps")
    yield Text("")


def _relation(role: str, other: RelationWords) -> Iterator[Text]:
    yield Text(f"{role}: {other.who}: {other.effect}")
    for change in other.changes:
        yield Text(f"  {change}")
