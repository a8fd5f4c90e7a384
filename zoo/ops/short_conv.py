"""Short depthwise convolution along a sequence: causal (looks back only) or centered.

Shapes: B batch, L length, C channels, k taps. It is always ``F.conv1d`` with groups, so that counters see it.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, cat


def short_conv(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, causal: bool) -> Tensor:
    """(B, L, C), (C, 1, k), (C,) -> (B, L, C): y_t = bias + sum_j weight_j x_{t + j - left}, zeros outside.

    ``left`` is k - 1 when causal, else k // 2 (an even k looks one step further back than ahead).
    """
    k = weight.shape[-1]
    left = k - 1 if causal else k // 2
    padded = F.pad(x.transpose(1, 2), (left, k - 1 - left))  # (B, C, L + k - 1)
    return F.conv1d(padded, weight, bias, groups=x.shape[-1]).transpose(1, 2)


def short_conv_step(
    x: Tensor, past: Tensor, weight: Tensor, bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(B, C) and the last k - 1 inputs (B, C, k - 1) -> the causal output (B, C) and the next ``past``."""
    window = cat([past, x.unsqueeze(-1)], dim=-1)  # (B, C, k)
    return F.conv1d(window, weight, bias, groups=x.shape[-1]).squeeze(-1), window[..., 1:]


def last_inputs(x: Tensor, d_conv: int) -> Tensor:
    """(B, L, C) -> ``past`` after all of ``x``, zeros before it: (B, C, d_conv - 1)."""
    kept = d_conv - 1
    padded = F.pad(x.transpose(1, 2), (kept, 0))
    return padded[..., padded.shape[-1] - kept :]
