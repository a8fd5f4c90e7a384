"""A card for each member of a front: what it is near to, how it differs, and what each difference is worth.

No score on a card is invented. A swapped layer's figures come from a trial where the ledger holds one of that
very architecture; elsewhere only the costs are given, which are exact, and perhaps what a regression expects,
under that name and with its record.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from search.front import Row, SearchResult
from search.layer_edits import Edit, edits

if TYPE_CHECKING:
    from archspec import ModelSpec
    from search.costing import Costing
    from search.expectation import Expectation

_N_SWAPS = 24  # of one member


@dataclass(frozen=True)
class Change:
    """One place where two architectures differ, in words."""

    place: str  # "layer 3", "d_model"
    here: str  # "" where this one has nothing there
    there: str  # the same of the other one


@dataclass(frozen=True)
class Relation:
    """Another candidate beside this one: what differs, and the other's figures less this one's."""

    trial: int
    name: str
    baseline: str | None
    changes: tuple[Change, ...]
    effects: Mapping[str, float]


@dataclass(frozen=True)
class Swap:
    """This member with one layer as ``towards`` has it.

    ``effects`` are its figures less the member's. ``source`` is "trial" (measured; ``trial`` says which),
    "closed form" (costs alone; nothing is known of its score) or "invalid" (``reason`` says why it is no
    spec). ``expected`` is what the regression expects of objectives that are not known: (change, spread).
    """

    towards: str
    change: Change
    source: str
    trial: int | None = None
    reason: str = ""
    effects: Mapping[str, float] = field(default_factory=dict)
    expected: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Card:
    """A member of the front: the nearest baseline, its neighbours on the front, every layer swapped back."""

    trial: int
    name: str
    nearest_baseline: Relation | None
    neighbours: tuple[Relation, ...]
    swaps: tuple[Swap, ...]
    n_swaps_left_out: int = 0

    def as_json(self) -> dict[str, Any]:
        """Stable keys."""
        return asdict(self)


def cards(result: SearchResult) -> tuple[Card, ...]:
    """One for each member of the front, best first objective first."""
    front = result.front
    if not front:
        return ()
    book = _Book(result)
    return tuple(_card(index, front, book) for index in range(len(front)))


class _Book:
    """What the cards of one result share: specs read once, trials by hash, and what swaps are costed with."""

    def __init__(self, result: SearchResult):
        self.result = result
        self.by_hash = {row.hash: row for row in result.trained}
        self.baselines = [row for row in result.baselines if row.status == "done"]
        self.costing: Costing | None = None
        self.expectation: Expectation | None = None
        self._plans: dict[int, _Plan] = {}
        if any(row.spec for row in result.trained):
            from search.costing import costing_of
            from search.expectation import expectation

            self.costing, self.expectation = costing_of(result), expectation(result)

    def plan(self, row: Row) -> _Plan:
        """A row's layers in words."""
        if row.trial not in self._plans:
            self._plans[row.trial] = self._read(row)
        return self._plans[row.trial]

    def _read(self, row: Row) -> _Plan:
        if self.costing is None or not row.spec:
            layers = tuple("+".join(kind for kind in pair if kind != "none") or "none" for pair in row.strip)
            return _Plan(layers, {name: str(value) for name, value in row.genes.items()}, None)
        from archspec.source import parse_source
        from compiler import resolve
        from search.layer_edits import flat, layer_words, rest_words

        spec = flat(resolve(parse_source(row.spec, file=f"trial {row.trial}"), self.costing.zoo))
        return _Plan(layer_words(spec), rest_words(spec), spec)


@dataclass(frozen=True)
class _Plan:
    """An architecture as it is compared: layers and all the rest in words, and the flat spec if there is one.

    Without a spec, the rest are the genes.
    """

    layers: tuple[str, ...]
    rest: Mapping[str, str]
    spec: ModelSpec | None


def _card(index: int, front: Sequence[Row], book: _Book) -> Card:
    row = front[index]
    baselines = [other for other in book.baselines if other.trial != row.trial]
    nearest = min(baselines, key=lambda other: (_distance(row, other, book), other.trial), default=None)
    beside = [front[i] for i in (index - 1, index + 1) if 0 <= i < len(front)]
    others = ([] if nearest is None else [nearest]) + [other for other in beside if other is not nearest]
    swaps = _swaps(row, others, book)
    return Card(
        trial=row.trial,
        name=row.name,
        nearest_baseline=None if nearest is None else _relation(row, nearest, book),
        neighbours=tuple(_relation(row, other, book) for other in beside),
        swaps=tuple(swaps[:_N_SWAPS]),
        n_swaps_left_out=max(0, len(swaps) - _N_SWAPS),
    )


def _distance(row: Row, other: Row, book: _Book) -> int:
    return len(_changes(book.plan(row), book.plan(other)))


def _relation(row: Row, other: Row, book: _Book) -> Relation:
    changes = _changes(book.plan(row), book.plan(other))
    return Relation(other.trial, other.name, other.baseline, changes, _effects(row, other))


def _changes(mine: _Plan, theirs: _Plan) -> tuple[Change, ...]:
    layers = [_change(edit, mine, theirs) for edit in edits(mine.layers, theirs.layers)]
    return (*layers, *_unequal(mine.rest, theirs.rest))


def _unequal(mine: Mapping[str, str], theirs: Mapping[str, str]) -> list[Change]:
    names = [*mine, *(name for name in theirs if name not in mine)]
    return [
        Change(name, mine.get(name, ""), theirs.get(name, ""))
        for name in names
        if mine.get(name) != theirs.get(name)
    ]


def _change(edit: Edit, mine: _Plan, theirs: _Plan) -> Change:
    place = f"before layer {edit.at + 1}" if edit.what == "add" else f"layer {edit.at + 1}"
    here = "" if edit.what == "add" else mine.layers[edit.at]
    return Change(place, here, "" if edit.other is None else theirs.layers[edit.other])


def _effects(row: Row, other: Row) -> dict[str, float]:
    """Objectives and costs of ``other`` less those of ``row``."""
    mine, theirs = ({**r.costs, **r.objectives} for r in (row, other))
    return {name: theirs[name] - mine[name] for name in mine if name in theirs}


def _swaps(row: Row, others: Sequence[Row], book: _Book) -> list[Swap]:
    """Every layer in which an other one differs, put back alone; the same architecture once."""
    plan = book.plan(row)
    if plan.spec is None:
        return []
    found: list[Swap] = []
    seen: set[str] = set()
    for other in others:
        their = book.plan(other)
        if their.spec is None:
            continue
        for edit in edits(plan.layers, their.layers):
            swap, key = _swap(row, other, edit, book)
            if key not in seen:
                seen.add(key)
                found.append(swap)
    return found


def _swap(row: Row, other: Row, edit: Edit, book: _Book) -> tuple[Swap, str]:
    """One swap, and what tells it from others."""
    from archspec import SpecError
    from archspec.dump import dump_spec
    from archspec.identity import spec_hash
    from archspec.source import parse_source
    from compiler import resolve
    from search.layer_edits import edited
    from search.layers import layer_pairs

    mine, theirs = book.plan(row), book.plan(other)
    assert mine.spec is not None
    assert theirs.spec is not None
    assert book.costing is not None
    towards = other.baseline or f"trial {other.trial}"
    change = _change(edit, mine, theirs)
    try:
        text = dump_spec(edited(mine.spec, edit, theirs.spec))
        spec = resolve(parse_source(text, file="the swapped spec"), book.costing.zoo)
        key = spec_hash(spec)
        if (trained := book.by_hash.get(key)) is not None:
            effects = _effects(row, trained)
            return Swap(towards, change, "trial", trained.trial, effects=effects), key
        costs = book.costing.costs(spec)
    except SpecError as error:
        problem = error.problems[0]
        return Swap(towards, change, "invalid", reason=problem.message), f"{change}"
    known = {**row.costs, **row.objectives}
    effects = {name: costs[name] - known[name] for name in known if name in costs}
    expected = book.expectation(row, layer_pairs(spec), costs) if book.expectation is not None else {}
    return Swap(towards, change, "closed form", effects=effects, expected=expected), key
