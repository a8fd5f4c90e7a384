"""Softmax attention with relative positions on keys and values (Shaw et al. 2018, arXiv:1803.02155).

A table of 2 m + 1 vectors holds one for every lag (query's place minus key's place) from -m to m; farther
lags take the vector at the end. With r one table's vectors and s the other's, a query reads logits q . (k +
r[lag]) and values v + s[lag].

Shapes: M queries, N keys, K width, R = 2 m + 1. Queries come scaled.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Relative(NamedTuple):
    """The tables of keys and values, each (R, K); the vector of lag x stands in row m + x."""

    keys: Tensor
    values: Tensor


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    bias: Tensor,
    lag: Tensor,
    reach: tuple[int, int],
    relative: Relative | None = None,
) -> Tensor:
    """q (..., M, K), k, v (..., N, K), bias on the logits, lag (M, N) -> (..., M, K); the softmax is in fp32.

    What a bias hides may have any lag; the others lie within ``reach`` = (most ahead, most behind). No
    tensor of (M, N, K) entries is made: lags in reach are few, and their logits and weights are moved
    instead.
    """
    logits = q @ k.transpose(-1, -2)  # (..., M, N)
    if relative is not None:
        rows, index = _rows_in_reach(relative, lag, reach)
        logits = logits + (q @ rows.keys.transpose(-1, -2)).gather(-1, index.expand(logits.shape))
    weights = torch.softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)).add_(bias), dim=-1)
    weights = weights.to(v.dtype)
    y = weights @ v
    if relative is None:
        return y
    per_lag = weights.new_zeros(*weights.shape[:-1], rows.values.shape[0])
    return y + per_lag.scatter_add(-1, index.expand(weights.shape), weights) @ rows.values


def lags_in_reach(max_rel: int, reach: tuple[int, int]) -> int:
    """Rows of a table that ``attend`` multiplies with."""
    ahead, behind = reach
    return min(ahead, max_rel) + min(behind, max_rel) + 1


def dense_attend(
    q: Tensor, k: Tensor, v: Tensor, *, sees: Tensor, lag: Tensor, relative: Relative | None = None
) -> Tensor:
    """The definition: sees and lag (..., M, N); a vector of the tables for every pair."""
    logits = q @ k.transpose(-1, -2)
    if relative is not None:
        m = relative.keys.shape[0] // 2
        rows = m + lag.clamp(-m, m)
        logits = logits + torch.einsum("...mk,...mnk->...mn", q, relative.keys[rows])
    weights = logits.masked_fill(~sees, float("-inf")).softmax(dim=-1)
    y = weights @ v
    if relative is not None:
        y = y + torch.einsum("...mn,...mnk->...mk", weights, relative.values[rows])
    return y


def _rows_in_reach(relative: Relative, lag: Tensor, reach: tuple[int, int]) -> tuple[Relative, Tensor]:
    """The tables cut to the lags in reach, and each pair's row of them (M, N)."""
    m = relative.keys.shape[0] // 2
    ahead, behind = (min(side, m) for side in reach)
    rows = Relative(*(table[m - ahead : m + behind + 1] for table in relative))
    return rows, lag.clamp(-ahead, behind) + ahead


def scaled(q: Tensor, scale: float | None) -> Tensor:
    """Queries (..., K) times ``scale``, K^-1/2 unless told."""
    return q * (q.shape[-1] ** -0.5 if scale is None else scale)
