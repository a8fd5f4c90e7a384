"""Graph -> what every node does by a trace, and how the memory of a training step and of a forward pass runs.

The model is traced on meta tensors with one layer of every kind (``condensed.py``), and put together again:
work adds up, and memory goes on from layer to layer. A layer leaves so many bytes behind and needs so many
more while it runs; neither depends on how many layers there are, so peaks are exact for any depth. Loss: the
mean cross-entropy over all outputs, and auxiliary losses as they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from archspec import Dtype, SpecError
from compiler.cost.condensed import Condensed, condense, kept_whole, unit_of
from compiler.cost.fused_attention import FusedAttention, backward
from compiler.cost.places import PlacedTracer
from compiler.cost.stretches import Run, run_of, stretches
from compiler.cost.tracer import Tally, UnknownOperation
from compiler.cost.training_step import PLAIN_STEP, Step, empty_inputs, n_targets, step_loss
from compiler.graph import Graph, Op, ops, spec_of
from compiler.model import CompiledModel
from compiler.passes.lower import lower
from compiler.recompute import recomputing
from zoo import Zoo
from zoo.contract import OpFlops

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
class TracedModel:
    """Work by node, for every node with a component; memory beyond ``held`` (weights, buffers, inputs).

    Training also holds ``targets``, and with several micro-batches the gradients of all weights.
    """

    work: dict[str, NodeWork]
    held: int
    inputs: int
    targets: int
    parameter_groups: tuple[tuple[int, ...], ...]  # elements of each, in the groups of an optimizer
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
        whole.add(tally)
    return whole


def trace_model(
    graph: Graph,
    zoo: Zoo,
    *,
    seq_len: int | None = None,
    source_len: int | None = None,
    batch_size: int = 1,
    dtype: Dtype = "float32",
    step: Step = PLAIN_STEP,
    whole: bool = False,
) -> TracedModel:
    """Trace ``graph``, after the passes; ``whole`` traces every layer instead of one of each kind.

    SpecError where an operation is in no table: it names the operation, the node and what to write where.
    """
    # Autocast keeps what it cast of every layer's weights until the forward pass ends.
    small = kept_whole(graph) if whole or step.autocast else condense(graph)
    with torch.device("meta"):
        module = lower(small.graph, zoo, seed=0).to(TORCH_DTYPES[dtype])
    length = spec_of(graph).input.seq_len if seq_len is None else seq_len
    with FakeTensorMode() if step.autocast else torch.device("meta"):
        if step.autocast:
            _pretend_to_be_on_the_cpu(module)
        inputs = empty_inputs(
            graph, batch_size=batch_size, seq_len=length, source_len=source_len, dtype=TORCH_DTYPES[dtype]
        )
        targets = torch.empty(n_targets(graph, batch_size, length), dtype=torch.long)
    with targets.fake_mode if isinstance(targets, FakeTensor) else nullcontext():
        traces = [_trace(small.graph, module, zoo, way, inputs, targets) for way in (None, step)]
    n_bytes = sum(t.nbytes for t in inputs.values())
    return _assembled(graph, small, module, zoo, traces, inputs=n_bytes, targets=targets.nbytes)


def _pretend_to_be_on_the_cpu(module: nn.Module) -> None:
    """Fakes, which have no data either, for meta tensors: autocast knows no meta device."""
    fakes: dict[int, Tensor] = {}
    for part in module.modules():
        for table in (part._parameters, part._buffers):
            for name, t in list(table.items()):
                if t is not None:
                    fake = torch.empty(t.shape, dtype=t.dtype)
                    fakes.setdefault(id(t), nn.Parameter(fake) if isinstance(t, nn.Parameter) else fake)
                    setattr(part, name, fakes[id(t)])


def _trace(
    graph: Graph,
    module: fx.GraphModule,
    zoo: Zoo,
    step: Step | None,
    inputs: dict[str, Tensor],
    targets: Tensor,
) -> PlacedTracer:
    """One pass without gradients, or one ``step`` but for its optimizer."""
    tracer = PlacedTracer(_own_formulas(zoo))
    tracer.hold([*_tensors(module), *inputs.values(), *([targets] if step else [])])
    if step and step.micro_batches > 1:
        for parameter in module.parameters():
            parameter.grad = torch.empty_like(parameter)
    module.train(step is not None)
    run = recomputing(module) if step and step.checkpointing else module
    tracer.hold([p.grad for p in module.parameters() if p.grad is not None])
    tracer.begin("forward")
    try:
        with tracer.follow(module, graph), FusedAttention(), tracer, torch.set_grad_enabled(step is not None):
            with torch.autocast("cpu", torch.bfloat16) if step and step.autocast else nullcontext():
                out = run(**inputs)
            if step:
                loss = step_loss(out, targets)
                del out
                tracer.begin("backward")
                backward([loss])
                del loss
            else:
                del out
            tracer.begin("end")
    except UnknownOperation as error:
        raise _refused(graph, tracer.spans[-1].place, error) from error
    except (NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        place = tracer.spans[-1].place
        op: Op | None = graph.nodes[place]["op"] if place in graph else None
        message = f"{place or 'the model'} cannot be traced without data: {str(error).splitlines()[0]}"
        raise SpecError(problems=[spec_of(graph).problem(op.origin if op else (), message)]) from error
    for parameter in module.parameters():
        parameter.grad = None
    return tracer


def _own_formulas(zoo: Zoo) -> dict[str, OpFlops]:
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
    graph: Graph,
    small: Condensed,
    module: fx.GraphModule,
    zoo: Zoo,
    traces: Sequence[PlacedTracer],
    *,
    inputs: int,
    targets: int,
) -> TracedModel:
    prefill, train = traces
    work = {}
    for name, op in ops(graph):
        if op.config is not None:
            like = small.representative(name)
            passes = [(prefill, "forward"), (train, "forward"), (train, "backward")]
            work[name] = NodeWork(*(tracer.tallies.get((phase, like), Tally()) for tracer, phase in passes))
    left_out = [layer.represented_by for layer in small.layers if layer.name != layer.represented_by]
    absent = [t for layer in left_out for t in _tensors(module.get_submodule(layer))]
    order = [layer.represented_by for layer in small.layers]
    # Without gradients all that outlives a layer are side products, which go with the model's output.
    side = {s.place: s.left for s in stretches(prefill, "forward", merged=False) if s.place}
    late = sum(side[name] for name in left_out)
    forward = run_of(train, "forward", order, start=0, late=late)
    return TracedModel(
        work=work,
        held=prefill.spans[0].entry + sum(t.numel() * t.element_size() for t in absent),
        inputs=inputs,
        targets=targets,
        parameter_groups=_groups(small, module, Counter(left_out), zoo),
        prefill=run_of(prefill, "forward", order, start=0, late=late),
        forward=forward,
        backward=run_of(train, "backward", order[::-1], start=forward.end),
        n_layers_traced=len({unit_of(name) for name, _ in ops(small.graph)} - {""}),
    )


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def _groups(
    small: Condensed, module: fx.GraphModule, left_out: Counter[str], zoo: Zoo
) -> tuple[tuple[int, ...], ...]:
    """Elements of all weights in their optimizer's groups, those of left-out layers among them."""
    model = CompiledModel(graph=small.graph, module=module, zoo=zoo, seed=0)
    groups = []
    for group in model.param_groups(lr=1.0, weight_decay=1.0):
        sizes = [(p.numel(), 1 + left_out[unit_of(n)]) for n, p in zip(group["names"], group["params"])]
        groups.append(tuple(n_elements for n_elements, times in sizes for _ in range(times)))
    return tuple(groups)
