"""What a training step is wherever its memory is spoken of: its options, inputs, loss and optimizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from archspec import Input
from archspec.inputs import FeatureInput, ImageInput, TokenInput
from compiler.cost.closed_form import stem_length
from compiler.graph import Graph, Op, spec_of
from zoo.contract import HeadConfig

Optimizer = Literal["adamw", "adamw_foreach", "sgd"]
OPTIMIZERS: tuple[Optimizer, ...] = get_args(Optimizer)


@dataclass(frozen=True)
class Step:
    """How a training step goes, so that its memory can be said.

    ``optimizer``: ``adamw`` one weight after the other or ``adamw_foreach`` in groups, ``sgd`` with momentum.
    ``checkpointing``: layers run again backward (``compiler/recompute.py``). ``autocast``: weights in
    float32, most products in bfloat16. With several ``micro_batches`` gradients of the earlier ones are there
    already; the batch size is that of one.
    """

    optimizer: Optimizer = "adamw"
    checkpointing: bool = False
    autocast: bool = False
    micro_batches: int = 1


PLAIN_STEP = Step()


def step_loss(out: Any, targets: Tensor) -> Tensor:
    """What a model puts out, and a class for each of its outputs -> the loss of a training step."""
    logits = out if isinstance(out, Tensor) else out[0]
    losses = out[1] if isinstance(out, tuple) and isinstance(out[1], tuple) else ()
    loss = F.cross_entropy(logits.flatten(0, -2), targets)
    return sum(losses, start=loss)


def empty_inputs(
    graph: Graph, *, batch_size: int, seq_len: int, source_len: int | None, dtype: torch.dtype
) -> dict[str, Tensor]:
    """A model's arguments by name, not filled: the source of an encoder, inputs, what else it needs."""
    spec = spec_of(graph)
    found = {}
    if spec.encoder is not None:
        length = spec.encoder.input.seq_len if source_len is None else source_len
        found["source"] = _empty(spec.encoder.input, batch_size, length, dtype)
    found["inputs"] = _empty(spec.input, batch_size, seq_len, dtype)
    if (condition := spec.condition) is not None:
        if condition.d_input is not None:
            found["condition"] = torch.empty(batch_size, condition.seq_len, condition.d_input, dtype=dtype)
        if condition.time:
            found["time"] = torch.empty(batch_size, dtype=dtype)
    return found


def _empty(input: Input, batch_size: int, seq_len: int, dtype: torch.dtype) -> Tensor:
    match input:
        case TokenInput():
            return torch.empty(batch_size, seq_len, dtype=torch.long)
        case FeatureInput(d_input=width):
            return torch.empty(batch_size, seq_len, width, dtype=dtype)
        case ImageInput(n_channels=channels, height=height, width=width):
            return torch.empty(batch_size, channels, height, width, dtype=dtype)


def n_targets(graph: Graph, batch_size: int, seq_len: int) -> int:
    """Classes that the loss is asked for: one per output of the model."""
    head: Op = graph.nodes["head"]["op"]
    assert isinstance(head.config, HeadConfig)
    n_outputs = stem_length(graph, graph.nodes["stem"]["op"], seq_len) if head.config.per_position else 1
    return batch_size * n_outputs


def build_optimizer(optimizer: Optimizer, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """The optimizer that ``optimizer`` speaks of."""
    if optimizer == "sgd":
        return torch.optim.SGD(groups, lr=1e-3, momentum=0.9, foreach=False)
    return torch.optim.AdamW(groups, lr=1e-3, foreach=optimizer == "adamw_foreach")
