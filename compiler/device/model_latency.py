"""How long a compiled model takes on a device: a forward pass, a decoding step or a training step."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F

from archspec import Dtype, Phase, SpecError
from compiler.device.info import resolve_device
from compiler.device.latency import Latency, measure
from compiler.model import CompiledModel
from compiler.random_inputs import random_condition, random_inputs

Further = dict[str, torch.Tensor]  # inputs of a conditioned model, by name


def measure_model(
    compiled: CompiledModel,
    *,
    batch_size: int = 1,
    seq_len: int | None = None,
    phase: Phase = "prefill",
    dtype: Dtype = "float32",
    device: str = "cpu",
    min_runs: int = 30,
    min_seconds: float = 0.5,
    max_seconds: float = 60.0,
) -> Latency:
    """Eager PyTorch on random inputs, on a copy of the model in ``dtype`` on ``device``.

    ``prefill`` is a forward pass over ``seq_len`` tokens, ``decode`` one step after ``seq_len - 1`` tokens,
    ``train`` forward, backward and AdamW. A model that does not fit is a SpecError.
    """
    target, torch_dtype = resolve_device(device), getattr(torch, dtype)
    length = seq_len or compiled.spec.input.seq_len
    try:
        model = copy.deepcopy(compiled.module).to(device=target, dtype=torch_dtype)
        own = CompiledModel(graph=compiled.graph, module=model, zoo=compiled.zoo, seed=compiled.seed)
        inputs = random_inputs(
            compiled.spec.input, batch_size=batch_size, seq_len=length, dtype=torch_dtype
        ).to(target)
        further = random_condition(compiled.spec, batch_size=batch_size, dtype=torch_dtype)
        further = {name: tensor.to(target) for name, tensor in further.items()}
        with torch.inference_mode(phase != "train"):
            run = {"prefill": _prefill, "decode": _decode, "train": _train}[phase](own, inputs, further)
            return measure(
                run, device=target, min_runs=min_runs, min_seconds=min_seconds, max_seconds=max_seconds
            )
    except torch.OutOfMemoryError:
        raise SpecError(
            f"'{compiled.spec.name}' does not fit into the memory of {target} "
            f"(phase {phase}, batch_size {batch_size}, seq_len {length}, {dtype})"
        ) from None


def _prefill(model: CompiledModel, inputs: torch.Tensor, further: Further) -> Callable[[], object]:
    model.eval()
    return lambda: model(inputs, **further)


def _decode(model: CompiledModel, inputs: torch.Tensor, further: Further) -> Callable[[], object]:
    """Always the same step: states are not changed in place."""
    decoder = model.eval().decoder()
    state = decoder.init_state(inputs.shape[0])
    if inputs.shape[1] > 1:
        _, state = decoder.prefill(inputs[:, :-1], state)
    last = inputs[:, -1]
    return lambda: decoder.step(last, state)


def _train(model: CompiledModel, inputs: torch.Tensor, further: Further) -> Callable[[], object]:
    """A step towards random classes, at a learning rate that moves nothing."""
    optimizer = torch.optim.AdamW(model.train().param_groups(lr=1e-12, weight_decay=0.0))

    def run() -> None:
        optimizer.zero_grad()
        output = model.outputs(inputs, **further)
        logits = output.logits.float().flatten(0, -2)
        targets = torch.arange(logits.shape[0], device=logits.device) % logits.shape[1]
        loss = F.cross_entropy(logits, targets)
        if output.aux_loss is not None:
            loss = loss + output.aux_loss
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return run
