"""The fused quasiseparable product against the dense matrix, the two-pass form, and the matrix's structure."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from zoo.ops.quasiseparable import OneWay, dense_quasiseparable, quasiseparable, scans
from zoo.ops.ssd import ssd

B, H, P, G, N = 2, 4, 3, 2, 5


def inputs(length: int, *, scale: float = 0.5) -> tuple[Tensor, OneWay, OneWay]:
    generator = torch.Generator().manual_seed(length)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def one_way() -> OneWay:
        dt = normal(B, length, H).abs() + 0.01
        b, c = normal(B, length, G, N), normal(B, length, G, N)
        return OneWay(*(t.requires_grad_() for t in (-scale * dt, dt, b, c)))

    return normal(B, length, H, P).requires_grad_(), one_way(), one_way()


def dense_product(x: Tensor, ahead: OneWay, back: OneWay) -> Tensor:
    return torch.einsum("bhij,bjhp->bihp", dense_quasiseparable(ahead, back), x)


@pytest.mark.parametrize("length", [1, 2, 3, 15, 16, 17, 37, 64])
def test_dense_equality(length: int) -> None:
    x, ahead, back = inputs(length)
    got, want = quasiseparable(x, ahead, back, chunk_size=16), dense_product(x, ahead, back)
    assert_equal_with_gradients(got, want, (x, *ahead, *back))


@pytest.mark.parametrize("chunk_size", [1, 3, 16, 64, None])
@pytest.mark.parametrize("length", [2, 37, 64, 65])
def test_chunk_invariance(length: int, chunk_size: int | None) -> None:
    """Chunks of one position up to the whole sequence, and longer than that."""
    x, ahead, back = inputs(length)
    got = quasiseparable(x, ahead, back, chunk_size=chunk_size or length)
    assert_equal_with_gradients(got, dense_product(x, ahead, back), (x, *ahead, *back))


def assert_equal_with_gradients(got: Tensor, want: Tensor, leaves: tuple[Tensor, ...]) -> None:
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    weight = torch.randn_like(want)
    gradients = (torch.autograd.grad((y * weight).sum(), leaves) for y in (got, want))
    for a, e in zip(*gradients):
        torch.testing.assert_close(a, e, rtol=1e-10, atol=1e-11)


def test_entries_by_hand() -> None:
    """M[3, 1] passes the decay of 2 alone and reads with c of 2; M[0, 2] passes 1 and reads with c of 1."""
    _, ahead, back = inputs(5)
    m = dense_quasiseparable(ahead, back)[0, 3]  # head 3 belongs to group 1
    below = ahead.c[0, 2, 1] @ ahead.b[0, 1, 1] * ahead.dt[0, 1, 3] * ahead.log_decay[0, 2, 3].exp()
    above = back.c[0, 1, 1] @ back.b[0, 2, 1] * back.dt[0, 2, 3] * back.log_decay[0, 1, 3].exp()
    torch.testing.assert_close(m[3, 1], below)
    torch.testing.assert_close(m[0, 2], above)
    assert (m.diagonal() == 0).all()


@pytest.mark.parametrize("length", [2, 17, 40])
def test_fused_equals_two_pass(length: int) -> None:
    """A causal scan each way, the second on the flipped sequence, both read one position late."""
    x, ahead, back = inputs(length)

    def one_pass(x: Tensor, way: OneWay) -> Tensor:
        y, _ = ssd(x * way.dt[..., None], way.log_decay, way.b, way.c, chunk_size=8)
        return torch.cat([torch.zeros_like(y[:, :1]), y[:, :-1]], dim=1)

    flipped = OneWay(*(t.flip(1) for t in back))
    want = one_pass(x, ahead) + one_pass(x.flip(1), flipped).flip(1)
    torch.testing.assert_close(quasiseparable(x, ahead, back, chunk_size=8), want, rtol=1e-12, atol=1e-12)
    separate = scans(x, ahead, back, chunk_size=5, shift=True)
    torch.testing.assert_close(separate[0] + separate[1], want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shift", [True, False])
@pytest.mark.parametrize("chunk_size", [1, 4, 32])
def test_a_state_before_the_scans_is_as_if_tokens_had_left_it(shift: bool, chunk_size: int) -> None:
    """Both scans of the middle of a sequence, from what the forward scan knows before it.

    The token before the middle is then what the first one reads with, if shifted: it alone differs.
    """
    x, ahead, back = inputs(24)
    before = [OneWay(*(t[:, :9] for t in way)) for way in (ahead, back)]
    _, state = ssd(
        x[:1, :9] * ahead.dt[:1, :9, :, None], *(t[:1] for t in (before[0].log_decay, before[0].b, before[0].c)),
        chunk_size=4,
    )  # fmt: skip
    middle = [OneWay(*(t[:1, 9:] for t in way)) for way in (ahead, back)]
    got, _ = scans(x[:1, 9:], *middle, chunk_size=chunk_size, shift=shift, state=state[0])
    whole, _ = scans(
        x[:1], *(OneWay(*(t[:1] for t in way)) for way in (ahead, back)), chunk_size=5, shift=shift
    )
    torch.testing.assert_close(got[:, 1:], whole[:, 10:], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(got[:, 0], torch.zeros_like(got[:, 0]) if shift else whole[:, 9])
    if shift:
        both = scans(x[:1, 9:], *middle, chunk_size=chunk_size, shift=True, state=state[0])
        fused = quasiseparable(x[:1, 9:], *middle, chunk_size=chunk_size, state=state[0])
        torch.testing.assert_close(fused, both[0] + both[1], rtol=1e-12, atol=1e-12)


def test_offdiag_rank() -> None:
    _, ahead, back = inputs(24)
    m = dense_quasiseparable(ahead, back) + torch.eye(24, dtype=torch.float64)
    for row in range(1, 24):
        for block in (m[..., row:, :row], m[..., :row, row:]):
            assert int(torch.linalg.matrix_rank(block, rtol=1e-10).max()) <= N
    assert int(torch.linalg.matrix_rank(m[..., 6:, :18]).min()) > N  # with the diagonal


def test_first_last_rows() -> None:
    """Nothing is ahead of the first token and nothing behind the last."""
    x, ahead, back = inputs(20)
    silent = OneWay(*(torch.zeros_like(t) for t in ahead))
    only_ahead = quasiseparable(x, ahead, silent, chunk_size=8)
    only_back = quasiseparable(x, silent, back, chunk_size=8)
    assert (only_ahead[:, 0] == 0).all()
    assert (only_back[:, -1] == 0).all()
    assert (only_ahead[:, 1:] != 0).all()
    assert (only_back[:, :-1] != 0).all()


def test_roll_wrap() -> None:
    """A huge last token reaches the first one through the backward half alone, and the other way round."""
    x, ahead, back = inputs(20)
    silent = OneWay(*(torch.zeros_like(t) for t in ahead))
    for token, ways in ((-1, (ahead, silent)), (0, (silent, back))):
        louder = x.detach().clone()
        louder[:, token] = 1e12
        ys = [quasiseparable(v, *ways, chunk_size=8) for v in (x, louder)]
        torch.testing.assert_close(ys[0], ys[1], rtol=0, atol=0)
        ys = [sum(scans(v, *ways, chunk_size=8, shift=True)) for v in (x, louder)]
        torch.testing.assert_close(ys[0], ys[1], rtol=0, atol=0)


def test_flip_equivariance() -> None:
    x, ahead, back = inputs(21)
    mirrored = (OneWay(*(t.flip(1) for t in way)) for way in (back, ahead))
    got = quasiseparable(x.flip(1), *mirrored, chunk_size=8).flip(1)
    torch.testing.assert_close(got, quasiseparable(x, ahead, back, chunk_size=8), rtol=1e-12, atol=1e-12)


def test_longer_sequences_keep_the_block_of_the_shorter_one() -> None:
    _, ahead, back = inputs(21)
    short = (OneWay(*(t[:, :13] for t in way)) for way in (ahead, back))
    m = dense_quasiseparable(ahead, back)
    torch.testing.assert_close(dense_quasiseparable(*short), m[..., :13, :13])


def test_strong_decay_leaves_the_neighbours() -> None:
    _, ahead, back = inputs(12, scale=1e6)
    i = torch.arange(12)
    far = (i[:, None] - i).abs() > 1
    m = dense_quasiseparable(ahead, back)
    assert (m.masked_select(far) == 0).all()
    assert (m.masked_select((i[:, None] - i).abs() == 1) != 0).all()


def test_long_decays_stay_finite_in_float32() -> None:
    x, ahead, back = inputs(128, scale=40.0)
    leaves = [t.detach().float().requires_grad_() for t in (x, *ahead, *back)]
    y = quasiseparable(leaves[0], OneWay(*leaves[1:5]), OneWay(*leaves[5:]), chunk_size=64)
    assert y.isfinite().all()
    assert all(g.isfinite().all() for g in torch.autograd.grad(y.sum(), leaves))


def test_positions_without_a_step_are_transparent() -> None:
    """Where dt and x are 0, what lies beyond passes unchanged: padding in a batch."""
    x, ahead, back = inputs(16)
    keep = torch.arange(16) < 11
    cut = [OneWay(*(t[:, :11] for t in way)) for way in (ahead, back)]
    want = quasiseparable(x[:, :11], *cut, chunk_size=4)
    still = [
        w._replace(log_decay=w.log_decay * keep[:, None], dt=w.dt * keep[:, None]) for w in (ahead, back)
    ]
    padded = (x * keep[:, None, None]).detach().requires_grad_()
    got = quasiseparable(padded, *still, chunk_size=4)[:, :11]
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    assert torch.autograd.grad(got.sum(), padded)[0].isfinite().all()
