"""Two specs -> the fewest layers to replace, add or take away that lead from one to the other."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from archspec import ModelSpec
from archspec.dump import written
from archspec.spec import Entry, Layers, Pattern, Repeat


@dataclass(frozen=True)
class Edit:
    """One layer of the first list that the second has otherwise; ``at`` counts the first's layers from 0.

    ``other`` is the place of the second list's layer, None where there is none. A layer to be added goes
    before ``at``.
    """

    what: Literal["replace", "remove", "add"]
    at: int
    other: int | None


def edits(first: Sequence[Any], second: Sequence[Any]) -> list[Edit]:
    """The fewest edits from ``first`` to ``second``, in order of place."""
    n, m = len(first), len(second)
    away = [[i + j if i == 0 or j == 0 else 0 for j in range(m + 1)] for i in range(n + 1)]
    for i in range(1, n + 1):
        for j in range(1, m + 1):
            kept = away[i - 1][j - 1] + (first[i - 1] != second[j - 1])
            away[i][j] = min(kept, away[i - 1][j] + 1, away[i][j - 1] + 1)
    found: list[Edit] = []
    i, j = n, m
    while i or j:
        if i and j and away[i][j] == away[i - 1][j - 1] + (first[i - 1] != second[j - 1]):
            i, j = i - 1, j - 1
            if first[i] != second[j]:
                found.append(Edit("replace", i, j))
        elif i and away[i][j] == away[i - 1][j] + 1:
            i -= 1
            found.append(Edit("remove", i, None))
        else:
            j -= 1
            found.append(Edit("add", i, j))
    return found[::-1]


def flat(spec: ModelSpec) -> ModelSpec:
    """The same architecture with repeats and patterns written out; loops and FIT blocks stay whole."""
    return spec.model_copy(update={"layers": tuple(_flat(spec.layers))})


def _flat(entries: Layers) -> Iterator[Entry]:
    for entry in entries:
        match entry:
            case Repeat():
                yield from entry.repeat * tuple(_flat(entry.layers))
            case Pattern():
                yield from (entry.symbols[symbol] for symbol in entry.pattern)
            case _:
                yield entry


def layer_words(spec: ModelSpec) -> tuple[str, ...]:
    """Each layer of a flat spec in words, with all that is not a default: equal words, equal layer."""
    return tuple(_words(layer) for layer in written(spec)["layers"])


def rest_words(spec: ModelSpec) -> dict[str, str]:
    """All that is not a layer, by its field: ``d_model``, ``stem``, ``head``, ..."""
    tree = written(spec)
    return {key: _words(value) for key, value in tree.items() if key not in ("layers", "name", "description")}


def edited(spec: ModelSpec, edit: Edit, other: ModelSpec) -> ModelSpec:
    """A flat ``spec`` with one layer as the flat ``other`` has it."""
    layers = list(spec.layers)
    put = [] if edit.other is None else [other.layers[edit.other]]
    layers[edit.at : edit.at + (edit.what != "add")] = put
    return spec.model_copy(update={"layers": tuple(layers)})


def _words(value: Any) -> str:
    if isinstance(value, dict) and {"token_mixer", "channel_mixer"} & value.keys():
        parts = [_words(value[role]) for role in ("token_mixer", "cross", "channel_mixer") if role in value]
        around = [f"{key} {_words(value[key])}" for key in ("norm", "residual") if key in value]
        return ", ".join([" + ".join(part for part in parts if part != "none") or "none", *around])
    if isinstance(value, dict) and "kind" in value:
        fields = ", ".join(f"{key} {_words(field)}" for key, field in value.items() if key != "kind")
        return f"{value['kind']} ({fields})" if fields else str(value["kind"])
    if isinstance(value, str):
        return value
    return json.dumps(value, sort_keys=True)
