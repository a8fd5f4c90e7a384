"""A module and its arguments -> what torch does when it runs, forward and backward, without any data.

    with torch.device("meta"):
        layer = MyLayer(...)
    found = trace_call(layer, (torch.empty(1, 4096, 512, device="meta"),), training=True)
    found.forward.flops, found.backward.flops

Shapes may be as large as they like: nothing is computed. What is counted, and that an operation in no table
is an error, is said in ``compiler/cost/tracer.py`` and ``compiler/cost/op_flops.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from compiler.cost.fused_attention import FusedAttention, backward
from compiler.cost.op_flops import Formula
from compiler.cost.tracer import Tally, Tracer


@dataclass(frozen=True)
class TracedCall:
    """Two passes; ``backward`` is empty unless it was asked for.

    Peaks are bytes beyond what existed before the call; ``kept`` are those alive between the passes, the
    output among them.
    """

    forward: Tally
    backward: Tally
    forward_peak: int
    backward_peak: int
    kept: int


def trace_call(
    module: nn.Module,
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None = None,
    *,
    method: str = "forward",
    training: bool = False,
    op_flops: Mapping[str, Formula] | None = None,
) -> TracedCall:
    """Trace ``module.<method>(*args, **kwargs)`` on meta tensors, and in training its backward pass.

    Backward, every output that has a gradient gets one; which arguments want one is theirs to say
    (``requires_grad``). The module is left in the mode in which it was.
    """
    was_training = module.training
    tracer = Tracer(op_flops)
    before = [*module.parameters(), *module.buffers(), *_tensors((args, kwargs))]
    tracer.hold(before)
    held = tracer.live
    try:
        module.train(training)
        with FusedAttention(), tracer, torch.set_grad_enabled(training):
            out = getattr(module, method)(*args, **(kwargs or {}))
            forward, forward_peak = tracer.tally, tracer.peak
            kept = tracer.live
            tracer.tally = Tally()
            tracer.restart_peak()
            if training:
                ends = [t for t in _tensors(out) if t.requires_grad]
                del out
                backward(ends)
    finally:
        module.train(was_training)
    return TracedCall(forward, tracer.tally, forward_peak - held, tracer.peak - held, kept - held)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]
