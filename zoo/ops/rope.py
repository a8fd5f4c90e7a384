"""Rotary position embedding (Su et al. 2021, arXiv:2104.09864): scores see the distance of query and key.

Shapes: L length, K d_head (even). Channel m is paired with channel m + K/2; pair m of position t turns by
t * base^(-2m/K).
"""

from __future__ import annotations

import torch
from torch import Tensor


def rotary_angles(positions: Tensor, d_head: int, base: float, dtype: torch.dtype) -> Tensor:
    """(...,) positions -> (..., K/2) angles, in ``dtype`` but at least float32."""
    dtype = torch.promote_types(dtype, torch.float32)
    m = torch.arange(d_head // 2, device=positions.device, dtype=dtype)
    return positions.to(dtype)[..., None] * base ** (-2 * m / d_head)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """(..., L, K), (L, K/2) or broadcastable -> (..., L, K): every pair turned by its angle."""
    first, second = x.to(angles.dtype).chunk(2, dim=-1)  # (..., L, K/2)
    cos, sin = angles.cos(), angles.sin()
    turned = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
    return turned.to(x.dtype)
