"""Random inputs of a model: never zeros, on which kernels run measurably faster than on data."""

from __future__ import annotations

import torch
from torch import Tensor

from archspec import Input
from archspec.inputs import FeatureInput, TokenInput


def random_inputs(
    input: Input, *, batch_size: int, seq_len: int, dtype: torch.dtype = torch.float32, seed: int = 0
) -> Tensor:
    """Ids (B, L), features (B, L, C) or images (B, C, H, W), which have no ``seq_len``; on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    if isinstance(input, TokenInput):
        return torch.randint(input.vocab_size, (batch_size, seq_len), generator=generator)
    if isinstance(input, FeatureInput):
        shape: tuple[int, ...] = (batch_size, seq_len, input.d_input)
    else:
        shape = (batch_size, input.n_channels, input.height, input.width)
    return torch.randn(shape, generator=generator).to(dtype)
