"""The traced part of a profile: what a forward pass and a training step do and need, without a weight."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from archspec import Dtype, SpecError
from archspec.quantities import show
from compiler.cost.step_memory import StepMemory, step_memory
from compiler.cost.traced_model import TracedModel, trace_model
from compiler.cost.tracer import Tally
from compiler.cost.training_step import Step
from compiler.graph import Graph
from zoo import Zoo


@dataclass(frozen=True)
class TracedProfile:
    """``prefill``, ``forward`` (of training) and ``backward`` are the work of the nodes with a component."""

    step: Step
    prefill: Tally
    forward: Tally
    backward: Tally
    memory: StepMemory
    n_layers_traced: int

    @property
    def train_flops(self) -> int:
        """Forward and backward; with checkpoints, what layers do again too."""
        return self.forward.flops + self.backward.flops

    def as_json(self) -> dict[str, Any]:
        return {
            "tier": "eager torch on the CPU, fused attention",
            "step": asdict(self.step),
            "flops": {"prefill": self.prefill.flops, "train": self.train_flops},
            "flops_recomputed_in_kernels": self.backward.recomputed,
            "flops_elementwise": {
                "prefill": self.prefill.elements,
                "train": self.forward.elements + self.backward.elements,
            },
            "bytes_moved": {"prefill": _moved(self.prefill), "train": _moved(self.forward, self.backward)},
            "memory": self.memory.as_json(),
            "layers_traced": self.n_layers_traced,
        }

    def facts(self) -> Iterator[tuple[str, str]]:
        """Names and values for a reader."""
        yield "FLOPs train, traced", show("flops", self.train_flops)
        yield (
            "bytes moved, traced",
            f"{show('activations', _moved(self.prefill))} forward, "
            f"{show('activations', _moved(self.forward, self.backward))} in training",
        )
        at = self.memory
        phases = {"forward": at.forward_peak, "backward": at.backward_peak, "optimizer": at.optimizer_peak}
        where = max(phases, key=lambda name: phases[name])
        yield (
            "peak, training, traced",
            f"{show('train_peak', at.train_peak)} ({_described(self.step)}; in the {where} pass)",
        )
        yield "kept for backward, traced", show("activations", at.kept_for_backward)
        yield "peak, inference, traced", show("inference_peak", at.inference_peak)


def traced_profile(
    graph: Graph,
    zoo: Zoo,
    *,
    seq_len: int,
    source_len: int | None,
    batch_size: int,
    dtype: Dtype,
    step: Step,
) -> TracedProfile:
    """Trace ``graph``; SpecError where an operation has no price, or autocast is asked of another type."""
    if step.autocast and dtype != "float32":
        raise SpecError(f"autocast keeps weights in float32, but dtype is {dtype}")
    found: TracedModel = trace_model(
        graph, zoo, seq_len=seq_len, source_len=source_len, batch_size=batch_size, dtype=dtype, step=step
    )
    return TracedProfile(
        step=step,
        prefill=found.total("prefill"),
        forward=found.total("train"),
        backward=found.total("backward"),
        memory=step_memory(found, step, dtype),
        n_layers_traced=found.n_layers_traced,
    )


def _moved(*tallies: Tally) -> int:
    return sum(tally.bytes_read + tally.bytes_written for tally in tallies)


def _described(step: Step) -> str:
    options = (
        step.optimizer,
        "checkpoints" if step.checkpointing else "",
        "autocast" if step.autocast else "",
        f"{step.micro_batches} micro-batches" if step.micro_batches > 1 else "",
    )
    return ", ".join(option for option in options if option)
