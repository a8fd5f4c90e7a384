"""Quasiseparable matrices (Hwang et al. 2024, arXiv:2407.09941): a recurrence both ways in one product.

y = M x for each head, where

    M[i, j] = c_{i-1} . b_j dt_j exp(sum of log_decay over j+1 .. i-1)    for j < i, from ``ahead``
    M[i, j] = c_{i+1} . b_j dt_j exp(sum of log_decay over i+1 .. j-1)    for j > i, from ``back``

and M[i, i] = 0. Both triangles of a chunk are one matrix; between chunks a state is carried each way.
There is no flip and no roll, and every chunk size gives the dense result.

Shapes: B batch, L length, H heads, P head width, G groups of heads that share b and c, N state size; n chunks
of Q positions.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.ops.ssd import carry, chunk_layout, in_chunks, read, ssd, summaries, within_chunks


class OneWay(NamedTuple):
    """One direction: log_decay <= 0 and dt >= 0, (B, L, H) in float32 at least; b and c (B, L, G, N)."""

    log_decay: Tensor
    dt: Tensor
    b: Tensor
    c: Tensor


def quasiseparable(
    x: Tensor, ahead: OneWay, back: OneWay, *, chunk_size: int, state: Tensor | None = None
) -> Tensor:
    """x (B, L, H, P) -> M x (B, L, H, P). Where dt is 0, x must be 0 as well (padding).

    A ``state`` (H, N, P) stands before the first token and behind the last, and is read as what they add is.
    """
    L, H = x.shape[1:3]
    n, Q = chunk_layout(L, chunk_size)
    x = in_chunks(x, n, Q)
    f = _Half.of(ahead._replace(c=_delayed(ahead.c)), n, Q, reverse=False)
    r = _Half.of(back._replace(c=_advanced(back.c)), n, Q, reverse=True)

    # 1. inside a chunk: the lower triangle looks back, the upper one ahead; masked before exp
    position = torch.arange(Q, device=x.device)
    earlier, same = position[:, None] > position, position[:, None] == position
    exponent = torch.where(
        earlier, f.row[..., None] + (-f.key)[..., None, :], r.row[..., None] + (-r.key)[..., None, :]
    )
    decay = exponent.masked_fill_(same, -math.inf).exp_()  # (B, n, H, Q, Q), the largest tensor: made once
    scores = torch.where(earlier, f.c @ f.b.transpose(-1, -2), r.c @ r.b.transpose(-1, -2))
    y = within_chunks(scores, decay, x)
    # 2. what enters a chunk from the left and from the right
    first = None if state is None else state.expand(x.shape[0], -1, -1, -1)
    for half in (f, r):
        added = summaries(x, (half.whole - half.key).exp(), half.b)
        entering, _ = carry(added, half.whole.exp(), first, backward=half is r)
        y = y + read(half.c, entering, half.row.exp(), H)
    return y.flatten(1, 2)[:, :L]


class _Half(NamedTuple):
    """A direction in chunks. ``row`` - ``key`` is the logarithm of dt_j times the decay between j and i."""

    row: Tensor  # (B, n, H, Q): decays before the position, seen along the direction
    key: Tensor  # (B, n, H, Q): decays up to and with the position, less log dt
    whole: Tensor  # (B, n, H, 1): decays of the chunk
    b: Tensor  # (B, n, G, Q, N)
    c: Tensor

    @classmethod
    def of(cls, way: OneWay, n: int, size: int, *, reverse: bool) -> _Half:
        log_decay, dt, b, c = (in_chunks(t, n, size).transpose(2, 3) for t in way)
        if reverse:
            total = log_decay.flip(-1).cumsum(-1).flip(-1)
            row, whole = F.pad(total[..., 1:], (0, 1)), total[..., :1]
        else:
            total = log_decay.cumsum(-1)
            row, whole = F.pad(total[..., :-1], (1, 0)), total[..., -1:]
        log_dt = dt.clamp(min=torch.finfo(dt.dtype).tiny).log()
        return cls(row, total - log_dt, whole, b, c)


def scans(
    x: Tensor, ahead: OneWay, back: OneWay, *, chunk_size: int, shift: bool, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """What each direction gives alone, (B, L, H, P) twice, in two passes; with ``shift`` their sum is M x.

    Without it both read with c of their own position, so that each token sees itself in both.
    """
    if state is not None:
        state = state.expand(x.shape[0], -1, -1, -1)
    y = _scan(x, ahead, chunk_size=chunk_size, state=state)
    z = _scan(x.flip(1), OneWay(*(t.flip(1) for t in back)), chunk_size=chunk_size, state=state).flip(1)
    return (_delayed(y), _advanced(z)) if shift else (y, z)


def _scan(x: Tensor, way: OneWay, *, chunk_size: int, state: Tensor | None) -> Tensor:
    stepped = (x * way.dt[..., None]).to(x.dtype)
    return ssd(stepped, way.log_decay, way.b, way.c, chunk_size=chunk_size, state=state)[0]


def dense_quasiseparable(ahead: OneWay, back: OneWay) -> Tensor:
    """M itself, (B, H, L, L), entry by entry as defined."""
    below, above = dense_scans(ahead, back, shift=True)
    return below + above


def dense_scans(ahead: OneWay, back: OneWay, *, shift: bool) -> tuple[Tensor, Tensor]:
    """The matrices of ``scans``, (B, H, L, L) twice."""
    L, H = ahead.dt.shape[1:]
    i = torch.arange(L, device=ahead.dt.device)
    row, column = i[:, None], i
    between = _sums_between(ahead.log_decay), _sums_between(back.log_decay).transpose(-1, -2)
    if shift:
        below = _side(ahead._replace(c=_delayed(ahead.c)), H, column < row, decays=between[0])
        above = _side(back._replace(c=_advanced(back.c)), H, column > row, decays=between[1])
        return below, above
    own = (way.log_decay.transpose(1, 2)[..., None] * (row != column) for way in (ahead, back))
    below, above = (decays + last for decays, last in zip(between, own))  # the row's own decay too
    return _side(ahead, H, column <= row, decays=below), _side(back, H, column >= row, decays=above)


def dense_state(ahead: OneWay, back: OneWay, state: Tensor, *, shift: bool) -> tuple[Tensor, Tensor]:
    """What ``scans`` reads of a ``state`` (H, N, P) that stands before either one: (B, L, H, P) twice."""
    i = torch.arange(ahead.dt.shape[1], device=ahead.dt.device)
    row, column = i[:, None], i
    found = []
    for way, passed in ((ahead, column <= row), (back, column >= row)):
        decay = torch.einsum("im,bmh->bih", passed.to(way.dt.dtype), way.log_decay).exp()
        c = way.c.repeat_interleave(state.shape[0] // way.c.shape[2], dim=2)
        found.append(torch.einsum("bihn,hnp->bihp", c, state) * decay[..., None])
    return (_delayed(found[0]), _advanced(found[1])) if shift else (found[0], found[1])


def _side(way: OneWay, n_heads: int, where: Tensor, *, decays: Tensor) -> Tensor:
    b, c = (t.repeat_interleave(n_heads // t.shape[2], dim=2).transpose(1, 2) for t in (way.b, way.c))
    weights = decays.masked_fill(~where, -math.inf).exp() * way.dt.transpose(1, 2)[..., None, :]
    return (c @ b.transpose(-1, -2)) * weights


def _sums_between(log_decay: Tensor) -> Tensor:
    """(B, L, H) -> (B, H, L, L): at [i, j], the sum over the positions strictly between, for j < i."""
    L = log_decay.shape[1]
    i = torch.arange(L, device=log_decay.device)
    inside = (i > i[:, None, None]) & (i < i[None, :, None])  # [j, i, m]: j < m < i
    return torch.einsum("jim,bmh->bhij", inside.to(log_decay.dtype), log_decay)


def _delayed(t: Tensor) -> Tensor:
    """(B, L, ...) -> the same one position later, zero at the start."""
    return F.pad(t[:, :-1], (0, 0) * (t.dim() - 2) + (1, 0))


def _advanced(t: Tensor) -> Tensor:
    """(B, L, ...) -> the same one position earlier, zero at the end."""
    return F.pad(t[:, 1:], (0, 0) * (t.dim() - 2) + (0, 1))


def quasiseparable_macs(
    length: int, chunk_size: int, *, n_heads: int, d_head: int, n_groups: int, d_state: int
) -> int:
    """Multiply-adds of ``quasiseparable`` on one sequence, the tail of the last chunk included."""
    n, Q = chunk_layout(length, chunk_size)
    inner = n_heads * d_head
    return n * Q * (Q * (2 * n_groups * d_state + inner) + 4 * inner * d_state)


def quasiseparable_macs_needed(
    length: int, chunk_size: int, *, n_heads: int, d_head: int, n_groups: int, d_state: int
) -> int:
    """The same with each triangle's scores only where they are used, and without the tail."""
    n, Q = chunk_layout(length, chunk_size)
    rest = length - (n - 1) * Q
    pairs = (n - 1) * Q * (Q - 1) + rest * (rest - 1)
    inner = n_heads * d_head
    return pairs * (n_groups * d_state + inner) + 4 * length * inner * d_state
