"""Attention from one stream into another through clusters: a query reads the tokens of its centroid.

Ours, after Routing Transformer's routed attention between encoder and decoder (Roy et al. 2021,
arXiv:2003.05997), where the centroids, shared by both sides, pick their nearest queries as well. Here a query
joins the cluster of its nearest centroid, which looks at that query alone: none goes without an answer, no
query decides what another one reads, and it does not matter which queries are padding.

Queries of a cluster are put together in blocks of M / C places; a block reads its centroid's w tokens. That
is at most twice the M w pairs of the pattern.

Shapes: B batch, H heads, M queries, N source tokens, K head width, C clusters, w window. A mask is (B, N),
True at real tokens of the source.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.ops.shaw import dense_attend


def routed_cross_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cluster: Tensor,
    scores: Tensor,
    *,
    window: int,
    mask: Tensor | None = None,
) -> Tensor:
    """q (B, H, M, K), k, v (B, H, N, K), cluster (B, H, M), scores of k (B, H, N, C) -> (B, H, M, K).

    Zero where the source has no real token.
    """
    B, H, M, K = q.shape
    N, C = scores.shape[2:]
    n, size = query_blocks(M, C)
    place, owner = _in_blocks(cluster, C)  # (B, H, M), (B, H, n)
    place = place[..., None].expand(-1, -1, -1, K)
    queries = q.new_zeros(B, H, n * size, K).scatter(2, place, q).view(B * H, n, size, K)

    scores = scores.transpose(-1, -2)  # (B, H, C, N)
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None, None], -math.inf)

    def of_owners(t: Tensor) -> Tensor:
        """(B, H, C, .) -> (B, H, n, .)."""
        return t.gather(2, owner[..., None].expand(-1, -1, -1, t.shape[-1]))

    if n < C:  # few queries, as where tokens are decoded: most centroids need not pick, most keys not move
        picked = of_owners(scores).topk(min(window, N), dim=-1, sorted=False).indices
        index = picked.flatten(2)[..., None].expand(-1, -1, -1, K)
        keys, values = (t.gather(2, index).view(B * H, n, -1, K) for t in (k, v))
    else:
        picked = of_owners(scores.topk(min(window, N), dim=-1, sorted=False).indices)  # (B, H, n, w)
        head = torch.arange(B * H, device=q.device).view(B, H, 1, 1) * N
        rows = (picked + head).flatten()
        keys, values = (t.reshape(B * H * N, K).index_select(0, rows).view(B * H, n, -1, K) for t in (k, v))
    if mask is None:
        y = F.scaled_dot_product_attention(queries, keys, values)
    else:
        # Where the source is all padding, a query reads padding, finite, and is zeroed afterwards.
        nothing = ~mask.any(-1)[:, None, None, None]  # (B, 1, 1, 1)
        real = mask[:, None].expand(B, H, N).gather(2, picked.flatten(2)).view(B, H, n, -1)
        allowed = (real | nothing).flatten(0, 1)[:, :, None]  # (B H, n, 1, w)
        y = F.scaled_dot_product_attention(queries, keys, values, attn_mask=allowed)
    y = y.view(B, H, n * size, K).gather(2, place)
    return y if mask is None else y.masked_fill(nothing, 0.0)


def query_blocks(n_queries: int, n_clusters: int) -> tuple[int, int]:
    """Blocks, enough however the queries fall, and places in one: an average cluster fills a block."""
    size = max(1, -(-n_queries // n_clusters))
    return (n_queries + min(n_queries, n_clusters) * (size - 1)) // size, size


def _in_blocks(cluster: Tensor, n_clusters: int) -> tuple[Tensor, Tensor]:
    """Clusters (B, H, M) -> each query's place in the blocks (B, H, M), each block's cluster (B, H, n)."""
    n, size = query_blocks(cluster.shape[2], n_clusters)
    member = (cluster[..., None] == torch.arange(n_clusters, device=cluster.device)).long()  # (B, H, M, C)
    rank = member.cumsum(2).gather(-1, cluster[..., None])[..., 0] - 1  # among the queries of its cluster
    end = (-(-member.sum(2) // size)).cumsum(-1)  # (B, H, C), where the next cluster's blocks begin
    start = F.pad(end, (1, 0))[..., :-1]
    block = torch.arange(n, device=cluster.device)
    owner = (block[:, None] >= end[..., None, :]).sum(-1).clamp(max=n_clusters - 1)
    return start.gather(-1, cluster) * size + rank, owner


def dense_routed_cross_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cluster: Tensor,
    scores: Tensor,
    *,
    window: int,
    mask: Tensor | None = None,
) -> Tensor:
    """The definition: one query of one head at a time, its centroid's best ``window`` real tokens."""
    y = torch.zeros_like(q)
    for b in range(q.shape[0]):
        real = torch.arange(k.shape[2], device=q.device) if mask is None else mask[b].nonzero().flatten()
        for h in range(q.shape[1]):
            for i in range(q.shape[2]) if len(real) else ():
                own = scores[b, h, real, cluster[b, h, i]]
                read = real[own.argsort(descending=True)[:window]]
                sees = torch.ones(1, len(read), dtype=torch.bool, device=q.device)
                query = q[b, h, i : i + 1] * q.shape[-1] ** -0.5
                one = dense_attend(query, k[b, h, read], v[b, h, read], sees=sees, lag=sees)
                y = y.index_put(tuple(torch.tensor([j], device=q.device) for j in (b, h, i)), one)
    return y
