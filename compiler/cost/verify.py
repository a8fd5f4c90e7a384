"""The closed form against its witnesses: every unique component at small lengths, the whole model if it fits.

Multiply-adds and parameters are compared as integers, with fvcore and our handles (forward) and with our own
trace (forward and training). Beside them stands what fvcore says alone and what torch's FlopCounterMode says,
and which operations make the difference.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import psutil
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from archspec import ComponentConfig, Cost, CostContext
from compiler.cost.closed_form import Asked, CostPlan, Extent, stem_length, total
from compiler.cost.comparison import compare
from compiler.cost.fvcore_check import count_parameters
from compiler.cost.legal_lengths import LENGTHS, MOST_FLOPS, model_lengths, raw_lengths, source_length
from compiler.cost.verification import Check, Verification
from compiler.graph import Graph, Op, input_of, inputs_of, spec_of
from compiler.passes.lower import component_of, lower
from compiler.random_inputs import random_condition, random_inputs
from zoo import Zoo
from zoo.contract import Head, HeadConfig, Mixer, Stem, Transfer

_BATCH = 2
_MOST_REACH = 512  # windows and chunks up to here are passed twice
_CONTEXT = 5  # tokens before the counted decoding step
_MEMORY_SHARE = 0.25  # of what is free, for one module under test


def verify_costs(graph: Graph, zoo: Zoo) -> Verification:
    """Build every unique component of ``graph`` alone, then the whole model, trace them, and compare."""
    plan = CostPlan(graph)
    checks: list[Check] = []
    skipped: list[str] = []
    for asked, nodes in _unique(plan):
        cost = asked.config.cost(_context(asked, 1))
        if (reason := _too_big(cost)) is not None:
            skipped.append(f"{nodes[0]}: {reason}")
            continue
        component = _Component(graph, zoo, asked, nodes[0], len(nodes))
        checks += component.checks()
    n_unchecked = len(skipped)
    if (reason := _too_big(total(plan.costs().values()))) is not None:
        skipped.append(f"the whole model: {reason}")
    else:
        checks += _model_checks(graph, zoo)
    return Verification(tuple(checks), tuple(skipped), n_unchecked, batch_size=_BATCH)


def _unique(plan: CostPlan) -> list[tuple[Asked, list[str]]]:
    """Each unique component with the nodes that are such; equal configurations count as one."""
    found: list[tuple[Asked, list[str]]] = []
    for index, asked in enumerate(plan.asked):
        nodes = [name for name, i in plan.nodes.items() if i == index]
        twin = next((entry for entry in found if entry[0] == asked), None)
        if twin is None:
            found.append((asked, nodes))
        else:
            twin[1].extend(nodes)
    return found


class _Component:
    """A unique component, built alone."""

    def __init__(self, graph: Graph, zoo: Zoo, asked: Asked, path: str, n_nodes: int):
        self.graph, self.asked, self.path, self.n_nodes = graph, asked, path, n_nodes
        self.op: Op = graph.nodes[path]["op"]
        with _constant_weights():
            self.module = component_of(self.op, zoo, graph).eval()
        with torch.device("meta"):
            self.twin = component_of(self.op, zoo, graph)
        self.params = count_parameters(self.module)
        if (
            isinstance(self.module, Head)
            and isinstance(self.op.config, HeadConfig)
            and self.op.config.is_tied
        ):
            with _constant_weights():
                stem = component_of(graph.nodes["stem"]["op"], zoo, graph)
            assert isinstance(stem, Stem)
            self.module.tie(stem)
            assert isinstance(self.twin, Head)
            with torch.device("meta"):
                other = component_of(graph.nodes["stem"]["op"], zoo, graph)
            assert isinstance(other, Stem)
            self.twin.tie(other)
            self.params = count_parameters(self.module) - stem.table().numel()  # counted at the stem

    def checks(self) -> Iterator[Check]:
        cases = list(self.cases())
        longest = max(length for length, _, _ in cases)
        for length, args, ctx in cases:
            train, cost = replace(ctx, phase="train"), self.asked.config.cost(ctx)
            yield self.check("prefill", length, cost, args, train=train, counter_too=length == longest)
        can = self.asked.config.capabilities()
        if isinstance(self.module, Mixer) and self.asked.site.causal and can.decode != "none":
            yield self.decode_check(self.module)
        if self.op.kind == "cross" and self.asked.site.causal and can.decode != "none":
            assert isinstance(self.module, Transfer)
            yield self.recall_check(self.module)

    def cases(self) -> Iterator[tuple[int, tuple[Tensor, ...], CostContext]]:
        """Lengths that the component takes, each with arguments and the question that its cost answers."""
        site, op = self.asked.site, self.op
        width = site.d_model
        if op.kind == "stem":
            for raw in raw_lengths(self.graph, op):
                inputs = random_inputs(input_of(self.graph, op), batch_size=_BATCH, seq_len=raw)
                yield raw, (inputs,), _context(self.asked, stem_length(self.graph, op, raw))
            return
        if op.kind == "condition_tokens":
            further = random_condition(spec_of(self.graph), batch_size=_BATCH)
            yield site.seq_len, tuple(further.values()), _context(self.asked, site.seq_len)
            return
        if op.kind == "latents":
            for n_groups in {1, op.number("n_groups")}:
                tokens = torch.randn(_BATCH, n_groups * op.number("length"), 1)
                yield tokens.shape[1], (tokens,), _context(self.asked, n_groups * op.number("n_latents"))
            return
        lengths = [site.seq_len] if op.kind == "group_positions" else _lengths(self.asked)
        for length in lengths:
            x = torch.randn(_BATCH, length, width)
            if op.kind in ("read", "write", "cross"):
                source = torch.randn(_BATCH, length + 2, self.asked.d_source)
                yield length, (x, source), _context(self.asked, length, source_len=length + 2)
            elif op.kind == "self_condition":
                yield length, (x, torch.randn_like(x)), _context(self.asked, length)
            elif op.kind == "combine":
                n_branches = len(inputs_of(self.graph, self.path))
                yield length, (x,) * n_branches, _context(self.asked, length)
            else:
                yield length, (x,), _context(self.asked, length)

    def decode_check(self, mixer: Mixer) -> Check:
        """One step after a few tokens."""
        width = self.asked.site.d_model
        context_len = min(_CONTEXT, self.asked.site.seq_len - 1)
        state = mixer.init_state(_BATCH, dtype=torch.float32, device="cpu")
        if context_len:
            with torch.no_grad():
                _, state = mixer.prefill(torch.randn(_BATCH, context_len, width), state)
        ctx = self.asked.context(batch_size=_BATCH, dtype="float32", phase="decode", context_len=context_len)
        args = (torch.randn(_BATCH, width), state)
        return self.check("decode", context_len + 1, self.asked.config.cost(ctx), args, method="step")

    def recall_check(self, transfer: Transfer) -> Check:
        """One token that reads what is remembered of a source."""
        source_len, width = min(LENGTHS[1], self.asked.source_len), self.asked.site.d_model
        with torch.no_grad():
            state = transfer.remember(torch.randn(_BATCH, source_len, self.asked.d_source))
        asked = replace(self.asked, source_len=source_len)
        ctx = asked.context(batch_size=_BATCH, dtype="float32", phase="decode", context_len=source_len)
        args = (torch.randn(_BATCH, 1, width), state)
        return self.check("decode", source_len, self.asked.config.cost(ctx), args, method="recall")

    def check(
        self,
        phase: str,
        length: int,
        cost: Cost,
        args: tuple[object, ...],
        *,
        method: str = "forward",
        train: CostContext | None = None,
        counter_too: bool = False,
    ) -> Check:
        config = self.op.config
        assert config is not None
        train_flops = None
        if train is not None:
            forward = config.cost(train)
            train_flops = forward.flops + config.backward_flops(train, forward)[0]
        return compare(
            self.module, self.twin, args, cost, method=method, path=self.path, kind=config.kind,
            n_nodes=self.n_nodes, phase=phase, length=length, params=self.params, train_flops=train_flops,
            inputs_have_gradients=self.op.kind not in ("stem", "condition_tokens"), counter_too=counter_too,
        )  # fmt: skip


class _ConstantWeights(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Weights that would be drawn at random are all alike: drawing them takes longer than counting."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in (torch.ops.aten.normal_.default, torch.ops.aten.uniform_.default):
            return torch.ops.aten.fill_.Scalar(args[0], 0.01)
        return func(*args, **(kwargs or {}))


def _constant_weights() -> TorchDispatchMode:
    return _ConstantWeights()  # type: ignore[no-untyped-call]


def _model_checks(graph: Graph, zoo: Zoo) -> Iterator[Check]:
    with _constant_weights():
        module = lower(graph, zoo, seed=0).eval()
    with torch.device("meta"):
        twin = lower(graph, zoo, seed=0)
    params = count_parameters(module)
    encoder = spec_of(graph).encoder
    lengths = model_lengths(graph, batch_size=_BATCH)
    for length in lengths:
        source_len = None if encoder is None else source_length(graph, length)
        plan = CostPlan(graph, length, source_len)
        cost = total(plan.costs(batch_size=_BATCH).values())
        train = total(plan.costs(batch_size=_BATCH, phase="train").values())
        asked = [] if encoder is None else [(encoder.input, source_len or 0)]
        asked.append((spec_of(graph).input, length))
        inputs = tuple(random_inputs(input, batch_size=_BATCH, seq_len=n) for input, n in asked)
        further = random_condition(spec_of(graph), batch_size=_BATCH)
        yield compare(
            module, twin, inputs, cost, kwargs=further, method="forward", path="", kind="model", n_nodes=1,
            phase="prefill", length=length, params=params, train_flops=train.flops + train.flops_backward,
            inputs_have_gradients=False, counter_too=length == max(lengths),
        )  # fmt: skip


def _context(asked: Asked, length: int, *, source_len: int | None = None) -> CostContext:
    asked = replace(asked, extent=Extent(length))
    if source_len is not None:
        asked = replace(asked, source_len=source_len)
    return asked.context(batch_size=_BATCH, dtype="float32", phase="prefill", context_len=0)


def _lengths(asked: Asked) -> list[int]:
    """Legal lengths, the longest past two of the windows or chunks; the longer ones only where cheap."""
    multiple = asked.config.capabilities().length_multiple_of
    most = min(asked.site.seq_len, asked.config.capabilities().length_at_most or asked.site.seq_len)
    reach = _reach(asked.config)
    wanted = (*LENGTHS, 2 * reach + 1) if reach else LENGTHS
    lengths = sorted({min(-(-length // multiple) * multiple, most) for length in wanted})
    return [
        length
        for length in lengths
        if length == lengths[0] or asked.config.cost(_context(asked, length)).flops <= MOST_FLOPS
    ]


def _reach(config: ComponentConfig) -> int:
    """The largest number in a configuration that may be a window, a span or a chunk."""
    numbers = [value for _, value in config if type(value) is int and value <= _MOST_REACH]
    return max(numbers, default=0)


def _too_big(cost: Cost) -> str | None:
    needed, free = 4 * cost.params, psutil.virtual_memory().available
    if needed <= _MEMORY_SHARE * free:
        return None
    return f"its weights need {needed / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are free"
