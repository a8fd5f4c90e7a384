"""Two specs and their profiles -> what changed, part by part and field by field, and what that costs."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from archspec import ModelSpec, SpecError
from archspec.errors import printable
from archspec.identity import canonical
from archspec.quantities import show
from compiler.profiling import Profile


@dataclass(frozen=True)
class Change:
    """A field that differs, or layers (half a layer each) that came, went or differ in a field.

    ``where`` is a field of the model, or ``parts[i..j]``: half layers, loops and FIT blocks in order, those
    of the first spec (of the second where parts came). A side that has nothing there is None.
    """

    what: str  # "field", "added", "removed" or "changed"
    where: str
    before: Any
    after: Any
    n: int = 1  # neighbours that are alike


@dataclass(frozen=True)
class Figure:
    """One cost of both."""

    quantity: str
    before: int | None
    after: int | None
    kind: str = ""  # of components; empty for the whole model

    @property
    def difference(self) -> int | None:
        return None if self.before is None or self.after is None else self.after - self.before


@dataclass(frozen=True)
class ProfileDiff:
    """Changes, and costs before and after: of the whole, and of each kind of component that changed."""

    names: tuple[str, str]
    changes: tuple[Change, ...]
    figures: tuple[Figure, ...]
    by_kind: tuple[Figure, ...]

    def as_json(self) -> dict[str, Any]:
        """The stable keys of ``profile A B --diff --json``."""
        return {
            "before": self.names[0],
            "after": self.names[1],
            "changes": [asdict(change) for change in self.changes],
            "costs": [_figure_json(figure) for figure in self.figures],
            "by_kind": [_figure_json(figure) for figure in self.by_kind],
        }

    def render(self) -> RenderableType:
        """Changes as lines, costs as a table."""
        title = Text(printable(f"{self.names[0]} -> {self.names[1]}"), style="bold")
        lines = [Text(printable(f"  {_told(change)}")) for change in self.changes]
        if not lines:
            lines = [Text("  the same architecture")]
        table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for heading in ("cost", "of", "before", "after", "difference", "ratio"):
            table.add_column(heading, justify="left" if heading in ("cost", "of") else "right")
        for figure in (*self.figures, *self.by_kind):
            table.add_row(*(Text(printable(cell)) for cell in _cells(figure)))
        return Group(title, *lines, table)


def diff(before: ModelSpec, after: ModelSpec, costs: tuple[Profile, Profile]) -> ProfileDiff:
    """``costs`` are the profiles of the two, asked for alike but for the length."""
    one, two = costs
    if (one.batch_size, one.dtype) != (two.batch_size, two.dtype):
        raise SpecError("profiles of different batch size or dtype are not compared")
    figures = [Figure(name, _quantities(one)[name], _quantities(two)[name]) for name in _quantities(one)]
    kinds = sorted({row.kind for profile in costs for row in profile.rows} - {"add"})
    by_kind = [
        Figure(name, _of_kind(one, kind, name), _of_kind(two, kind, name), kind)
        for kind in kinds
        for name in ("params", "flops")
    ]
    return ProfileDiff(
        (one.name, two.name),
        tuple(_changes(before, after)),
        tuple(figure for figure in figures if figure.before is not None or figure.after is not None),
        tuple(figure for figure in by_kind if figure.difference),
    )


def _changes(before: ModelSpec, after: ModelSpec) -> Iterator[Change]:
    old, new = canonical(before), canonical(after)
    layers = old.pop("layers"), new.pop("layers")
    encoders = old.get("encoder"), new.get("encoder")
    read = [encoder.pop("layers") for encoder in encoders if encoder] if all(encoders) else []
    for path, a, b in _fields(old, new, ""):
        yield Change("field", path, a, b)
    if read:
        for change in _layer_changes(read[0], read[1]):
            yield replace(change, where=f"encoder.{change.where}")
    yield from _layer_changes(layers[0], layers[1])


def _layer_changes(old: list[Any], new: list[Any]) -> Iterator[Change]:
    """By the longest common runs of halves; what was replaced by as many is compared field by field."""
    a, b = ([json.dumps(layer, sort_keys=True) for layer in layers] for layers in (old, new))
    for action, i, j, k, m in difflib.SequenceMatcher(a=a, b=b, autojunk=False).get_opcodes():
        if action == "equal":
            continue
        if action == "replace" and j - i == m - k:
            pairs = zip(range(i, j), old[i:j], new[k:m], strict=True)
            for text, group in groupby(pairs, key=lambda pair: json.dumps(pair[1:], sort_keys=True)):
                where = [index for index, _, _ in group]
                x_layer, y_layer = json.loads(text)
                for path, x, y in _fields(x_layer, y_layer, ""):
                    yield Change("changed", f"{_span(where[0], where[-1])}.{path}", x, y, len(where))
            continue
        if j > i:
            yield from _whole("removed", i, old[i:j])
        if m > k:
            yield from _whole("added", k, new[k:m])


def _whole(what: str, start: int, layers: list[Any]) -> Iterator[Change]:
    index = start
    for text, group in groupby(layers, key=lambda layer: json.dumps(layer, sort_keys=True)):
        n, layer = len(list(group)), json.loads(text)
        before, after = (layer, None) if what == "removed" else (None, layer)
        yield Change(what, _span(index, index + n - 1), before, after, n)
        index += n


def _fields(old: Any, new: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    """Every field that differs; a component of another kind is one difference."""
    same_kind = isinstance(old, dict) and isinstance(new, dict) and old.get("kind") == new.get("kind")
    if not same_kind:
        if old != new:
            yield path, old, new
        return
    for key in dict.fromkeys([*old, *new]):
        if old.get(key) != new.get(key):
            yield from _fields(old.get(key), new.get(key), f"{path}.{key}" if path else key)


def _span(first: int, last: int) -> str:
    return f"parts[{first}]" if first == last else f"parts[{first}..{last}]"


def _quantities(profile: Profile) -> dict[str, int | None]:
    return {
        "seq_len": profile.seq_len,
        "params": profile.params,
        "params_active": profile.params_active,
        **{f"flops {phase}": flops for phase, flops in profile.flops.items()},
        **{f"flops_needed {phase}": flops for phase, flops in profile.flops_needed.items()},
        **profile.memory.as_json(),
    }


def _of_kind(profile: Profile, kind: str, quantity: str) -> int:
    rows = [row for row in profile.rows if row.kind == kind]
    if quantity == "params":
        return sum(row.cost.params for row in rows)
    return sum(row.flops[profile.phase] or 0 for row in rows)


def _figure_json(figure: Figure) -> dict[str, Any]:
    found = {**asdict(figure), "difference": figure.difference}
    if not figure.kind:
        del found["kind"]
    return found


def _cells(figure: Figure) -> tuple[str, ...]:
    name = figure.quantity.partition(" ")[0]
    before, after, difference = figure.before, figure.after, figure.difference
    ratio = f"{after / before:.3g}x" if before and after is not None else "-"

    def shown(value: int | None) -> str:
        if value is None:
            return "none"
        return f"{value}" if name == "seq_len" else show(name, value)

    signed = "-" if difference is None else f"{'-' if difference < 0 else '+'}{shown(abs(difference))}"
    return figure.quantity, figure.kind or "the whole", shown(before), shown(after), signed, ratio


def _told(change: Change) -> str:
    """One change in a line."""
    times = f" ({change.n} times)" if change.n > 1 else ""
    if change.what == "added":
        return f"+ {change.where}: {_short(change.after)}{times}"
    if change.what == "removed":
        return f"- {change.where}: {_short(change.before)}{times}"
    return f"~ {change.where}: {_short(change.before)} -> {_short(change.after)}{times}"


def _short(value: Any) -> str:
    """A layer by its mixer, a component without its version, an encoder by its size, else JSON."""
    if value is None:
        return "not set"
    if isinstance(value, dict):
        for role in ("token_mixer", "channel_mixer"):
            if isinstance(value.get(role), dict):
                return f"{role} {_short(value[role])}"
        if isinstance(value.get("layers"), list) and "stem" in value:
            return f"{len(value['layers'])} parts on {_short(value.get('input'))}"
        fields = {key: inner for key, inner in value.items() if key not in ("kind", "version")}
        kind = value.get("kind", "")
        return f"{kind} {json.dumps(fields)}".strip() if fields or not kind else str(kind)
    return json.dumps(value)
