"""What Combiner's variants compute and hold: counts beside their tables, and no tensor of all pairs."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import pytest
import torch
from combiner_cases import EACH, SIDES, VARIANTS, build, draw, heads, tables
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from archspec import CostContext
from zoo.contract import only_output
from zoo.ops.combiner_axial import Axial


@SIDES
@EACH
@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, 12, 13, 16, 17, 33])
def test_needed_work_counts_the_tables(fields: dict[str, Any], length: int, causal: bool) -> None:
    """Clusters are counted as if tokens joined them in turn."""
    mixer, in_turn = build(causal, **fields), torch.arange(length) % 3
    pattern = mixer.pattern
    direct, members, readers = tables(mixer, heads(length)._replace(cluster=in_turn.expand(2, 2, -1)))
    readers = readers & members.any(1)  # nobody reads an empty part
    inside = members[readers.any(0)]
    work = pattern.work(length)
    assert work.needed <= work.products
    if not isinstance(pattern, Axial):
        assert work.needed == 2 * int(direct.sum() + readers.sum() + inside.sum())
        return
    at = torch.nonzero(readers.any(0)).flatten()
    logits = direct.clone()
    logits[at[at < length]] |= members[at[at < length]]  # a row's logits serve both
    sums = 1 + pattern.row_summary.startswith("wsum")
    assert work.needed == int(logits.sum() + direct.sum() + sums * inside.sum() + 2 * readers.sum())


MEMORY = {
    **{name: fields | {"span": 32} for name, fields in VARIANTS.items() if fields.get("span") == 4},
    "logsparse": VARIANTS["logsparse"],
    "fixed_relu_mean": {"span": 32, "local_summary": "relu-mean"},
    "logsparse_deepset": {"variant": "logsparse", "local_summary": "deepset-max"},
    "mixture_sum": {"variant": "mixture", "span": 32, "local_summary": "identity-sum"},
    "clustered_deepset": {
        "variant": "clustered",
        "span": 32,
        "n_clusters": 3,
        "local_summary": "deepset-max",
    },
}


@SIDES
@pytest.mark.parametrize("fields", MEMORY.values(), ids=MEMORY.keys())
def test_activation_bytes_are_those_that_autograd_keeps(fields: dict[str, Any], causal: bool) -> None:
    """To 4 %, for a length that spans divide; and the workspace is that of a pass without gradients, to 45 %."""
    B, L, D = 2, 512, 128
    mixer = build(causal, d_model=D, **fields).float().train()
    x = torch.randn(B, L, D, requires_grad=True)
    kept: dict[int, int] = {}
    weights = {p.untyped_storage().data_ptr() for p in mixer.parameters()}

    def pack(t: Tensor) -> Tensor:
        if (at := t.untyped_storage().data_ptr()) not in weights:
            kept[at] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = mixer(x)
    cost = mixer.config.cost(CostContext(D, L, B, causal=causal, phase="train"))
    assert abs(cost.activation_bytes / sum(kept.values()) - 1) < 0.04
    del y
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        y = mixer(x)
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]  # type: ignore[union-attr]
    alive = list(accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())))
    assert abs(cost.workspace_bytes / (max(alive) - only_output(y).nbytes) - 1) < 0.45


class Largest(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for t in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(t, Tensor):
                self.numel = max(self.numel, t.numel())
        return out


@SIDES
@EACH
def test_no_tensor_of_all_pairs(fields: dict[str, Any], causal: bool) -> None:
    """One pass forward and backward, with padding; ``span`` is L where the whole cluster is a span."""
    if fields.get("span") == 99:
        return
    L = 1024
    mixer = build(causal, **fields | ({} if fields.get("variant") == "logsparse" else {"span": 32})).float()
    with Largest() as seen:
        only_output(mixer(torch.randn(1, L, 8), torch.ones(1, L, dtype=torch.bool))).sum().backward()
    assert seen.numel <= 2 * L * 5 * 32 < 2 * L * L // 2


@SIDES
@EACH
def test_bf16_autocast_and_checkpointing(fields: dict[str, Any], causal: bool) -> None:
    mixer, x = build(causal, **fields).float().eval(), draw(40).float().requires_grad_()
    if fields.get("variant") != "clustered":  # rounded queries may join other clusters
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = only_output(mixer(x))
        torch.testing.assert_close(y.float(), only_output(mixer(x)), rtol=0.05, atol=0.08)
    plain = torch.autograd.grad(only_output(mixer(x)).square().sum(), x)[0]
    again = only_output(checkpoint(mixer, x, use_reentrant=False))
    assert torch.equal(plain, torch.autograd.grad(again.square().sum(), x)[0])
