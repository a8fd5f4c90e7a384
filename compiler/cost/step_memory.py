"""What a training step and a forward pass need of memory: exact, from the traced lives of all tensors.

A step is forward, backward and the optimizer; the optimizer's states are there throughout, as they are from
the second step on. Bytes are what an allocator is asked for: it may round up, a process holds more, and so
does a GPU's context. Kernels' own scratch is not seen: ``benchmarks/memory.py`` says how little that is in
float32 on the CPU, and how much with autocast.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from archspec import Dtype
from compiler.cost.traced_model import TORCH_DTYPES, TracedModel
from compiler.cost.tracer import Tracer
from compiler.cost.training_step import Optimizer, Step, build_optimizer


@dataclass(frozen=True)
class StepMemory:
    """Bytes of one batch: what is there always, and the most in each phase, all that lives included."""

    weights: int  # and buffers
    inputs: int  # and targets
    gradients: int
    optimizer_states: int
    kept_for_backward: int  # between the passes; the loss included
    forward_peak: int
    backward_peak: int
    optimizer_peak: int
    inference_peak: int

    @property
    def train_peak(self) -> int:
        return max(self.forward_peak, self.backward_peak, self.optimizer_peak)

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"train_peak": self.train_peak, "source": "traced"}


def step_memory(traced: TracedModel, step: Step, dtype: Dtype = "float32") -> StepMemory:
    """The memory of ``traced``, which was traced for ``step``."""
    item_bytes = TORCH_DTYPES[dtype].itemsize
    gradients = item_bytes * sum(map(sum, traced.parameter_groups))
    states, rise = optimizer_memory(traced.parameter_groups, step.optimizer, dtype)
    always = traced.held + traced.targets + states
    before = gradients if step.micro_batches > 1 else 0  # those of earlier micro-batches
    return StepMemory(
        weights=traced.held - traced.inputs,
        inputs=traced.inputs + traced.targets,
        gradients=gradients,
        optimizer_states=states,
        kept_for_backward=traced.forward.end,
        forward_peak=always + before + traced.forward.peak,
        backward_peak=always + before + traced.backward.peak,
        optimizer_peak=always + gradients + rise,
        inference_peak=traced.held + traced.prefill.peak,
    )


def optimizer_memory(
    groups: Sequence[Sequence[int]], optimizer: Optimizer, dtype: Dtype = "float32"
) -> tuple[int, int]:
    """Bytes of the states of weights with so many elements, by group, and the most beyond them in a step."""
    if optimizer.endswith("foreach"):
        return _traced([[_weight(n, dtype) for n in group] for group in groups], optimizer)
    states = rise = 0
    for n_elements, times in Counter(n for group in groups for n in group).items():
        alone, most = _traced([[_weight(n_elements, dtype)]], optimizer)
        states += times * alone
        rise = max(rise, most)
    return states, rise


def _traced(groups: Iterable[list[nn.Parameter]], optimizer: Optimizer) -> tuple[int, int]:
    """Two steps on the meta device: the first makes the states."""
    built = build_optimizer(optimizer, [{"params": group} for group in groups])
    weights = [weight for group in built.param_groups for weight in group["params"]]
    tracer = Tracer()
    tracer.hold([t for weight in weights for t in (weight, weight.grad)])
    held = tracer.live
    with tracer:
        built.step()
        states = tracer.live - held
        tracer.restart_peak()
        built.step()
    return states, tracer.peak - held - states


def _weight(n_elements: int, dtype: Dtype) -> nn.Parameter:
    weight = nn.Parameter(torch.empty(n_elements, dtype=TORCH_DTYPES[dtype], device="meta"))
    weight.grad = torch.empty_like(weight)
    return weight
