"""Random inputs of a model: never zeros, on which kernels run measurably faster than on data."""

from __future__ import annotations

import torch
from torch import Tensor

from archspec import Input, ModelSpec
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


def random_condition(
    spec: ModelSpec, *, batch_size: int, dtype: torch.dtype = torch.float32, seed: int = 0
) -> dict[str, Tensor]:
    """The further inputs that a conditioned model cannot do without, by name; on the CPU."""
    condition, found = spec.condition, {}
    generator = torch.Generator().manual_seed(1 + seed)
    if condition is not None and condition.d_input is not None:
        shape = (batch_size, condition.seq_len, condition.d_input)
        found["condition"] = torch.randn(shape, generator=generator).to(dtype)
    if condition is not None and condition.time:
        found["time"] = torch.rand(batch_size, generator=generator).to(dtype)
    return found
