"""What Combiner's variants compute and hold: counts beside their tables, and no tensor of all pairs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from combiner_cases import EACH, SIDES, build, draw, heads, tables
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

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
