"""What our trace and torch's FlopCounterMode say of one call, both without data, and where the two differ.

FlopCounterMode is run as its users run it, on meta tensors, where it sees fused attention spelt out. On the
CPU it counts fused attention as zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

from compiler.cost.op_flops import Formula
from compiler.cost.traced import trace_call
from compiler.cost.tracer import UnknownOperation

_PRODUCTS = "products"  # attention that one counter sees whole and the other spelt out is one row


@dataclass(frozen=True)
class Witnesses:
    """Multiply-adds of a forward pass and, where asked, of a training step without its loss.

    None: that counter failed or was not asked, or training was not asked for. ``differences`` are
    FlopCounterMode's figures less ours by operation, of the larger of the two runs.
    """

    traced: int | None
    traced_train: int | None
    counter: int | None
    counter_train: int | None
    unknown_ops: tuple[str, ...]
    differences: tuple[str, ...]


def witnesses(
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    *,
    method: str = "forward",
    training: bool,
    inputs_have_gradients: bool,
    counter_too: bool = True,
    op_flops: Mapping[str, Formula] | None = None,
) -> Witnesses:
    """``module`` is on the meta device; arguments are real and only lend their shapes.

    ``counter_too``: FlopCounterMode as well, which takes as long again.
    """
    given, named = pytree.tree_map_only(Tensor, lambda t: _without_data(t), (args, dict(kwargs or {})))
    if training and inputs_have_gradients:
        for tensor in pytree.tree_leaves((given, named)):
            if isinstance(tensor, Tensor) and tensor.is_floating_point():
                tensor.requires_grad_()
    run = {"method": method}
    try:
        forward = trace_call(module, given, named, method=method, op_flops=op_flops).forward
        step = trace_call(module, given, named, training=True, op_flops=op_flops) if training else None
    except UnknownOperation as error:
        return Witnesses(None, None, None, None, (error.name,), ())
    traced = Witnesses(
        traced=forward.flops // 2,
        traced_train=None if step is None else (step.forward.flops + step.backward.flops) // 2,
        counter=None,
        counter_train=None,
        unknown_ops=(),
        differences=(),
    )
    if not counter_too:
        return traced
    counter = _counted(module, given, named, training=False, **run)
    counter_train = _counted(module, given, named, training=True, **run) if training else None
    ours = forward.by_op if step is None else step.forward.by_op + step.backward.by_op
    theirs = counter if step is None else counter_train
    return replace(
        traced,
        counter=None if counter is None else sum(counter.values()) // 2,
        counter_train=None if counter_train is None else sum(counter_train.values()) // 2,
        differences=("it fails",) if theirs is None else _differences(ours, theirs),
    )


def _without_data(t: Tensor) -> Tensor:
    return torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="meta")


def _counted(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], *, method: str, training: bool
) -> dict[str, int] | None:
    """FLOPs by operation, or None where FlopCounterMode fails."""
    was_training = module.training
    module.train(training)
    try:
        with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(training):
            out = getattr(module, method)(*args, **kwargs)
            if training:
                ends = [t for t in pytree.tree_leaves(out) if isinstance(t, Tensor) and t.requires_grad]
                torch.autograd.backward(ends, [torch.empty_like(end) for end in ends])
    except Exception:  # whatever it stumbles over
        return None
    finally:
        module.train(was_training)
    found = counter.get_flop_counts().get("Global", {})
    return {str(op).replace(".", "::"): int(flops) for op, flops in found.items()}


def _differences(ours: Mapping[str, int], theirs: Mapping[str, int]) -> tuple[str, ...]:
    """Per operation, FlopCounterMode's multiply-adds less ours."""
    one, other = _grouped(ours), _grouped(theirs)
    gaps = {name: (other.get(name, 0) - one.get(name, 0)) // 2 for name in sorted({*one, *other})}
    return tuple(f"{name} {gap:+,}" for name, gap in gaps.items() if gap)


def _grouped(counts: Mapping[str, int]) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, flops in counts.items():
        op = name.partition("::")[2]
        row = _PRODUCTS if "attention" in op or op in ("mm", "bmm", "addmm", "baddbmm") else op
        found[row] = found.get(row, 0) + flops
    return found
