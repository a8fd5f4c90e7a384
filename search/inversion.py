"""A spec -> the genes that make it in a space, if a search gene by gene finds them.

Where it finds some they are right: what they make has the spec's hash. Where it finds none there may be some.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from archspec import ModelSpec, SpecError
from archspec.components import Components
from archspec.identity import canonical, spec_hash
from archspec.space import Space

_N_STARTS = 6
_MAX_VALUES = 64  # of one hole


def genes_of(
    spec: ModelSpec, space: Space, components: Components, *, seed: int = 0
) -> dict[str, Any] | None:
    """Genes of ``spec``; from several starts, every hole takes the value that brings the model nearest."""
    wanted, goal = spec_hash(spec), _leaves(spec)
    rng = random.Random(seed)  # noqa: S311
    best_known: dict[str, float] = {}

    def likeness(genes: Mapping[str, Any]) -> float:
        key = json.dumps(genes, sort_keys=True, default=str)
        if key not in best_known:
            try:
                found = space.spec(genes, components)
            except SpecError:
                best_known[key] = float("-inf")
            else:
                same = spec_hash(found) == wanted
                best_known[key] = float("inf") if same else _likeness(_leaves(found), goal)
        return best_known[key]

    first = {hole.gene: hole.options[0] if hole.options else hole.low for hole in space.holes}
    for start in range(_N_STARTS):
        genes = dict(first) if start == 0 else space.sample(rng)
        value, improved = likeness(genes), True
        while improved and value < float("inf"):
            improved = False
            for hole in space.holes:
                options = list(hole.values)[:_MAX_VALUES] if hole.kind != "float" else [hole.low, hole.high]
                for option in options:
                    other = {**genes, hole.gene: option}
                    if (found := likeness(other)) > value:
                        genes, value, improved = other, found, True
        if value == float("inf"):
            return genes
    return None


def _leaves(spec: ModelSpec) -> Counter[str]:
    """Every field of the model with its place, and every layer also without."""
    whole = canonical(spec)
    found = Counter(_below(whole, ""))
    for layer in whole["layers"]:
        found[json.dumps(layer, sort_keys=True)] += 1
        found.update(f"any{text}" for text in _below(layer, ""))
    found[f"{len(whole['layers'])} layers"] += 1
    return found


def _below(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, child in value.items():
            yield from _below(child, f"{path}.{key}")
    elif isinstance(value, list):
        for i, child in enumerate(value):
            yield from _below(child, f"{path}[{i}]")
    else:
        yield f"{path}={value!r}"


def _likeness(found: Counter[str], goal: Counter[str]) -> float:
    return sum((found & goal).values()) - 0.5 * sum((found - goal).values())
