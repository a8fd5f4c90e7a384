"""A space or spec -> the entries of a latency table that its members need, measured where they are missing.

What is missing is measured together with a few whole models drawn from the space, to which predictions are
then scaled. What another study has measured under the same conditions is not measured again.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from archspec import ModelSpec, SpecError
from archspec.identity import spec_hash
from archspec.space import Space
from compiler.build import build_graph
from compiler.cost.closed_form import CostPlan, total
from compiler.device.block_table import BlockTable, Conditions, Entry, Key
from compiler.device.measuring import Asked, Bench, Effort, Progress, block_asked
from compiler.device.prediction import keyed, model_key
from compiler.device.runs import Backend, Shape
from compiler.device.timers import clock_of
from compiler.device.versions import code_text, device_text, versions_text
from zoo import Zoo

_ENUMERATED = 500  # fillings up to which all are looked at
_UNCHANGED = 200  # samples in a row that bring no new block end the search for blocks
_SAMPLED = 2_000
STATISTICS = ("median", "lower_quartile")
ShapeOf = Callable[[ModelSpec], Shape]


def default_table() -> Path:
    """Where a table is kept if nobody says where: in the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "archspec" / "latency.sqlite"


def conditions(
    device: torch.device,
    *,
    shape: Shape,
    backend: Backend,
    clock: str,
    statistic: str,
    plugins: tuple[str, ...],
) -> Conditions:
    """What is measured now on ``device`` belongs to these conditions."""
    if statistic not in STATISTICS:
        raise SpecError(f"unknown statistic '{statistic}'", hint=f"known here: {', '.join(STATISTICS)}")
    return Conditions(
        device=device_text(device),
        threads=torch.get_num_threads() if device.type == "cpu" else 1,
        dtype=shape.dtype,
        phase=shape.phase,
        backend=backend,
        clock=clock_of(device, clock),
        statistic=statistic,
        versions=versions_text(device),
        code=code_text(plugins),
    )


def shape_of(shape: Shape, seq_len: int | None) -> ShapeOf:
    """``shape`` at ``seq_len`` positions, by default as many as each model takes."""

    def of(spec: ModelSpec) -> Shape:
        if seq_len is not None and not 1 <= seq_len <= spec.input.seq_len:
            raise SpecError(f"seq_len {seq_len} is not in 1..{spec.input.seq_len}, what '{spec.name}' takes")
        return replace(shape, seq_len=seq_len or spec.input.seq_len)

    return of


@dataclass
class Needs:
    """Blocks and bases by key, and a sample of models; ``is_complete`` if every filling was looked at."""

    asked: dict[Key, Asked] = field(default_factory=dict)
    specs: dict[str, ModelSpec] = field(default_factory=dict)  # by hash
    n_seen: int = 0
    is_complete: bool = False

    def add(self, spec: ModelSpec, shape: Shape, zoo: Zoo) -> bool:
        """Take up the parts of ``spec``; whether one was new."""
        before = len(self.asked)
        for _, block, key in keyed(spec, shape, zoo).items():
            if key not in self.asked:
                self.asked[key] = block_asked(key, block)
        self.specs.setdefault(spec_hash(spec), spec)
        self.n_seen += 1
        return len(self.asked) > before


def needs_of(space: Space, shape_of: ShapeOf, *, zoo: Zoo, seed: int = 0) -> Needs:
    """What the members of ``space`` need.

    A large space is sampled until nothing new turns up. A space of which nothing can be built is a SpecError
    with one of the reasons.
    """
    found = Needs()
    reason: SpecError | None = None
    n_fillings, is_exact = space.count()
    found.is_complete = is_exact and n_fillings <= _ENUMERATED
    unchanged = 0
    for genes in space.enumerate() if found.is_complete else _samples(space, seed):
        try:
            spec = space.spec(genes, zoo.components)
            is_new = found.add(spec, shape_of(spec), zoo)
        except SpecError as error:
            reason = reason or error
            unchanged += 1
        else:
            unchanged = 0 if is_new else unchanged + 1
        if not found.is_complete and unchanged >= _UNCHANGED:
            break
    if not found.specs:
        message = f"no candidate of this space can be built: {reason.problems[0].message if reason else ''}"
        raise SpecError(message, file=space.source.file)
    return found


def _samples(space: Space, seed: int) -> Iterator[dict[str, Any]]:
    rng = random.Random(seed)  # noqa: S311
    for _ in range(_SAMPLED):
        yield space.sample(rng)


def models_asked(needs: Needs, shape_of: ShapeOf, n: int, *, zoo: Zoo) -> list[Asked]:
    """``n`` models for every length, spread over the range of FLOPs."""
    by_length: dict[int, list[tuple[int, str, Asked]]] = {}
    for name, spec in needs.specs.items():
        asked = shape_of(spec)
        parts = keyed(spec, asked, zoo).parts()
        work = total(CostPlan(build_graph(spec, zoo=zoo), asked.seq_len).costs().values()).flops
        one = Asked(model_key(spec, asked), f"{spec.name} {name[:12]}", (spec,), parts)
        by_length.setdefault(asked.seq_len, []).append((work, name, one))
    return [one for rows in by_length.values() for one in _spread(sorted(rows, key=lambda row: row[:2]), n)]


def _spread(rows: list[tuple[int, str, Asked]], n: int) -> list[Asked]:
    """From the middles of ``n`` equal shares of a sorted list."""
    n = min(n, len(rows))
    return [rows[(2 * i + 1) * len(rows) // (2 * n)][2] for i in range(n)]


def measure_missing(
    table: BlockTable, bench: Bench, asked: list[Asked], effort: Effort, *, progress: Progress | None = None
) -> list[Entry]:
    """Measure what ``table`` lacks, and keep it session by session; the new entries."""
    missing = [one for one in asked if table.get(one.key) is None]
    found: list[Entry] = []
    for entries in bench.measure(missing, effort, progress=progress):
        table.add(entries)
        found += entries
    return found
