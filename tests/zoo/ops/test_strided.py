"""Attention at a stride, column by column, is attention to the tokens a multiple of the stride away."""

from __future__ import annotations

import pytest
import torch
from head_cases import PADDINGS, SIDES, heads, padding
from routing_cases import LENGTHS, expect_equal

from zoo.ops import routing_dense
from zoo.ops.strided import strided_attention, strided_pairs


@SIDES
@LENGTHS
@pytest.mark.parametrize("kind", PADDINGS)
@pytest.mark.parametrize("stride", [1, 5, 32, 64])
def test_strides_equal_the_definition(length: int, kind: str, stride: int, causal: bool) -> None:
    q, k, v = heads(length)
    mask = padding(kind, length)
    got, want = (
        attend(q, k, v, stride=stride, causal=causal, mask=mask)
        for attend in (strided_attention, routing_dense.strided_attention)
    )
    expect_equal(got, want, [q, k, v], mask)
    assert got.isfinite().all()


@SIDES
@LENGTHS
@pytest.mark.parametrize("stride", [1, 5, 40])
def test_strided_pairs_are_counted(length: int, stride: int, causal: bool) -> None:
    lag = torch.arange(length)[:, None] - torch.arange(length)
    inside = (lag % stride == 0) & (lag >= 0 if causal else True)
    done, needed = strided_pairs(length, stride, causal=causal)
    assert needed == int(inside.sum())
    assert done == int((lag % stride == 0).sum())  # whole columns: the kernel masks inside them
