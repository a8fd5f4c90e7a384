"""Graph -> what every node does by a trace, and how the memory of a training step and of a forward pass runs.

The model is traced on meta tensors with one layer of every kind (``condensed.py``), and put together again:
work adds up, and memory goes on from layer to layer. A layer leaves so many bytes behind and needs so many
more while it runs; neither depends on how many layers there are, so peaks are exact for any depth. Loss: the
mean cross-entropy over all outputs, and auxiliary losses as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from archspec import Dtype, SpecError
from archspec.inputs import FeatureInput, TokenInput
from compiler.cost.closed_form import stem_length
from compiler.cost.condensed import Condensed, condense, kept_whole, unit_of
from compiler.cost.places import PlacedTracer
from compiler.cost.tracer import FusedAttention, Tally, UnknownOperation
from compiler.graph import Graph, Op, ops, spec_of
from compiler.passes.lower import lower
from zoo import Zoo
from zoo.contract import HeadConfig, OpFlops

TORCH_DTYPES: dict[Dtype, torch.dtype] = {
    "float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16,
}  # fmt: skip


@dataclass(frozen=True)
class NodeWork:
    """One node's part of a forward pass (``prefill``) and of a training step."""

    prefill: Tally
    train: Tally
    backward: Tally


@dataclass(frozen=True)
class Run:
    """Bytes over a pass: the most, and those alive at its end, beyond weights, buffers and inputs."""

    peak: int
    end: int


@dataclass(frozen=True)
class TracedModel:
    """Work by node, for every node with a component; memory beyond ``held`` (weights, buffers, inputs)."""

    work: dict[str, NodeWork]
    held: int
    parameters: tuple[int, ...]  # elements of each
    prefill: Run
    forward: Run
    backward: Run  # it begins where ``forward`` ends, and ends with the gradients of all weights
    n_layers_traced: int

    def total(self, phase: str) -> Tally:
        """Of all nodes: phase prefill, train (its forward pass) or backward."""
        return added(getattr(work, phase) for work in self.work.values())


def added(tallies: Iterable[Tally]) -> Tally:
    whole = Tally()
    for tally in tallies:
        whole.flops += tally.flops
        whole.recomputed += tally.recomputed
        whole.elements += tally.elements
        whole.bytes_read += tally.bytes_read
        whole.bytes_written += tally.bytes_written
        whole.n_operations += tally.n_operations
        whole.by_op.update(tally.by_op)
    return whole


def trace_model(
    graph: Graph,
    zoo: Zoo,
    *,
    seq_len: int | None = None,
    batch_size: int = 1,
    dtype: Dtype = "float32",
    whole: bool = False,
) -> TracedModel:
    """Trace ``graph``, after the passes; ``whole`` traces every layer instead of one of each kind.

    SpecError where an operation is in no table: it names the operation, the node and what to write where.
    """
    small = kept_whole(graph) if whole else condense(graph)
    with torch.device("meta"):
        module = lower(small.graph, zoo, seed=0).to(TORCH_DTYPES[dtype])
    traces = [
        _trace(small.graph, module, zoo, training, seq_len=seq_len, batch_size=batch_size, dtype=dtype)
        for training in (False, True)
    ]
    return _assembled(graph, small, module, *traces)


def _trace(
    graph: Graph,
    module: fx.GraphModule,
    zoo: Zoo,
    training: bool,
    *,
    seq_len: int | None,
    batch_size: int,
    dtype: Dtype,
) -> PlacedTracer:
    spec = spec_of(graph)
    length = spec.input.seq_len if seq_len is None else seq_len
    inputs = meta_inputs(graph, batch_size=batch_size, seq_len=length, dtype=TORCH_DTYPES[dtype])
    targets = torch.empty(_n_targets(graph, batch_size, length), dtype=torch.long, device="meta")
    tracer = PlacedTracer(_own_formulas(graph, zoo))
    tracer.hold([*module.parameters(), *module.buffers(), inputs, *([targets] if training else [])])
    module.train(training)
    tracer.begin("forward")
    try:
        with tracer.follow(module, graph), FusedAttention(), tracer, torch.set_grad_enabled(training):
            out = module(inputs)
            if training:
                loss = step_loss(out, targets)
                del out
                tracer.begin("backward")
                loss.backward()  # type: ignore[no-untyped-call]
                del loss
            else:
                del out
            tracer.begin("end")
    except UnknownOperation as error:
        raise _refused(graph, tracer.spans[-1].place, error) from error
    for parameter in module.parameters():
        parameter.grad = None
    return tracer


def step_loss(out: Tensor | tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]], targets: Tensor) -> Tensor:
    """What a model puts out, and a class for each of its outputs -> the loss of a training step."""
    logits, losses = (out, ()) if isinstance(out, Tensor) else out[:2]
    loss = F.cross_entropy(logits.flatten(0, -2), targets)
    return sum(losses, start=loss)


def meta_inputs(graph: Graph, *, batch_size: int, seq_len: int, dtype: torch.dtype) -> Tensor:
    """Inputs of a model without data."""
    match spec_of(graph).input:
        case TokenInput():
            return torch.empty(batch_size, seq_len, dtype=torch.long, device="meta")
        case FeatureInput(d_input=width):
            return torch.empty(batch_size, seq_len, width, dtype=dtype, device="meta")
        case image:
            return torch.empty(
                batch_size, image.n_channels, image.height, image.width, dtype=dtype, device="meta"
            )


def _n_targets(graph: Graph, batch_size: int, seq_len: int) -> int:
    head: Op = graph.nodes["head"]["op"]
    assert isinstance(head.config, HeadConfig)
    n_outputs = stem_length(graph, graph.nodes["stem"]["op"], seq_len) if head.config.per_position else 1
    return batch_size * n_outputs


def _own_formulas(graph: Graph, zoo: Zoo) -> dict[str, OpFlops]:
    found: dict[str, OpFlops] = {}
    for table in zoo.classes.values():
        for cls in table.values():
            found.update(cls.op_flops)
    return found


def _refused(graph: Graph, place: str, error: UnknownOperation) -> SpecError:
    op: Op | None = graph.nodes[place]["op"] if place in graph else None
    kind = f" ('{op.config.kind}')" if op is not None and op.config is not None else ""
    problem = spec_of(graph).problem(
        op.origin if op is not None else (),
        f"{place or 'the loss'}{kind}: no table knows what the operation '{error.name}' costs",
        f"say it in the component's class: op_flops = {{'{error.name}': lambda args, kwargs, out: FLOPs}}, "
        "0 if it does no matrix product, convolution or transform",
    )
    return SpecError(problems=[problem])


def _assembled(
    graph: Graph, small: Condensed, module: fx.GraphModule, prefill: PlacedTracer, train: PlacedTracer
) -> TracedModel:
    work = {}
    for name, op in ops(graph):
        if op.config is not None:
            like = small.representative(name)
            passes = [(prefill, "forward"), (train, "forward"), (train, "backward")]
            work[name] = NodeWork(*(tracer.tallies.get((phase, like), Tally()) for tracer, phase in passes))
    left_out = [layer.represented_by for layer in small.layers if layer.name != layer.represented_by]
    parameters = [p for layer in left_out for p in module.get_submodule(layer).parameters()]
    buffers = [b for layer in left_out for b in module.get_submodule(layer).buffers()]
    order = [layer.represented_by for layer in small.layers]
    # Without gradients all that outlives a layer are side products, which go with the model's output.
    side = {s.place: s.left for s in _stretches(prefill, "forward", merged=False) if s.place}
    late = sum(side[name] for name in left_out)
    forward = _run(train, "forward", order, start=0, late=late)
    return TracedModel(
        work=work,
        held=train.spans[0].entry + sum(t.numel() * t.element_size() for t in (*parameters, *buffers)),
        parameters=tuple(p.numel() for p in (*module.parameters(), *parameters)),
        prefill=_run(prefill, "forward", order, start=0, late=late),
        forward=forward,
        backward=_run(train, "backward", order[::-1], start=forward.end),
        n_layers_traced=len({unit_of(name) for name, _ in ops(small.graph)} - {""}),
    )


def _run(tracer: PlacedTracer, phase: str, order: Sequence[str], *, start: int, late: int = 0) -> Run:
    """The memory of a whole model's pass, from that of one with a layer of every kind.

    ``order`` says which layer of the traced model each one is like, and is empty if all were traced;
    ``start`` is what lives at first, ``late`` what layers that were left out would give up at the end.
    """
    first, *others = _stretches(tracer, phase, merged=not order)
    layers = {s.place: s for s in others if s.place}
    outside = [s for s in others if not s.place]
    assert not first.place, "a pass begins and ends outside the layers"
    assert len(outside) == bool(others), "layers follow one another"
    assert len(layers) + len(outside) == len(others), "a layer is one stretch"
    assert set(order) == set(layers), f"{set(order) ^ set(layers)} did not run"
    live = peak = start
    for stretch in (first, *(layers[name] for name in order), *outside):
        peak = max(peak, live + stretch.rise)
        live += stretch.left
    return Run(peak, live - late)


@dataclass(frozen=True)
class _Stretch:
    """All that runs in a layer, or between layers: the most bytes beyond those at its start; those left."""

    place: str
    rise: int
    left: int


def _stretches(tracer: PlacedTracer, phase: str, *, merged: bool) -> list[_Stretch]:
    """The stretches of one phase in their order, all in one if ``merged``.

    The span after it says what is left at the end.
    """
    at = [i for i, span in enumerate(tracer.spans) if span.phase == phase]
    spans = tracer.spans[at[0] : at[-1] + 1]
    ends = [span.entry for span in tracer.spans[at[0] + 1 : at[-1] + 2]]
    found: list[_Stretch] = []
    entry = 0
    for span, end in zip(spans, ends, strict=True):
        place = "" if merged else unit_of(span.place)
        if not found or found[-1].place != place:
            entry = span.entry
            found.append(_Stretch(place, span.peak - entry, end - entry))
        else:
            rise = max(found[-1].rise, span.peak - entry)
            found[-1] = _Stretch(place, rise, end - entry)
    return found
