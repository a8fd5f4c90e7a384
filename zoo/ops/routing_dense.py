"""The definitions of what ``zoo/ops/routing.py``, ``top_w.py`` and ``strided.py`` compute fast, by all pairs.

Shapes: B batch, H heads, L length, K head width, C clusters.
"""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.ops.shaw import Relative, dense_attend


def window_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    window: int,
    causal: bool,
    mask: Tensor | None = None,
    relative: Relative | None = None,
) -> Tensor:
    """q, k, v (B, H, L, K) -> (B, H, L, K): tokens less than ``window`` away; lag is in positions."""
    i = torch.arange(q.shape[2], device=q.device)
    lag = i[:, None] - i
    sees = _in_band(lag, window, causal=causal)
    if mask is not None:
        sees = sees & (mask[:, None, None, :] | (lag == 0))
    return dense_attend(q * q.shape[-1] ** -0.5, k, v, sees=sees, lag=lag, relative=relative)


def strided_attention(
    q: Tensor, k: Tensor, v: Tensor, *, stride: int, causal: bool, mask: Tensor | None = None
) -> Tensor:
    """q, k, v (B, H, L, K) -> (B, H, L, K): tokens a multiple of ``stride`` away."""
    i = torch.arange(q.shape[2], device=q.device)
    lag = i[:, None] - i
    sees = lag % stride == 0
    if causal:
        sees = sees & (lag >= 0)
    if mask is not None:
        sees = sees & (mask[:, None, None, :] | (lag == 0))
    return dense_attend(q * q.shape[-1] ** -0.5, k, v, sees=sees, lag=lag)


def cluster_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cluster: Tensor,
    *,
    n_clusters: int,
    window: int,
    causal: bool,
    scale: float | None = None,
    self_if_alone: bool = False,
    relative: Relative | None = None,
) -> Tensor:
    """And cluster (B, H, L) -> (B, H, L, K): members less than ``window`` members away; lag is in members."""
    i = torch.arange(q.shape[2], device=q.device)
    itself = i[:, None] == i
    together = cluster[..., :, None] == cluster[..., None, :]  # (B, H, query, key)
    rank = (together & (i < i[:, None])).sum(-1)  # earlier members of a token's cluster
    lag = rank[..., :, None] - rank[..., None, :]
    sees = together & _in_band(lag, window, causal=causal)
    if self_if_alone:
        others = sees & ~itself
        sees = torch.where(others.any(-1, keepdim=True), others, itself)
    q = q * (q.shape[-1] ** -0.5 if scale is None else scale)
    return dense_attend(q, k, v, sees=sees, lag=lag, relative=relative)


def top_w_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_scores: Tensor,
    k_scores: Tensor,
    *,
    window: int,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
    damping: float = 0.0,
    relative: Relative | None = None,
) -> Tensor:
    """And scores (B, H, L, C) -> (B, H, L, K): each centroid's best ``window`` real tokens, one at a time."""
    B, H, L, _ = q.shape
    q = q * (q.shape[-1] ** -0.5 if scale is None else scale)
    rows = []
    for b in range(B):
        tokens = torch.arange(L, device=q.device) if mask is None else mask[b].nonzero().flatten()
        for h in range(H):
            total, count = torch.zeros_like(v[b, h]), v.new_zeros(L, 1)
            for c in range(q_scores.shape[-1]):
                reads, is_read = (
                    tokens[scores[b, h, tokens, c].argsort(descending=True)[:window]].sort().values
                    for scores in (q_scores, k_scores)
                )
                rank = torch.arange(len(reads), device=q.device)
                lag = rank[:, None] - rank
                sees = lag >= 0 if causal else torch.ones_like(lag, dtype=torch.bool)
                y = dense_attend(
                    q[b, h, reads], k[b, h, is_read], v[b, h, is_read], sees=sees, lag=lag, relative=relative
                )
                total = total.index_add(0, reads, y)
                count[reads] += 1
            rows.append(total / (count + damping if damping else count.clamp(min=1)))
    return torch.stack(rows).view(v.shape)


def cluster_statistics(x: Tensor, cluster: Tensor, *, n_clusters: int) -> Tensor:
    """Normalised x (B, H, L, K), cluster (B, H, L) -> (H, C, K + 1): sums of members, their numbers."""
    member = (cluster[..., None] == torch.arange(n_clusters, device=x.device)).to(x.dtype)  # (B, H, L, C)
    sums = torch.einsum("bhlc,bhlk->hck", member, x.detach())
    return torch.cat([sums, member.sum((0, 2))[..., None]], dim=-1)


def commitment(x: Tensor, cluster: Tensor, centroids: Tensor) -> Tensor:
    """The mean, over real tokens, heads and coordinates, of the square distance from the own centroid."""
    distances = [
        (x[:, h][cluster[:, h] == c] - centroids[h, c].to(x.dtype)).square().flatten()
        for h in range(x.shape[1])
        for c in range(centroids.shape[1])
    ]
    together = torch.cat(distances)
    return together.sum() / max(1, together.numel())


def _in_band(lag: Tensor, window: int, *, causal: bool) -> Tensor:
    return (lag < window) & (lag >= 0 if causal else lag > -window)
