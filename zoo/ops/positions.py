"""Sinusoidal position vectors (Vaswani et al. 2017, arXiv:1706.03762, section 3.5), made when needed.

Channel c < D/2 of position t is sin(t / 10000^(c / (D/2))), channel D/2 + c the cosine: the sines first,
then the cosines. An odd width drops the last cosine. Invariants: the vector of a position does not depend
on the length, and the product of two vectors depends on the distance of their positions alone (for an even
width).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sinusoidal(positions: Tensor, d_model: int) -> Tensor:
    """Indices (L,) -> (L, d_model) in float32, or float64 where the indices are float64."""
    wide = positions if positions.dtype == torch.float64 else positions.float()
    n_waves = (d_model + 1) // 2
    exponents = torch.arange(n_waves, device=positions.device, dtype=wide.dtype) / n_waves
    angles = wide[:, None] * torch.exp(-math.log(10_000.0) * exponents)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)[:, :d_model]
