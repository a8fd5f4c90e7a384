"""The chunked recurrence equals the recurrence step by step, at every chunk size, values and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from zoo.ops.ssd import chunk_layout, signed_decay, signed_ssd, ssd, ssd_step, step_size_bias

B, H, P, G, N = 2, 4, 3, 2, 5


def inputs(length: int, scale: float = 1.0) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(length)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    log_decay = -scale * normal(B, length, H).abs()
    tensors = (normal(B, length, H, P), log_decay, normal(B, length, G, N), normal(B, length, G, N))
    return tuple(t.requires_grad_() for t in tensors)


def recurrence(
    x: Tensor, decay: Tensor, b: Tensor, c: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    state = x.new_zeros(B, H, N, P) if state is None else state
    ys = []
    for x_t, decay_t, b_t, c_t in zip(x.unbind(1), decay.unbind(1), b.unbind(1), c.unbind(1)):
        y, state = ssd_step(x_t, decay_t, b_t, c_t, state)
        ys.append(y)
    return torch.stack(ys, dim=1), state


@pytest.mark.parametrize("chunk_size", [1, 3, 16, 64])
@pytest.mark.parametrize("length", [1, 2, 3, 15, 16, 17, 37, 64])
def test_chunks_are_the_recurrence(length: int, chunk_size: int) -> None:
    tensors = inputs(length)
    x, log_decay, b, c = tensors
    got = ssd(x, log_decay, b, c, chunk_size=chunk_size)
    want = recurrence(x, log_decay.exp(), b, c)
    for a, e in zip(got, want):
        torch.testing.assert_close(a, e, rtol=1e-12, atol=1e-12)
    weights = [torch.randn_like(t) for t in got]
    sums = [torch.stack([(t * w).sum() for t, w in zip(pair, weights)]).sum() for pair in (got, want)]
    for a, e in zip(*(torch.autograd.grad(s, tensors) for s in sums)):
        torch.testing.assert_close(a, e, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("chunk_size", [1, 4, 64])
@pytest.mark.parametrize("length", [1, 17, 40])
def test_signed_chunks_are_the_recurrence(length: int, chunk_size: int) -> None:
    tensors = inputs(length)
    x, log_decay, b, c = tensors
    sign, log_magnitude = signed_decay(log_decay)
    assert length == 1 or {-1.0, 1.0} == set(sign.flatten().tolist())
    got = signed_ssd(x, sign, log_magnitude, b, c, chunk_size=chunk_size)
    want = recurrence(x, 2 * log_decay.exp() - 1, b, c)
    for a, e in zip(got, want):
        torch.testing.assert_close(a, e, rtol=1e-12, atol=1e-12)
    sums = [(y**2).sum() + state.sum() for y, state in (got, want)]
    for a, e in zip(*(torch.autograd.grad(s, tensors) for s in sums)):
        torch.testing.assert_close(a, e, rtol=1e-9, atol=1e-10)


def test_a_state_is_handed_over_exactly() -> None:
    tensors = inputs(29)
    whole, end = ssd(*tensors, chunk_size=8)
    first, state = ssd(*(t[:, :11] for t in tensors), chunk_size=8)
    second, state = ssd(*(t[:, 11:] for t in tensors), chunk_size=8, state=state)
    torch.testing.assert_close(torch.cat([first, second], dim=1), whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(state, end, rtol=1e-12, atol=1e-12)


def test_long_decays_stay_finite_in_float32() -> None:
    """exp before the mask would overflow here: the sum of the log decays in a chunk passes -1000."""
    tensors = [t.detach().float().requires_grad_() for t in inputs(128, scale=40.0)]
    y, state = ssd(*tensors, chunk_size=64)
    gradients = torch.autograd.grad(y.sum() + state.sum(), tensors)
    assert all(t.isfinite().all() for t in (y, state, *gradients))


def test_a_signed_decay_at_zero_stays_finite() -> None:
    x, _, b, c = inputs(9)
    log_decay = torch.full((B, 9, H), -0.6931471805599453, dtype=torch.float64, requires_grad=True)
    sign, log_magnitude = signed_decay(log_decay)
    y, _ = signed_ssd(x, sign, log_magnitude, b, c, chunk_size=4)
    (gradient,) = torch.autograd.grad(y.sum(), log_decay)
    assert y.isfinite().all()
    assert gradient.isfinite().all()


def test_no_time_passes_without_a_step() -> None:
    """A step of length 0 has decay +1 in both forms, so padding leaves the state alone."""
    for decay in (torch.zeros(1).exp(), signed_decay(torch.zeros(1))[1].exp()):
        assert decay.item() == 1.0


@pytest.mark.parametrize(("length", "layout"), [(1, (1, 1)), (64, (1, 64)), (65, (2, 33)), (200, (4, 50))])
def test_chunks_are_even(length: int, layout: tuple[int, int]) -> None:
    assert chunk_layout(length, 64) == layout


def test_step_sizes_start_in_their_range() -> None:
    torch.manual_seed(0)
    dt = torch.nn.functional.softplus(step_size_bias(1000).double())
    assert 1e-3 * 0.999 < dt.min() < 2e-3
    assert 5e-2 < dt.max() < 1e-1 * 1.001
