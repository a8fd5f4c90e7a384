"""RMS normalisation in groups of channels, in float32 at least; inside the gated recurrent mixers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

EPSILON = 1e-5


def grouped_rms_norm(x: Tensor, weight: Tensor, n_groups: int = 1) -> Tensor:
    """(..., C), (C,) -> (..., C): mean square 1 in each of ``n_groups`` parts, times weight."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    width = x.shape[-1] // n_groups
    y = F.rms_norm(wide.view(*x.shape[:-1], n_groups, width), (width,), eps=EPSILON)
    return y.flatten(-2) * weight
