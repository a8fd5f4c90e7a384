"""Inputs of the tests of operations on heads: queries, keys and values; paddings."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

SIDES = pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])
PADDINGS = ("none", "right", "left", "holes", "all_of_one_row")


def heads(length: int, *, width: int = 3, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1000 * seed + length)
    q, k, v = torch.randn(3, 2, 2, length, width, generator=generator, dtype=torch.float64).unbind()
    return q.requires_grad_(), k.requires_grad_(), v.requires_grad_()


def padding(kind: str, length: int) -> Tensor | None:
    position = torch.arange(length)
    return {
        "none": None,
        "right": position < torch.tensor([[length], [max(1, length // 2)]]),
        "left": position >= torch.tensor([[0], [length // 2]]),
        "holes": (position % 3 != 1).expand(2, length),
        "all_of_one_row": position < torch.tensor([[length], [0]]),
    }[kind]
