"""How well a model answers a task's questions on one split."""

from __future__ import annotations

import contextlib
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from compiler import CompiledModel
from search.tasks.contract import IGNORE, Batch, Metrics, Split, Task

Precision = Literal["auto", "float32", "bfloat16"]


def evaluate(
    model: CompiledModel,
    task: Task,
    *,
    split: Split = "validation",
    n_examples: int = 512,
    batch_size: int = 32,
    precision: Precision = "float32",
) -> Metrics:
    """Means over the first ``n_examples`` of a split, or all it has. The sealed test split is not read."""
    assert split != "test", "the test split is sealed: evaluate_sealed reads it"
    return _evaluate(model, task, split, n_examples, batch_size, precision)


def evaluate_sealed(
    model: CompiledModel,
    task: Task,
    *,
    n_examples: int = 512,
    batch_size: int = 32,
    precision: Precision = "float32",
) -> Metrics:
    """Means on the test split; to be read once, for a final front and its baselines."""
    return _evaluate(model, task, "test", n_examples, batch_size, precision)


def autocast(precision: Precision, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """The context in which a forward pass runs; ``auto`` is bfloat16 on CUDA and float32 elsewhere."""
    if precision == "bfloat16" or (precision == "auto" and device.type == "cuda"):
        return torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext()


def answer_logits(task: Task, logits: Tensor) -> Tensor:
    """(B, L, V) -> (B, L, n_outputs): a model may have more words than the task; those are no answers."""
    return logits[..., : task.config.needs(causal=task.causal).n_outputs].float()


def summed_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy in nats, summed over all targets: (B, L, V), (B, L) -> scalar."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="sum")


def _evaluate(
    model: CompiledModel, task: Task, split: Split, n_examples: int, batch_size: int, precision: Precision
) -> Metrics:
    n = min(n_examples, task.n_examples(split) or n_examples)
    loss = n_right = n_targets = 0.0
    device = next(iter(model.parameters())).device
    was_training = model.module.training
    model.eval()
    try:
        for index in range(-(-n // batch_size)):
            batch = _first(task.batch(split, index, batch_size), n - index * batch_size).to(device)
            with torch.no_grad(), autocast(precision, device):
                logits = answer_logits(task, model(batch.inputs, batch.mask))
            asked = batch.targets != IGNORE
            loss += float(summed_loss(logits, batch.targets).double())
            n_right += float((logits.argmax(-1).eq(batch.targets) & asked).sum())
            n_targets += float(asked.sum())
    finally:
        if was_training:
            model.train()
    n_targets = max(n_targets, 1.0)
    return Metrics(loss / n_targets, n_right / n_targets, int(n_targets))


def _first(batch: Batch, n: int) -> Batch:
    """The first ``n`` examples of a batch."""
    mask = None if batch.mask is None else batch.mask[:n]
    return Batch(batch.inputs[:n], batch.targets[:n], mask)
