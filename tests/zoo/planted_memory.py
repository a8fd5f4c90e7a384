"""Mixers that hold more than they say: a matrix of all pairs of tokens, or everything to the end."""

from __future__ import annotations

from typing import Any

import torch
from planted import Mean
from torch import Tensor


class Square(Mean):
    """Averages by a matrix of all pairs of tokens, though its complexity says L."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        weights = x.new_ones(x.shape[1], x.shape[1])
        weights = weights.tril() if self.site.causal else weights
        return self.out(self.config.scale * (weights / weights.sum(-1, keepdim=True)) @ x)


class SquareInBackward(Mean):
    """Forms such a matrix in its backward pass alone."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        y = super().forward(x, mask)
        assert isinstance(y, Tensor)
        return _ThroughPairs.apply(y)


class _ThroughPairs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return torch.eye(gradient.shape[1], dtype=gradient.dtype, device=gradient.device) @ gradient


class Hoarding(Mean):
    """Holds many tensors at once, each of them small."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        kept = [x + i for i in range(x.shape[1] // 8)]
        y = super().forward(kept[0], mask)
        assert isinstance(y, Tensor)
        return y
