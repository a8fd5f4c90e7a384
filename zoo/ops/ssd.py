"""State-space duality (Dao & Gu 2024, arXiv:2405.21060): a recurrence with one decay per head, in chunks.

S_t = a_t S_{t-1} + B_t x_t^T and y_t = S_t^T C_t for each head, a_t = exp(log_decay_t). Inside a chunk it
is a masked matrix product; between chunks a state is carried. Every chunk size gives the recurrence's result.

Shapes: B batch, L length, H heads, P head width, G groups of heads that share B and C, R = H / G, N state
size; n chunks of Q positions.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

MIN_DECAY = 2.0**-10  # the least magnitude of a signed decay; its logarithm must stay differentiable


def ssd(
    x: Tensor, log_decay: Tensor, b: Tensor, c: Tensor, *, chunk_size: int, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """x (B, L, H, P), log_decay (B, L, H), b and c (B, L, G, N) -> y (B, L, H, P), state (B, H, N, P).

    ``log_decay`` is at most 0 and float32 at least; products run in the type of ``x``.
    """
    L, H = x.shape[1:3]
    n, Q = chunk_layout(L, chunk_size)
    x, b, c = (in_chunks(t, n, Q) for t in (x, b, c))  # (B, n, Q, ...)
    total = in_chunks(log_decay, n, Q).transpose(2, 3).cumsum(-1)  # (B, n, H, Q), own position included
    end = total[..., -1:]
    b, c = b.transpose(2, 3), c.transpose(2, 3)  # (B, n, G, Q, N)

    # 1. inside a chunk; masked before exp, since later keys would overflow
    position = torch.arange(Q, device=x.device)
    later = position[:, None] < position
    decay = (total[..., :, None] + (-total)[..., None, :]).masked_fill_(later, -math.inf).exp_()
    y = within_chunks(c @ b.transpose(-1, -2), decay, x)
    # 2. what each chunk adds to the state at its end
    added = summaries(x, (end - total).exp(), b)
    # 3. the state before each chunk
    before, after = carry(added, end.exp(), state)
    # 4. what the state adds to each position
    y = y + read(c, before, total.exp(), H)
    return y.flatten(1, 2)[:, :L], after


def ssd_step(x: Tensor, decay: Tensor, b: Tensor, c: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """x (B, H, P), decay (B, H), b and c (B, G, N), state (B, H, N, P) -> y (B, H, P), next state."""
    n_shared = x.shape[1] // b.shape[1]
    b, c = (t.repeat_interleave(n_shared, dim=1) for t in (b, c))  # (B, H, N)
    state = decay[..., None, None] * state + b[..., :, None] * x[..., None, :]
    return (c[..., None, :].to(state.dtype) @ state).squeeze(-2), state


def signed_decay(log_decay: Tensor) -> tuple[Tensor, Tensor]:
    """(B, L, H) -> sign and log magnitude of the decay 2 exp(log_decay) - 1, which lies in (-1, 1).

    Negative decays let a state flip, which parity needs (Grazzi et al. 2024, arXiv:2411.12537). Magnitudes
    below ``MIN_DECAY`` are raised to it.
    """
    decay = 1 + 2 * torch.expm1(log_decay)
    return torch.where(decay < 0, -1.0, 1.0).to(decay.dtype), decay.abs().clamp(min=MIN_DECAY).log()


def signed_ssd(
    x: Tensor, sign: Tensor, log_decay: Tensor, b: Tensor, c: Tensor, *, chunk_size: int
) -> tuple[Tensor, Tensor]:
    """``ssd`` with decays sign * exp(log_decay).

    With s_t the product of the signs up to t, the product of the signs after j up to i is s_i s_j: so it is
    the unsigned recurrence on s_j x_j, read as s_i y_i.
    """
    n_negative = (sign < 0).cumsum(1)  # counted in integers
    product = (1 - 2 * (n_negative % 2)).to(x.dtype)[..., None]  # (B, L, H, 1)
    y, state = ssd(x * product, log_decay, b, c, chunk_size=chunk_size)
    return y * product, state * product[:, -1, :, :, None]


def chunk_layout(length: int, chunk_size: int) -> tuple[int, int]:
    """(n, Q): as few chunks of at most ``chunk_size`` as hold ``length``, all as short as that allows."""
    n = -(-length // chunk_size)
    return n, -(-length // n)


def in_chunks(t: Tensor, n: int, size: int) -> Tensor:
    """(B, L, ...) -> (B, n, size, ...), zeros after the end."""
    missing = n * size - t.shape[1]
    if missing:
        t = F.pad(t, (0, 0) * (t.dim() - 2) + (0, missing))
    return t.reshape(t.shape[0], n, size, *t.shape[2:])


def within_chunks(scores: Tensor, weights: Tensor, x: Tensor) -> Tensor:
    """scores (B, n, G, Q, Q), weights (B, n, H, Q, Q), x (B, n, Q, H, P) -> (B, n, Q, H, P)."""
    B, n, H, Q, _ = weights.shape
    G = scores.shape[2]
    matrix = scores[:, :, :, None] * weights.view(B, n, G, H // G, Q, Q)
    y = matrix.view(B, n, H, Q, Q).to(x.dtype) @ x.transpose(2, 3)  # (B, n, H, Q, P)
    return y.transpose(2, 3)


def summaries(x: Tensor, weights: Tensor, b: Tensor) -> Tensor:
    """x (B, n, Q, H, P), weights (B, n, H, Q), b (B, n, G, Q, N) -> sum of w b x^T, (B, n, G, N, R, P)."""
    B, n, Q, H, P = x.shape
    G, N = b.shape[2], b.shape[4]
    weighted = (x * weights.transpose(2, 3)[..., None]).to(x.dtype)
    weighted = weighted.view(B, n, Q, G, H // G * P).transpose(2, 3)  # (B, n, G, Q, R P)
    return (b.transpose(-1, -2) @ weighted).view(B, n, G, N, H // G, P)


def carry(
    added: Tensor, decay: Tensor, state: Tensor | None = None, *, backward: bool = False
) -> tuple[Tensor, Tensor]:
    """added (B, n, G, N, R, P), decay (B, n, H, 1), state (B, H, N, P) -> states before chunks, last state.

    ``backward`` goes from the last chunk to the first. States are float32 at least.
    """
    B, _, G, N, R, P = added.shape
    added = added.to(torch.promote_types(added.dtype, torch.float32))
    decays = decay.view(B, -1, G, 1, R, 1).to(added.dtype).unbind(1)
    if state is None:
        current = torch.zeros_like(added[:, 0])
    else:
        current = state.view(B, G, R, N, P).transpose(2, 3).to(added.dtype)
    before = []
    steps = list(zip(added.unbind(1), decays))
    for new, kept in reversed(steps) if backward else steps:
        before.append(current)
        current = torch.addcmul(new, current, kept)
    if backward:
        before.reverse()
    return torch.stack(before, dim=1), current.transpose(2, 3).reshape(B, G * R, N, P)


def read(c: Tensor, states: Tensor, weights: Tensor, n_heads: int) -> Tensor:
    """c (B, n, G, Q, N), states (B, n, G, N, R, P), weights (B, n, H, Q) -> w S^T c, (B, n, Q, H, P)."""
    B, n, G, Q, _ = c.shape
    R, P = states.shape[4:]
    y = c @ states.flatten(4).to(c.dtype)  # (B, n, G, Q, R P)
    y = y.view(B, n, G, Q, R, P).transpose(2, 3).reshape(B, n, Q, n_heads, P)
    return y * weights.transpose(2, 3)[..., None]


def ssd_macs(length: int, chunk_size: int, *, n_heads: int, d_head: int, n_groups: int, d_state: int) -> int:
    """Multiply-adds of ``ssd`` on one sequence, the tail of the last chunk included."""
    n, Q = chunk_layout(length, chunk_size)
    return n * Q * (Q * (n_groups * d_state + n_heads * d_head) + 2 * n_heads * d_head * d_state)


def ssd_macs_needed(
    length: int, chunk_size: int, *, n_heads: int, d_head: int, n_groups: int, d_state: int
) -> int:
    """The same without the tail and the masked half of each chunk's matrix."""
    n, Q = chunk_layout(length, chunk_size)
    rest = length - (n - 1) * Q
    pairs = ((n - 1) * Q * (Q + 1) + rest * (rest + 1)) // 2
    return pairs * (n_groups * d_state + n_heads * d_head) + 2 * length * n_heads * d_head * d_state


def ssd_macs_spared(
    length: int, chunk_size: int, *, d_inner: int, d_state: int, learned_state: bool = False
) -> int:
    """Multiply-adds that a backward pass spares, of twice the forward ones, where one chunk holds all.

    Nobody reads what the chunk adds to the state; and what enters it has no gradient unless it is learned.
    """
    n, _ = chunk_layout(length, chunk_size)
    return (2 if learned_state else 3) * length * d_inner * d_state if n == 1 else 0


def step_size_bias(n_heads: int, low: float = 1e-3, high: float = 1e-1) -> Tensor:
    """(H,): the dt_bias for which softplus gives step sizes drawn log-uniformly from [low, high]."""
    return inverse_softplus(torch.exp(torch.empty(n_heads).uniform_(math.log(low), math.log(high))))


def inverse_softplus(y: Tensor) -> Tensor:
    return y + torch.log(-torch.expm1(-y))
