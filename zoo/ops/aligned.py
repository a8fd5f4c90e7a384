"""Attention from one stream to the neighbourhood of the same place in another.

Query i reads the source positions j with |i - j| < w, as the local heads of Routing Transformer do between
encoder and decoder (Roy et al. 2021, arXiv:2003.05997; there in blocks). A query past the end of the source
by more than the window reads nothing, and gets zero.

Shapes: B batch, H heads, M queries, N source positions, K head width, w window. A mask is (B, N), True at
real tokens of the source.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.ops.cross import attend_to_source


def aligned_attention(
    q: Tensor, k: Tensor, v: Tensor, *, window: int, first: int | None = None, mask: Tensor | None = None
) -> Tensor:
    """q (B, H, M, K), k, v (B, H, N, K) -> (B, H, M, K); ``first`` is the place of the first query.

    Without ``first`` all queries are there, from place 0 on.
    """
    B, H, M, K = q.shape
    N, device = k.shape[2], q.device
    if first is None and window >= max(M, N):
        return attend_to_source(q, k, v, mask)
    n, size, span = aligned_layout(M, window)
    query = torch.arange(size, device=device)
    key = torch.arange(span, device=device) - (window - 1)  # relative to the block's first query
    near = (key - query[:, None]).abs() < window  # (size, span)
    place = (first or 0) + torch.arange(n, device=device)[:, None] * size + key  # (n, span)
    real = ((place >= 0) & (place < N))[None]  # (1, n, span)
    place = place.clamp(0, N - 1).flatten()
    if mask is not None:
        real = real & mask.index_select(1, place).view(B, n, span)
    seen = near & real[:, :, None]  # (B or 1, n, size, span)
    some = seen.any(-1, keepdim=True)
    # A query that sees nothing reads all that stands there, finite, and is zeroed afterwards.
    allowed = (seen | ~some).expand(B, -1, -1, -1).flatten(0, 1)[:, None]  # (B n, 1, size, span)

    def blocks(t: Tensor, length: int) -> Tensor:
        return t.reshape(B, H, n, length, K).transpose(1, 2).flatten(0, 1)

    queries = blocks(F.pad(q, (0, 0, 0, n * size - M)), size)
    keys, values = (blocks(t.index_select(2, place), span) for t in (k, v))
    y = F.scaled_dot_product_attention(queries, keys, values, attn_mask=allowed)
    y = y.view(B, n, H, size, K).masked_fill(~some[:, :, None], 0)
    return y.transpose(1, 2).reshape(B, H, n * size, K)[:, :, :M]


def aligned_layout(n_queries: int, window: int) -> tuple[int, int, int]:
    """Blocks, queries in a block and keys beside a block."""
    n = -(-n_queries // max(32, -(-window // 2)))
    size = -(-n_queries // n)
    return n, size, 2 * (window - 1) + size


def aligned_pairs(n_queries: int, n_source: int, window: int, *, decoding: bool) -> tuple[int, int]:
    """Pairs of a query and a key in one head of one sequence: what the code multiplies, what is needed.

    While ``decoding``, where the query stands is not asked: it reads as much as it ever does.
    """
    if not n_queries:
        return 0, 0
    n, size, span = aligned_layout(n_queries, window)
    if decoding:
        return n * size * span, n_queries * min(2 * window - 1, n_source)
    needed = sum(max(0, min(i + window, n_source) - max(i - window + 1, 0)) for i in range(n_queries))
    return (n_queries * n_source if window >= max(n_queries, n_source) else n * size * span), needed


def dense_aligned_attention(
    q: Tensor, k: Tensor, v: Tensor, *, window: int, mask: Tensor | None = None
) -> Tensor:
    """The definition, by all pairs."""
    i, j = (torch.arange(t.shape[2], device=q.device) for t in (q, k))
    sees = ((i[:, None] - j).abs() < window)[None, None]  # (1, 1, M, N)
    if mask is not None:
        sees = sees & mask[:, None, None]
    weights = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).exp() * sees
    return weights / weights.sum(-1, keepdim=True).clamp(min=1e-300) @ v
