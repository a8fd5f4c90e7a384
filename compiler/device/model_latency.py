"""How long a compiled model takes on a device: a forward pass, a decoding step or a training step."""

from __future__ import annotations

import torch

from archspec import Dtype, Phase, SpecError
from compiler.device.info import resolve_device
from compiler.device.latency import Latency, measure
from compiler.device.runs import Shape, checked_backend, prepared
from compiler.model import CompiledModel


def measure_model(
    compiled: CompiledModel,
    *,
    batch_size: int = 1,
    seq_len: int | None = None,
    source_len: int | None = None,
    phase: Phase = "prefill",
    dtype: Dtype = "float32",
    device: str = "cpu",
    backend: str = "eager",
    clock: str = "wall",
    min_runs: int = 30,
    min_seconds: float = 0.5,
    max_seconds: float = 60.0,
) -> Latency:
    """On random inputs, on a copy of the model in ``dtype`` on ``device``.

    ``prefill`` is a forward pass over ``seq_len`` tokens, ``decode`` one step after ``seq_len - 1`` tokens,
    ``train`` forward, backward and AdamW. ``clock`` is ``wall`` or ``cpu``. A model that does not fit is a
    SpecError.
    """
    target = resolve_device(device)
    length = seq_len or compiled.spec.input.seq_len
    shape = Shape(batch_size, length, dtype, phase, source_len)
    try:
        run = prepared(compiled, shape, device=target, backend=checked_backend(backend, target))
        with torch.inference_mode(phase != "train"):
            return measure(
                run,
                device=target,
                clock=clock,
                min_runs=min_runs,
                min_seconds=min_seconds,
                max_seconds=max_seconds,
            )
    except torch.OutOfMemoryError:
        raise SpecError(
            f"'{compiled.spec.name}' does not fit into the memory of {target} "
            f"(phase {phase}, batch_size {batch_size}, seq_len {length}, {dtype})"
        ) from None
