"""A compiled model -> what is timed: one forward pass, decoding step or training step on a backend.

Backends are apart because their figures are: ``eager`` launches every operation, ``compile`` is
torch.compile, ``graph`` replays a captured CUDA graph, and what eager takes more than graph is launches.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from archspec import Dtype, Input, ModelSpec, Phase, SpecError, did_you_mean
from compiler.device.timers import Run
from compiler.model import CompiledModel, ModelOutput
from compiler.random_inputs import random_condition, random_inputs

Backend = Literal["eager", "compile", "graph"]
_WARM_UPS = 3  # of a captured graph, on a stream beside the default one


@dataclass(frozen=True)
class Shape:
    """What a run is asked for; ``seq_len`` positions of the input, in decode the last of them alone.

    ``source_len`` is of what an encoder reads, all that it takes by default.
    """

    batch_size: int
    seq_len: int
    dtype: Dtype
    phase: Phase
    source_len: int | None = None


def checked_backend(name: str, device: torch.device) -> Backend:
    """The backend called ``name``; SpecError if there is none, or not on ``device``."""
    if name not in get_args(Backend):
        raise SpecError(f"unknown backend '{name}'", hint=did_you_mean(name, get_args(Backend)))
    if name == "graph" and device.type != "cuda":
        raise SpecError(f"backend 'graph' replays CUDA graphs, and the device is {device}")
    return cast(Backend, name)


def prepared(
    compiled: CompiledModel, shape: Shape, *, device: torch.device, backend: Backend = "eager"
) -> Run:
    """A run on random inputs, on a copy of the model; to be called in inference mode unless it trains."""
    dtype = getattr(torch, shape.dtype)
    module = copy.deepcopy(compiled.module).to(device=device, dtype=dtype)
    model = CompiledModel(graph=compiled.graph, module=module, zoo=compiled.zoo, seed=compiled.seed)
    inputs = tuple(
        random_inputs(input, batch_size=shape.batch_size, seq_len=n, dtype=dtype).to(device)
        for input, n in _lengths(compiled.spec, shape)
    )
    further = random_condition(compiled.spec, batch_size=shape.batch_size, dtype=dtype)
    further = {name: tensor.to(device) for name, tensor in further.items()}
    with torch.inference_mode(shape.phase != "train"):
        make = {"prefill": _prefill, "decode": _decode, "train": _train}[shape.phase]
        run = make(model, backend, *inputs, **further)
        return captured(run, device) if backend == "graph" else run


def _lengths(spec: ModelSpec, shape: Shape) -> Iterator[tuple[Input, int]]:
    """The inputs of a forward pass, in its order, and their lengths."""
    if spec.encoder is not None:
        yield spec.encoder.input, shape.source_len or spec.encoder.input.seq_len
    yield spec.input, shape.seq_len


def _prefill(model: CompiledModel, backend: Backend, *inputs: Tensor, **further: Tensor) -> Run:
    forward = _forward(model.eval(), backend)
    return lambda: forward(*inputs, **further)


def _decode(model: CompiledModel, backend: Backend, *given: Tensor) -> Run:
    """Always the same step: states are not changed in place. A source is encoded before."""
    decoder = model.eval().decoder()
    *source, inputs = given
    state = decoder.init_state(inputs.shape[0], *source)
    if inputs.shape[1] > 1:
        _, state = decoder.prefill(inputs[:, :-1], state)
    last = inputs[:, -1]
    step = torch.compile(decoder.step) if backend == "compile" else decoder.step
    return lambda: step(last, state)


def _train(model: CompiledModel, backend: Backend, *inputs: Tensor, **further: Tensor) -> Run:
    """A step towards random classes, at a learning rate that moves nothing."""
    groups = model.train().param_groups(lr=1e-12, weight_decay=0.0)
    optimizer = torch.optim.AdamW(groups, capturable=backend == "graph")
    forward = _forward(model, backend)

    def run() -> None:
        optimizer.zero_grad()
        output = forward(*inputs, **further)
        logits = output.logits.float().flatten(0, -2)
        targets = torch.arange(logits.shape[0], device=logits.device) % logits.shape[1]
        loss = F.cross_entropy(logits, targets)
        if output.aux_loss is not None:
            loss = loss + output.aux_loss
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return run


def _forward(model: CompiledModel, backend: Backend) -> Callable[..., ModelOutput]:
    if backend != "compile":
        return model.outputs
    fast = CompiledModel(
        graph=model.graph,
        module=cast("torch.fx.GraphModule", torch.compile(model.module)),
        zoo=model.zoo,
        seed=model.seed,
    )
    return fast.outputs


def captured(run: Run, device: torch.device) -> Run:
    """``run`` recorded once as a CUDA graph; what it does on the host is not repeated.

    As torch's notes on CUDA graphs ask for, it runs on another stream first, so that lazy initialisation and
    autotuning are over, and gradients and optimizer states exist.
    """
    with torch.cuda.device(device):
        beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(_WARM_UPS):
                run()
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()
    return graph.replay
