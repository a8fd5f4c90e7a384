"""What PyTorch's machinery does with a component: differentiates, recomputes and compiles it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from zoo.checks.case import Case, expect
from zoo.checks.values import expect_close

# Of a central difference in float64: so small that a kink (ReLU, maximum, choice of cluster) is seldom in it.
_STEP = 1e-6


def check_gradient(case: Case) -> None:
    """The gradient of the output is its slope, along one random direction of all inputs and parameters."""
    module = case.twin().train()
    for length in case.lengths[-2:]:
        for mask in [None, case.mask(length)] if case.takes_mask else [None]:
            x = tuple(a.requires_grad_(a.is_floating_point()) for a in case.arguments(length, batch_size=3))
            leaves = [a for a in x if a.requires_grad] + list(module.parameters())
            y = _projected(case, module, x, mask)
            if not y.requires_grad:
                continue
            gradients = torch.autograd.grad(y, leaves, allow_unused=True, materialize_grads=True)
            draw = torch.Generator().manual_seed(5)
            ways = [torch.randn(t.shape, generator=draw, dtype=t.dtype) for t in leaves]
            said = sum(float((g * way).sum()) for g, way in zip(gradients, ways))
            ends = []
            with torch.no_grad():
                for step in (_STEP, -2 * _STEP, _STEP):
                    for leaf, way in zip(leaves, ways):
                        leaf += step * way
                    ends.append(float(_projected(case, module, x, mask)))
            slope = (ends[0] - ends[1]) / (2 * _STEP)
            where = f"length {length}" + ("" if mask is None else " with padding")
            apart, allowed = abs(said - slope), 1e-5 * max(1.0, abs(slope))
            expect(apart <= allowed, f"{where}: the gradient says a slope of {said:.9g}, found {slope:.9g}")


def check_checkpointing(case: Case) -> None:
    """Recomputed in the backward pass (``torch.utils.checkpoint``), it has the same output and gradients."""
    module = case.twin().train()
    recomputed = partial(checkpoint, module, use_reentrant=False)
    for mask in [None, case.mask(case.lengths[-1])] if case.takes_mask else [None]:
        kept, again = (_output_and_gradients(case, module, run, mask) for run in (module, recomputed))
        for got, want in zip(again, kept):
            expect_close(got, want, "output or gradients with and without checkpointing")


def check_compile(case: Case) -> None:
    """``torch.compile`` takes it as one graph, with a mask if it may have one; same outputs and gradients.

    The graph is run as it was traced: whether a backend makes it fast is another question.
    """
    module = case.twin().train()
    mask = case.mask(case.lengths[-1]) if case.takes_mask else None
    torch._dynamo.reset()
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True, dynamic=False)
    plain, traced = (_output_and_gradients(case, module, run, mask) for run in (module, compiled))
    for got, want in zip(traced, plain):
        expect_close(got, want, "output or gradients of the compiled module and of the module")
    torch._dynamo.reset()


def _output_and_gradients(
    case: Case, module: nn.Module, run: Callable[..., Any], mask: Tensor | None
) -> list[Tensor]:
    """Of the greatest length, where ``run`` computes what the module does."""
    given = case.arguments(case.lengths[-1], batch_size=3)
    x = tuple(a.requires_grad_(a.is_floating_point()) for a in given)
    leaves = [a for a in x if a.requires_grad] + list(module.parameters())
    output = run(*x, **({} if mask is None else {"mask": mask}))
    y: Tensor = output if isinstance(output, Tensor) else output[0]
    if not y.requires_grad:
        return [y]
    gradients = torch.autograd.grad(y.sin().sum(), leaves, allow_unused=True, materialize_grads=True)
    return [y, *gradients]


def _projected(case: Case, module: nn.Module, x: tuple[Tensor, ...], mask: Tensor | None) -> Tensor:
    """A random projection of the real output; an auxiliary loss may stop gradients, and is left out."""
    y = case.real(module, case.call(module, x, mask)[0], mask)
    draw = torch.Generator().manual_seed(3)
    return (y * torch.randn(y.shape, generator=draw, dtype=y.dtype)).sum()
