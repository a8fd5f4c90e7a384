"""Pooling: PoolFormer's window both ways, the trailing one, padding, and what does not fit."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from archspec import CostContext, Site
from zoo.token_mixers.pool import Pool

BOTH = Site(4, 16, causal=False)
CAUSAL = Site(4, 16, causal=True)


@pytest.fixture
def x(generator: torch.Generator) -> torch.Tensor:
    return torch.randn(2, 9, 4, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("size", [1, 3, 7, 21])
def test_both_ways_is_average_pooling_without_padding_minus_x(x: torch.Tensor, size: int) -> None:
    pooled = F.avg_pool1d(x.mT, size, stride=1, padding=size // 2, count_include_pad=False).mT
    torch.testing.assert_close(Pool(Pool.Config(size=size), BOTH)(x), pooled - x)


@pytest.mark.parametrize("size", [1, 2, 3, 21])
def test_causal_window_ends_at_the_token(x: torch.Tensor, size: int) -> None:
    y = Pool(Pool.Config(size=size), CAUSAL)(x)
    for t in range(9):
        torch.testing.assert_close(y[:, t], x[:, max(0, t - size + 1) : t + 1].mean(1) - x[:, t])


def test_padding_is_left_out_of_mean_and_count(x: torch.Tensor) -> None:
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[0, 4] = False
    y = Pool(Pool.Config(size=3), BOTH)(x, mask)
    torch.testing.assert_close(y[0, 3], (x[0, 2] + x[0, 3]) / 2 - x[0, 3])
    torch.testing.assert_close(y[1, 3], x[1, 2:5].mean(0) - x[1, 3])


def test_large_values_do_not_smear(x: torch.Tensor) -> None:
    """A window is summed on its own, not as a difference of running sums."""
    loud = x.clone()
    loud[:, 0] = 1e14
    config = Pool.Config(size=3)
    torch.testing.assert_close(
        Pool(config, CAUSAL)(loud)[:, 5:], Pool(config, CAUSAL)(x)[:, 5:], rtol=0, atol=0
    )


def test_even_size_needs_a_causal_site() -> None:
    assert "'size' is 4" in (Pool.Config(size=4).misfit(BOTH) or "")
    assert Pool.Config(size=4).misfit(CAUSAL) is None


def test_smells() -> None:
    assert "zeros" in Pool.Config(size=1).smells(BOTH)[0]
    assert "16" in Pool.Config(size=17).smells(BOTH)[0]
    assert Pool.Config(size=5).smells(BOTH) == []


def test_no_parameters_and_no_matmul() -> None:
    cost = Pool.Config().cost(CostContext(64, 128))
    assert (cost.params, cost.flops) == (0, 0)
    assert cost.flops_elementwise > 0


def test_state_is_the_window_before_the_token() -> None:
    cost = Pool.Config(size=5).cost(CostContext(64, 1, causal=True, phase="decode", dtype="bfloat16"))
    assert cost.state_bytes == 4 * 64 * 2 + 8
