"""The CPU allocator's own account of a step or a forward pass: what ``step_memory`` is held against."""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch.profiler import ProfilerActivity, profile

from compiler.cost.training_step import Step, build_optimizer, n_targets, step_loss
from compiler.model import CompiledModel
from compiler.random_inputs import random_inputs
from compiler.recompute import recomputing


def measured_train_peak(model: CompiledModel, step: Step, *, batch_size: int, seq_len: int) -> int:
    """The most bytes alive in two steps on random inputs, weights and inputs included."""
    inputs = random_inputs(model.spec.input, batch_size=batch_size, seq_len=seq_len)
    targets = torch.zeros(n_targets(model.graph, batch_size, seq_len), dtype=torch.long)
    optimizer = build_optimizer(step.optimizer, model.param_groups(lr=1e-3, weight_decay=0.1))
    run = recomputing(model.module) if step.checkpointing else model.module
    model.train()

    def one_step() -> None:
        for _ in range(step.micro_batches):
            with torch.autocast("cpu", torch.bfloat16) if step.autocast else nullcontext():
                out = run(inputs)
            loss = step_loss(out, targets)
            del out
            torch.autograd.backward(loss)
            del loss
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    held = sum(t.nbytes for t in (*model.module.parameters(), *model.module.buffers(), inputs, targets))

    def two_steps() -> None:
        one_step()
        one_step()

    return held + peak_of(two_steps)


def measured_inference_peak(model: CompiledModel, *, batch_size: int, seq_len: int) -> int:
    """The most bytes alive in a forward pass without gradients, weights and inputs included."""
    inputs = random_inputs(model.spec.input, batch_size=batch_size, seq_len=seq_len)
    model.eval()
    held = sum(t.nbytes for t in (*model.module.parameters(), *model.module.buffers(), inputs))
    with torch.no_grad():
        return held + peak_of(lambda: model.module(inputs))


def peak_of(run: Callable[[], object]) -> int:
    """The greatest sum of what the CPU allocator gave and took back while ``run`` ran, in bytes."""
    gc.collect()  # or garbage of before goes while we count
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak
