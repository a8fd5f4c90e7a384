"""Graph -> Cost of every node in closed form: integers, no tensor, one evaluation per unique component."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace

from archspec import DTYPE_BYTES, Cost, CostContext, Dtype, Input, Phase, Site, SpecError
from archspec.config import ComponentConfig
from archspec.inputs import ImageInput
from compiler.clocks import Clock, clocks
from compiler.cost.stepping import step_cost, with_caches
from compiler.graph import Graph, Op, all_inputs, input_of, ops
from zoo.contract import HeadConfig, StemConfig

_COST_FIELDS = tuple(field.name for field in fields(Cost))


@dataclass(frozen=True)
class Extent:
    """How many positions a node puts out at once: ``fold`` groups of ``length`` positions per sequence."""

    length: int
    fold: int = 1


@dataclass(frozen=True)
class Asked:
    """A component at a place: nodes that are asked alike cost alike."""

    config: ComponentConfig
    site: Site
    extent: Extent
    d_source: int
    source_len: int
    input: Input | None
    clock: Clock
    of_encoder: bool = False

    def cost(self, *, batch_size: int, dtype: Dtype, phase: Phase, context_len: int, n_tokens: int) -> Cost:
        """``n_tokens`` is the length of the sequence in phases other than ``decode``."""
        n_seen = context_len if phase == "decode" else n_tokens
        step = self.context(batch_size=batch_size, dtype=dtype, phase="decode", context_len=context_len)
        if self.of_encoder:  # while tokens are decoded it has run, before the first one, and keeps nothing
            forward = "prefill" if phase == "decode" else phase
            ctx = self.context(batch_size=batch_size, dtype=dtype, phase=forward, context_len=0)
            cost = replace(self._pass(ctx), kv_bytes_per_token=0, state_bytes=0)
            return cost.idle() if phase == "decode" else cost
        if phase == "decode":
            cost = step_cost(self.config, step, self.clock, n_seen)
        else:
            cost = self._pass(self.context(batch_size=batch_size, dtype=dtype, phase=phase, context_len=0))
        return with_caches(cost, self.config, step, self.clock, n_seen)

    def _pass(self, ctx: CostContext) -> Cost:
        """Of a whole sequence; in training with its backward pass."""
        cost = self.config.cost(ctx)
        if ctx.phase != "train":
            return cost
        done, needed = self.config.backward_flops(ctx, cost)
        return replace(cost, flops_backward=done, flops_backward_needed=needed)

    def context(self, *, batch_size: int, dtype: Dtype, phase: Phase, context_len: int) -> CostContext:
        return CostContext(
            d_model=self.site.d_model,
            seq_len=1 if phase == "decode" else self.extent.length,
            batch_size=batch_size * (1 if phase == "decode" else self.extent.fold),
            causal=self.site.causal,
            dtype=dtype,
            phase=phase,
            context_len=context_len if phase == "decode" else 0,
            max_len=self.site.seq_len,
            input=self.input,
            d_source=self.d_source,
            source_len=self.source_len,
        )


def model_cost(
    graph: Graph,
    *,
    batch_size: int = 1,
    seq_len: int | None = None,
    source_len: int | None = None,
    dtype: Dtype = "float32",
    phase: Phase = "prefill",
    context_len: int = 0,
) -> dict[str, Cost]:
    """Cost by node, in the order of execution; see ``CostPlan.costs``."""
    plan = CostPlan(graph, seq_len, source_len)
    return plan.costs(batch_size=batch_size, dtype=dtype, phase=phase, context_len=context_len)


def total(costs: Iterable[Cost]) -> Cost:
    """The sum of many costs; equal layers share one object, which is multiplied."""
    distinct: dict[int, Cost] = {}
    times: Counter[int] = Counter()
    for cost in costs:
        distinct[id(cost)] = cost
        times[id(cost)] += 1
    sums = {
        name: sum(times[key] * getattr(cost, name) for key, cost in distinct.items()) for name in _COST_FIELDS
    }
    workspace = max((cost.workspace_bytes for cost in distinct.values()), default=0)
    return Cost(**sums | {"workspace_bytes": workspace})


class CostPlan:
    """A graph and an input length, prepared for questions: ``asked`` holds every unique component once."""

    def __init__(self, graph: Graph, seq_len: int | None = None, source_len: int | None = None):
        """``seq_len`` is the input's length, ``source_len`` the encoder's; the greatest ones by default."""
        self.graph = graph
        self.ops = dict(ops(graph))
        self.sources = all_inputs(graph)
        self.extents: dict[str, Extent] = {}
        self.asked: list[Asked] = []
        self.nodes: dict[str, int | None] = {}  # which of ``asked`` a node is; None without a component
        self.repeated: set[str] = set()  # later turns of a loop
        self.plain: dict[str, tuple[str, int]] = {}  # kind and elements of a node without a component
        self.clocks = clocks(graph)
        found: dict[tuple[object, ...], int] = {}
        modules: set[str] = set()
        for name, op in self.ops.items():
            before = [self.extents[source] for source in self.sources[name]]
            asked_len = source_len if op.of_encoder else seq_len
            self.extents[name] = _extent(graph, op, before, asked_len)
            self.nodes[name] = None
            if op.config is None:
                assert op.stream is not None, f"{name} has no stream: costs come after infer_shapes"
                extent = self.extents[name]
                self.plain[name] = (op.kind, extent.fold * extent.length * op.stream.width)
                continue
            assert op.site is not None, f"{name} has no site: costs come after infer_shapes"
            extent = before[0] if op.kind == "head" else self.extents[name]
            n_read = before[1].length if op.d_source is not None else 0
            input = input_of(graph, op) if op.kind in ("stem", "head") else None
            clock, of_encoder = self.clocks[name], self.of_encoder(name)
            key = (id(op.config), op.site, extent, op.d_source, n_read, clock, of_encoder)
            if key not in found:
                found[key] = len(self.asked)
                asked = Asked(op.config, op.site, extent, op.d_source or 0, n_read, input, clock, of_encoder)
                self.asked.append(asked)
            self.nodes[name] = found[key]
            if op.module in modules:
                self.repeated.add(name)
            modules.add(op.module or name)

    def of_encoder(self, name: str) -> bool:
        """Whether a node belongs to the encoder, which runs once however many tokens are decoded."""
        stream = self.ops[name].stream
        return stream is not None and stream.of_encoder

    def costs(
        self, *, batch_size: int = 1, dtype: Dtype = "float32", phase: Phase = "prefill", context_len: int = 0
    ) -> dict[str, Cost]:
        """Cost by node, in the order of execution; a loop's parameters are counted at its first turn.

        In phase ``decode`` one token follows ``context_len`` earlier ones; whether the model can decode is
        the caller's to know. Phase ``train`` is the forward pass of training, but for ``flops_backward``.
        """
        n_tokens = self.extents["stem"].length
        answers = [
            asked.cost(
                batch_size=batch_size, dtype=dtype, phase=phase, context_len=context_len, n_tokens=n_tokens
            )
            for asked in self.asked
        ]
        bare = [_without_params(answer) for answer in answers] if self.repeated else []
        plain: dict[tuple[str, int], Cost] = {}
        costs: dict[str, Cost] = {}
        for name, index in self.nodes.items():
            if index is not None:
                costs[name] = bare[index] if name in self.repeated else answers[index]
                continue
            kind, elements = self.plain[name]
            if phase == "decode":
                clock = self.clocks[name]
                runs = clock.ticks(context_len) and kind != "shift" and not self.of_encoder(name)
                n_positions = (clock.n_latents or 1) * runs
                elements = elements // (self.extents[name].fold * self.extents[name].length) * n_positions
            key = (kind, batch_size * elements)
            if key not in plain:
                plain[key] = _plain_cost(*key, DTYPE_BYTES[dtype])
            costs[name] = plain[key]
        return costs


def _extent(graph: Graph, op: Op, sources: list[Extent], seq_len: int | None) -> Extent:
    match op.kind:
        case "condition" | "time" | "condition_tokens":
            assert op.stream is not None
            return Extent(op.stream.length)
        case "earlier_latents":
            n_tokens = input_of(graph, op).seq_len if seq_len is None else seq_len
            n_positions = stem_length(graph, graph.nodes["stem"]["op"], n_tokens)
            return Extent(-(-n_positions // op.number("length")) * op.number("n_latents"))
        case "input" | "mask":
            return Extent(input_of(graph, op).seq_len if seq_len is None else seq_len)
        case "stem":
            return Extent(stem_length(graph, op, sources[0].length))
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


def stem_length(graph: Graph, op: Op, seq_len: int) -> int:
    """Length of the stream made of ``seq_len`` raw positions."""
    input, stem = input_of(graph, op), op.config
    asked, path = ("source_len", "encoder.input") if op.of_encoder else ("seq_len", "input")
    assert isinstance(stem, StemConfig)
    assert op.site is not None
    if seq_len == input.seq_len:
        return op.site.seq_len
    if isinstance(input, ImageInput):
        raise SpecError(f"{asked} {seq_len}: images always have {input.seq_len} pixels", path=path)
    shorter = input.model_copy(update={"seq_len": seq_len})
    if (misfit := stem.input_misfit(shorter)) is not None:
        raise SpecError(f"{asked} {seq_len}: {misfit}", path=f"{path}.seq_len")
    return stem.out_length(shorter)


def _plain_cost(kind: str, elements: int, item_bytes: int) -> Cost:
    """A node without a component: additions count by element, a shift is a copy, all else is a view."""
    if kind == "add":
        return Cost(flops_elementwise=elements, bytes_moved=3 * elements * item_bytes)
    return Cost(bytes_moved=2 * elements * item_bytes) if kind == "shift" else Cost()


def _without_params(cost: Cost) -> Cost:
    return replace(cost, params=0, params_active=0, params_embedding=0, buffer_bytes=0)
