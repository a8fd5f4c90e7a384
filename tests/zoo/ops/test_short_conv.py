"""The depthwise convolution against its definition as a sum of shifted inputs."""

from __future__ import annotations

import pytest
import torch

from zoo.ops.short_conv import last_inputs, short_conv, short_conv_step


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "centered"])
@pytest.mark.parametrize("k", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("length", [1, 2, 5, 20])
def test_is_a_sum_of_shifted_inputs(length: int, k: int, causal: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, length, 3, dtype=torch.float64)
    weight, bias = torch.randn(3, 1, k, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    left = k - 1 if causal else k // 2
    want = bias.expand(2, length, 3).clone()
    for t in range(length):
        for j in range(k):
            if 0 <= t + j - left < length:
                want[:, t] += weight[:, 0, j] * x[:, t + j - left]
    torch.testing.assert_close(short_conv(x, weight, bias, causal=causal), want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("n_prefill", [0, 1, 2, 6])
def test_step_is_the_causal_convolution(n_prefill: int, k: int) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(2, 9, 3, dtype=torch.float64), torch.randn(3, 1, k, dtype=torch.float64)
    want = short_conv(x, weight, causal=True)
    past = last_inputs(x[:, :n_prefill], k)
    assert past.shape == (2, 3, k - 1)
    for t in range(n_prefill, 9):
        y, past = short_conv_step(x[:, t], past, weight)
        torch.testing.assert_close(y, want[:, t], rtol=1e-12, atol=1e-12)
