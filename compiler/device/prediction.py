"""A spec and a latency table -> predicted time: the sum of its blocks' entries, scaled by measured models.

    time = scale * (base + sum of blocks) + overhead

Every part says where its figure comes from: ``measured`` is an entry of exactly this block, shape and
conditions; ``interpolated`` lies between entries of the same block at other lengths; ``roofline`` is a lower
bound, raised by what measured blocks need beyond theirs. Scale and overhead are fitted to the whole models in
the table with the same shape and conditions, and drawn to 1 and 0 where these are few. The interval is meant
to hold 90 % of the time: it combines the spread of the entries and how far the models were off the fit.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from archspec import Cost, ModelSpec, SpecError
from archspec.identity import spec_hash
from compiler.build import build_graph
from compiler.cost.closed_form import CostPlan, total
from compiler.device.block_table import BlockTable, Entry, Key
from compiler.device.blocks import Block, Decomposition, decompose
from compiler.device.device_profile import Basis, DeviceProfile
from compiler.device.roofline import roofline
from compiler.device.runs import Shape
from zoo import Zoo

Source = Literal["measured", "interpolated", "roofline"]
_SOURCES: tuple[Source, ...] = ("measured", "interpolated", "roofline")
_WITHIN = 1.645  # standard deviations on each side hold 90 %
_UNCALIBRATED = 0.15  # relative deviation assumed where no model was measured; sums come out low
_INTERPOLATED = 0.10  # relative deviation of what lies between two lengths
_PRIOR_SCALE = 0.15  # how far from 1 a scale is believed to be
_PRIOR_OVERHEAD = 0.05  # overhead, as a share of the usual model
_RESIDUAL = 0.03  # of one model, before any was seen


@dataclass(frozen=True)
class Part:
    """One block at its place; milliseconds before scale and overhead."""

    path: str
    what: str
    ms: float
    low_ms: float
    high_ms: float
    source: Source
    block: str


@dataclass(frozen=True)
class Fit:
    """``scale`` and ``overhead_ms`` with the relative deviation of the ``n_models`` around the fit."""

    scale: float = 1.0
    overhead_ms: float = 0.0
    deviation: float = _UNCALIBRATED
    n_models: int = 0


@dataclass(frozen=True)
class Prediction:
    """``source`` is the weakest of the parts'."""

    ms: float
    low_ms: float
    high_ms: float
    parts: tuple[Part, ...]
    fit: Fit
    shape: Shape
    backend: str
    clock: str

    @property
    def source(self) -> Source:
        return max((part.source for part in self.parts), key=_SOURCES.index)

    def as_json(self) -> dict[str, Any]:
        """Stable keys; a high end that nobody knows is null."""
        return {
            "value": self.ms,
            "low": self.low_ms,
            "high": self.high_ms if math.isfinite(self.high_ms) else None,
            "source": self.source,
            "fit": asdict(self.fit),
            "parts": [
                asdict(part) | {"high_ms": part.high_ms if math.isfinite(part.high_ms) else None}
                for part in self.parts
            ],
        }


@dataclass(frozen=True)
class Keyed:
    """A model's parts with their keys, the base first."""

    decomposition: Decomposition
    base: Key
    blocks: tuple[Key, ...]

    def parts(self) -> dict[str, int]:
        """How often each key occurs, as a model's entry keeps it."""
        return dict(Counter(key_text(key) for key in (self.base, *self.blocks)))

    def items(self) -> Iterator[tuple[str, Block, Key]]:
        yield "base", self.decomposition.base, self.base
        for (path, block), key in zip(self.decomposition.blocks, self.blocks, strict=True):
            yield path, block, key


def keyed(spec: ModelSpec, shape: Shape, zoo: Zoo) -> Keyed:
    """The keys under which a table holds the parts of ``spec``."""
    found = decompose(spec, zoo, seq_len=shape.seq_len)
    base = Key("base", found.base.hash, shape.batch_size, shape.seq_len, spec.d_model)
    blocks = (
        Key("block", block.hash, shape.batch_size, found.length, spec.d_model) for _, block in found.blocks
    )
    return Keyed(found, base, tuple(blocks))


def model_key(spec: ModelSpec, shape: Shape) -> Key:
    """The key of the whole model."""
    return Key("model", spec_hash(spec), shape.batch_size, shape.seq_len, spec.d_model)


def key_text(key: Key) -> str:
    """A key of the same table and batch size in one word."""
    return f"{key.kind}:{key.block}:{key.length}"


def predict(
    spec: ModelSpec, table: BlockTable, shape: Shape, *, zoo: Zoo, device: DeviceProfile | None = None
) -> Prediction:
    """The time of ``spec`` by ``table``; ``device`` is for the roofline of blocks that it lacks.

    A block that is neither in the table nor has a roofline is a SpecError.
    """
    found = keyed(spec, shape, zoo)
    answers: dict[Key, Part] = {}
    parts = []
    for path, block, key in found.items():
        if key not in answers:
            answers[key] = _part(block, key, table, shape, zoo, device)
        parts.append(Part(**{**vars(answers[key]), "path": path}))
    fitted = fit(table, shape)
    raw = math.fsum(part.ms for part in parts)
    ms = fitted.scale * raw + fitted.overhead_ms
    below, above = _spread(parts, "low_ms"), _spread(parts, "high_ms")
    model = _WITHIN * fitted.deviation * ms
    return Prediction(
        ms,
        low_ms=max(0.0, ms - math.hypot(fitted.scale * below, model)),
        high_ms=ms + math.hypot(fitted.scale * above, model),
        parts=tuple(parts),
        fit=fitted,
        shape=shape,
        backend=table.conditions.backend,
        clock=table.conditions.clock,
    )


def fit(table: BlockTable, shape: Shape) -> Fit:
    """Scale and overhead from the whole models in ``table`` that have the shape's batch size and length."""
    sums, times = [], []
    for entry in table.entries("model"):
        raw = _sum_of(entry, table)
        if (entry.key.batch_size, entry.key.length) == (shape.batch_size, shape.seq_len) and raw is not None:
            sums.append(raw)
            times.append(entry.ms)
    return fitted_to(sums, times)


def fitted_to(sums: Sequence[float], times: Sequence[float]) -> Fit:
    """Least squares of relative errors, drawn to scale 1 and overhead 0."""
    if not sums:
        return Fit()
    x, y = np.asarray(sums), np.asarray(times)
    usual = float(np.median(y))
    rows = np.stack([x / y, usual / y], axis=1) / _RESIDUAL  # unknowns: scale, overhead / usual
    goal = np.ones(len(y)) / _RESIDUAL
    prior = np.diag([1 / _PRIOR_SCALE, 1 / _PRIOR_OVERHEAD])
    scale, overhead = np.linalg.lstsq(
        np.concatenate([rows, prior]), np.concatenate([goal, [1 / _PRIOR_SCALE, 0.0]]), rcond=None
    )[0]
    residuals = (scale * x + overhead * usual) / y - 1.0
    n = len(y)
    deviation = math.sqrt((float(residuals @ residuals) + 2 * _RESIDUAL**2) / n)  # two count as not yet seen
    return Fit(float(scale), float(overhead) * usual, deviation, n)


def _sum_of(model: Entry, table: BlockTable) -> float | None:
    """The sum of a measured model's parts; None if one of them is not in the table any more."""
    known = {
        key_text(entry.key): entry.ms
        for entry in table.entries()
        if entry.key.batch_size == model.key.batch_size
    }
    parts = model.parts or {}
    if not parts or not parts.keys() <= known.keys():
        return None
    return math.fsum(n * known[part] for part, n in parts.items())


def _part(
    block: Block, key: Key, table: BlockTable, shape: Shape, zoo: Zoo, device: DeviceProfile | None
) -> Part:
    entry = table.get(key)
    if entry is not None:
        return Part("", block.what, entry.ms, entry.low_ms, entry.high_ms, "measured", key.block)
    ms = _between(table.other_lengths(key), key.length)
    if ms is not None:
        spread = _WITHIN * _INTERPOLATED * ms
        return Part("", block.what, ms, ms - spread, ms + spread, "interpolated", key.block)
    if device is None:
        shape_text = f"batch_size {key.batch_size}, length {key.length}, d_model {key.d_model}"
        raise SpecError(
            f"the latency table {table.file} has no entry for {block.what} ({shape_text}) here and now",
            hint="let it be measured, or name a --device-profile for a roofline",
        )
    bound = _bound_ms(block, key, shape, zoo, device)
    factors = _beyond_roofline(table, shape, device)
    if not factors:
        return Part("", block.what, bound, bound, math.inf, "roofline", key.block)
    usual, most = statistics.median(factors), max(factors)
    return Part("", block.what, usual * bound, bound, most * bound, "roofline", key.block)


def _between(entries: Sequence[Entry], length: int) -> float | None:
    """On a straight line between the neighbours in logarithms; None outside them."""
    below = [entry for entry in entries if entry.key.length < length and entry.ms > 0]
    above = [entry for entry in entries if entry.key.length > length and entry.ms > 0]
    if not below or not above:
        return None
    a, b = below[-1], above[0]
    share = math.log(length / a.key.length) / math.log(b.key.length / a.key.length)
    return math.exp((1 - share) * math.log(a.ms) + share * math.log(b.ms))


def _bound_ms(block: Block, key: Key, shape: Shape, zoo: Zoo, device: DeviceProfile) -> float:
    spec = block.copies(0 if key.kind == "base" else 1)
    costs = CostPlan(build_graph(spec, zoo=zoo), key.length).costs(
        batch_size=key.batch_size,
        dtype=shape.dtype,
        phase=shape.phase,
        context_len=key.length - 1 if shape.phase == "decode" else 0,
    )
    if key.kind == "block":
        costs = {name: cost for name, cost in costs.items() if name.startswith("layers.")}
    return _roofline_ms(total(costs.values()), shape, device)


def _roofline_ms(cost: Cost, shape: Shape, device: DeviceProfile) -> float:
    basis: Basis = "measured" if device.flops_per_second(shape.dtype, "measured") else "peak"
    return roofline([cost], device, dtype=shape.dtype, phase=shape.phase, basis=basis).bound_ms


def _beyond_roofline(table: BlockTable, shape: Shape, device: DeviceProfile) -> list[float]:
    """How many times its roofline every measured block takes."""
    factors = []
    for entry in table.entries("block"):
        cost = Cost(
            params=entry.params,
            flops=entry.flops,
            flops_needed=entry.flops,
            bytes_moved=entry.bytes_moved,
        )
        bound = _roofline_ms(cost, shape, device)
        if bound > 0 and entry.ms > 0:
            factors.append(entry.ms / bound)
    return factors


def _spread(parts: Sequence[Part], end: Literal["low_ms", "high_ms"]) -> float:
    """How far the sum may be off on one side: copies of one block are off together, blocks apart."""
    times = Counter(part.block for part in parts)
    alone = {part.block: abs(getattr(part, end) - part.ms) for part in parts}
    return math.hypot(*(n * alone[block] for block, n in times.items()))
