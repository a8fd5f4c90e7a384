"""Graph -> Cost of every node in closed form: integers, no tensor, one evaluation per unique component."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace

from archspec import Cost, CostContext, Dtype, Phase, SpecError
from archspec.inputs import ImageInput
from compiler.graph import Graph, Op, inputs_of, ops, spec_of
from zoo.contract import HeadConfig, StemConfig


@dataclass(frozen=True)
class Extent:
    """How many positions a node puts out at once: ``fold`` groups of ``length`` positions per sequence."""

    length: int
    fold: int = 1


def model_cost(
    graph: Graph,
    *,
    batch_size: int = 1,
    seq_len: int | None = None,
    dtype: Dtype = "float32",
    phase: Phase = "prefill",
    context_len: int = 0,
) -> dict[str, Cost]:
    """Cost by node, in the order of execution; parameters of a ``loop`` are counted at its first turn.

    ``seq_len`` is the input's length, the greatest one by default. In phase ``decode`` one token follows
    ``context_len`` earlier ones; whether the model can decode is the caller's to know (``decode_obstacle``).
    Phase ``train`` is the forward pass of training; its backward pass is not in it.
    """
    sizes = extents(graph, 1 if phase == "decode" else seq_len, decode=phase == "decode")
    known: dict[tuple[int, CostContext], Cost] = {}
    built: set[str] = set()
    costs: dict[str, Cost] = {}
    for name, op in ops(graph):
        sources = inputs_of(graph, name)
        if op.config is None:
            costs[name] = _plain_cost(op, sizes[name], len(sources), batch_size, dtype)
            continue
        ctx = node_context(graph, name, sizes, batch_size, dtype, phase, context_len)
        key = (id(op.config), ctx)
        if key not in known:
            known[key] = op.config.cost(ctx)
        costs[name] = _without_params(known[key]) if op.module in built else known[key]
        built.add(op.module or name)
    return costs


def total(costs: Iterable[Cost]) -> Cost:
    """The sum of many costs, in one pass."""
    costs = list(costs)
    sums = {field.name: sum(getattr(cost, field.name) for cost in costs) for field in fields(Cost)}
    workspace = max((cost.workspace_bytes for cost in costs), default=0)
    return Cost(**sums | {"workspace_bytes": workspace})


def node_context(
    graph: Graph,
    name: str,
    sizes: dict[str, Extent],
    batch_size: int,
    dtype: Dtype,
    phase: Phase,
    context_len: int,
) -> CostContext:
    """The question that the component at ``name`` is asked."""
    op: Op = graph.nodes[name]["op"]
    assert op.site is not None, f"{name} has no site: costs come after infer_shapes"
    source_len = 0
    if op.d_source is not None:
        source_len = sizes[inputs_of(graph, name)[1]].length
    extent = sizes[inputs_of(graph, name)[0]] if op.kind == "head" else sizes[name]
    return CostContext(
        d_model=op.site.d_model,
        seq_len=extent.length,
        batch_size=batch_size * extent.fold,
        causal=op.site.causal,
        dtype=dtype,
        phase=phase,
        context_len=context_len if phase == "decode" else 0,
        max_len=op.site.seq_len,
        input=spec_of(graph).input if op.kind in ("stem", "head") else None,
        d_source=op.d_source or 0,
        source_len=source_len,
    )


def extents(graph: Graph, seq_len: int | None = None, *, decode: bool = False) -> dict[str, Extent]:
    """Positions at every node when the input has ``seq_len`` of them; in decoding one everywhere."""
    if decode:
        return {name: Extent(1) for name in graph}
    sizes: dict[str, Extent] = {}
    for name, op in ops(graph):
        sources = [sizes[source] for source in inputs_of(graph, name)]
        sizes[name] = _extent(graph, op, sources, seq_len)
    return sizes


def _extent(graph: Graph, op: Op, sources: list[Extent], seq_len: int | None) -> Extent:
    spec = spec_of(graph)
    match op.kind:
        case "input" | "mask":
            return Extent(spec.input.seq_len if seq_len is None else seq_len)
        case "stem":
            return Extent(_stem_length(graph, op, sources[0].length))
        case "group":
            length = op.number("length")
            return Extent(length, -(-sources[0].length // length))
        case "latents":
            return Extent(-(-sources[0].length // op.number("length")) * op.number("n_latents"))
        case "ungroup":
            return sources[1]
        case "head":
            assert isinstance(op.config, HeadConfig)
            return sources[0] if op.config.per_position else Extent(1)
    return sources[0]


def _stem_length(graph: Graph, op: Op, seq_len: int) -> int:
    """Length of the stream made of ``seq_len`` raw positions."""
    spec, stem = spec_of(graph), op.config
    assert isinstance(stem, StemConfig)
    if seq_len == spec.input.seq_len:
        assert op.site is not None
        return op.site.seq_len
    if isinstance(spec.input, ImageInput):
        raise SpecError(f"seq_len {seq_len}: images always have {spec.input.seq_len} pixels", path="input")
    shorter = spec.input.model_copy(update={"seq_len": seq_len})
    if (misfit := stem.input_misfit(shorter)) is not None:
        raise SpecError(f"seq_len {seq_len}: {misfit}", path="input.seq_len")
    return stem.out_length(shorter)


def _plain_cost(op: Op, size: Extent, n_inputs: int, batch_size: int, dtype: Dtype) -> Cost:
    """A node without a component: additions count by element, views are free, a shift is a copy."""
    assert op.stream is not None
    elements = batch_size * size.fold * size.length * op.stream.width
    item_bytes = CostContext(d_model=1, seq_len=1, dtype=dtype).item_bytes
    if op.kind == "add":
        return Cost(
            flops_elementwise=(n_inputs - 1) * elements, bytes_moved=(n_inputs + 1) * elements * item_bytes
        )
    return Cost(bytes_moved=2 * elements * item_bytes) if op.kind == "shift" else Cost()


def _without_params(cost: Cost) -> Cost:
    return replace(cost, params=0, params_active=0, params_embedding=0, buffer_bytes=0)
