"""Absolute positions added to a stream: a learned vector each, or sinusoids made when they are needed.

Sinusoids (Vaswani et al. 2017, arXiv:1706.03762, section 3.5): channel c < D/2 of position t is sin(t /
10000^(c / (D/2))), channel D/2 + c the cosine: the sines first, then the cosines. An odd width drops the
last cosine. Invariants: the vector of a position does not depend on the length, and the product of two
vectors depends on the distance of their positions alone (for an even width).

With ``axes`` a position has coordinates, the last axis the fastest (rows, columns and channels of an image),
and its learned vector is the sum of one per coordinate.
"""

from __future__ import annotations

import itertools
import math
from typing import Literal

import torch
from torch import Tensor, nn

Positions = Literal["none", "learned", "sinusoidal"]


class AbsolutePositions(nn.Module):
    """(B, L, D) -> (B, L, D): each position's vector added; learned ones start normal with ``init_std``."""

    def __init__(
        self,
        kind: Literal["learned", "sinusoidal"],
        n_rows: int,
        d_model: int,
        *,
        init_std: float,
        axes: tuple[int, ...] | None = None,
    ):
        super().__init__()
        self.axes = axes or (n_rows,)
        learned = kind == "learned"
        self.weight = nn.Parameter(init_std * torch.randn(sum(self.axes), d_model)) if learned else None

    def forward(self, x: Tensor, positions: Tensor | None = None) -> Tensor:
        """``positions`` (L,) are indices, by default 0, 1, 2, ..."""
        if positions is None:
            positions = torch.arange(x.shape[1], device=x.device)
        if self.weight is None:
            return x + sinusoidal(positions, x.shape[-1]).to(x.dtype)
        assert x.shape[1] <= math.prod(self.axes), "the stream is longer than the table of positions"
        if len(self.axes) == 1:
            return x + self.weight.index_select(0, positions)
        below = math.prod(self.axes)
        for table in self.weight.split_with_sizes(list(self.axes)):
            below //= table.shape[0]
            x = x + table.index_select(0, positions // below)
            positions = positions % below
        return x

    def reference(self, x: Tensor) -> Tensor:
        """Row by row, from position 0."""
        if self.weight is not None:
            coordinates = itertools.islice(itertools.product(*map(range, self.axes)), x.shape[1])
            tables = self.weight.split_with_sizes(list(self.axes))
            vectors = [sum(table[c] for table, c in zip(tables, at)) for at in coordinates]
            return torch.stack([x[:, t] + vector for t, vector in enumerate(vectors)], dim=1)
        half = (x.shape[-1] + 1) // 2
        angle = [[t / 10_000 ** (c / half) for c in range(half)] for t in range(x.shape[1])]
        rows = [[*map(math.sin, row), *map(math.cos, row)][: x.shape[-1]] for row in angle]
        return x + torch.tensor(rows, dtype=x.dtype, device=x.device)


def sinusoidal(positions: Tensor, d_model: int) -> Tensor:
    """Indices (L,) -> (L, d_model) in float64, which an angle of many turns needs."""
    n_waves = (d_model + 1) // 2
    exponents = torch.arange(n_waves, device=positions.device, dtype=torch.float64) / n_waves
    angles = positions[:, None] * torch.exp(-math.log(10_000.0) * exponents)  # (L, D/2)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)[:, :d_model]
