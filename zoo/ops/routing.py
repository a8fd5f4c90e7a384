"""Attention inside clusters of tokens, O(L (C + w)) for C clusters (after Roy et al. 2021, arXiv:2003.05997).

Two selections. ``causal_routing``: each token joins the cluster of its nearest centroid, which looks at
that token alone, and attends to the last w members of its cluster; nothing of the future decides what the
past sees. ``top_w_attention``, the published one: each centroid picks its w nearest tokens of the whole
sequence; a token in several clusters gets their mean, one in none gets zero. Since later tokens crowd out
earlier ones, it is for bidirectional models only, even where its attention is masked.

Shapes: B batch, H heads, L length, K head width, C clusters, w window. A mask is (B, L), True at real
tokens; padding joins no cluster, and its outputs are finite but mean nothing. Queries are scaled by K^-1/2
unless told.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.ops.shaw import Relative, attend
from zoo.ops.softmax_attention import HIDDEN, block_layout, sliding_attention


def causal_routing(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    centroids: Tensor,
    *,
    window: int,
    causal: bool = True,
    mask: Tensor | None = None,
) -> Tensor:
    """q, k, v (B, H, L, K), centroids (H, C, K) -> (B, H, L, K), routed by the query."""
    cluster = nearest(router_scores(normalised(q.detach()), centroids), mask)
    return cluster_attention(q, k, v, cluster, n_clusters=centroids.shape[1], window=window, causal=causal)


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
    """q, k, v (B, H, L, K), cluster (B, H, L) -> (B, H, L, K): members less than ``window`` members away.

    Itself included, unless ``self_if_alone`` hides a token from itself where it sees another. The lag of
    ``relative`` counts members too.
    """
    order = by_cluster(cluster, n_clusters=n_clusters)
    return _banded(
        _scaled(q, scale),
        k,
        v,
        order,
        window=window,
        causal=causal,
        self_if_alone=self_if_alone,
        relative=relative,
    )


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
    """q, k, v (B, H, L, K) -> (B, H, L, K): tokens less than ``window`` positions away, itself included."""
    if relative is None:
        return sliding_attention(q, k, v, window=window, causal=causal, mask=mask)
    B, H, L, _ = q.shape
    real = None if mask is None else mask.repeat(1, H)
    order = by_position(B, H, L, q.device)
    return _banded(_scaled(q, None), k, v, order, window=window, causal=causal, real=real, relative=relative)


def normalised(x: Tensor) -> Tensor:
    """Each vector with mean 0 and variance 1, in fp32 at least: what routers compare and average."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def router_scores(x: Tensor, centroids: Tensor) -> Tensor:
    """Normalised x (B, H, L, K), centroids (H, C, K) of any length -> (B, H, L, C), never below fp32."""
    with torch.autocast(x.device.type, enabled=False):
        return x.detach() @ normalised(centroids).to(x.dtype).transpose(-1, -2)


def nearest(scores: Tensor, mask: Tensor | None = None) -> Tensor:
    """(B, H, L, C) -> each token's cluster (B, H, L), the first of equals; C for padding."""
    cluster = scores.argmax(-1)
    return cluster if mask is None else cluster.masked_fill(~mask[:, None], scores.shape[-1])


def cluster_statistics(x: Tensor, cluster: Tensor, *, n_clusters: int) -> Tensor:
    """Normalised x (B, H, L, K), cluster (B, H, L) -> (H, C, K + 1): sums of members, their numbers."""
    H, K = x.shape[1], x.shape[-1]
    members = torch.cat([x.detach(), torch.ones_like(x[..., :1])], dim=-1).reshape(-1, K + 1)
    sums = members.new_zeros(H * (n_clusters + 1), K + 1).index_add(0, _group(cluster, n_clusters), members)
    return sums.view(H, n_clusters + 1, K + 1)[:, :n_clusters]


def commitment(x: Tensor, cluster: Tensor, centroids: Tensor) -> Tensor:
    """Mean square distance of real tokens' normalised x from their centroids, per coordinate: a scalar."""
    _, n_clusters, K = centroids.shape
    table = F.pad(centroids.to(x.dtype), (0, 0, 0, 1)).flatten(0, 1)  # padding has a centroid of zeros
    distance = x - table.index_select(0, _group(cluster, n_clusters)).view(x.shape)
    real = (cluster < n_clusters).to(x.dtype)
    return (distance.square().sum(-1) * real).sum() / (K * real.sum()).clamp(min=1)


def _group(cluster: Tensor, n_clusters: int) -> Tensor:
    """(B, H, L) -> flat numbers of head and cluster, the cluster of padding included."""
    head = torch.arange(cluster.shape[1], device=cluster.device)[:, None] * (n_clusters + 1)
    return (cluster + head).flatten()


class Order(NamedTuple):
    """The M = H L tokens of all heads in a list of groups; every tensor is (B, M)."""

    rows: Tensor  # which token (head * L + position) stands at a place of the list
    places: Tensor  # at which place a token stands
    start: Tensor  # where the group of a place starts
    end: Tensor  # and where the next one does


def by_cluster(cluster: Tensor, *, n_clusters: int) -> Order:
    """Clusters (B, H, L), ``n_clusters`` for none -> tokens by head, cluster and position."""
    B, H, L = cluster.shape
    n_groups = H * (n_clusters + 1)
    group, rows = _group(cluster, n_clusters).view(B, H * L).sort(dim=1, stable=True)
    place = torch.arange(H * L, device=cluster.device).expand(B, -1)
    bounds = torch.arange(n_groups + 1, device=cluster.device).expand(B, -1).contiguous()
    bounds = torch.searchsorted(group, bounds)  # (B, groups + 1)
    places = torch.empty_like(rows).scatter(1, rows, place)
    return Order(rows, places, bounds.gather(1, group), bounds.gather(1, group + 1))


def last_members(x: Tensor, cluster: Tensor, *, n_clusters: int, window: int) -> tuple[Tensor, Tensor]:
    """x (B, H, L, K), cluster (B, H, L) without padding -> last members (B, H, C, w, K), their numbers.

    They stand at the end, after zeros; (B, H, C) counts all members.
    """
    B, H, L, K = x.shape
    order = by_cluster(cluster, n_clusters=n_clusters)
    size = (cluster[..., None] == torch.arange(n_clusters, device=x.device)).sum(2)  # (B, H, C)
    age = torch.arange(window - 1, -1, -1, device=x.device)
    place = size.flatten(1).cumsum(1)[..., None] - 1 - age  # (B, H C, w)
    row = order.rows.gather(1, place.clamp(min=0).flatten(1))
    row = row + torch.arange(B, device=x.device)[:, None] * (H * L)
    kept = x.reshape(B * H * L, K).index_select(0, row.flatten()).view(B, H, n_clusters, window, K)
    return kept.masked_fill((age >= size[..., None])[..., None], 0.0), size


def add_member(members: Tensor, new: Tensor, cluster: Tensor) -> tuple[Tensor, Tensor]:
    """members (B, H, C, w, K), new (B, H, 1, K), cluster (B, H, 1) -> all, that cluster's (B, H, w, K)."""
    index = cluster[..., None, None].expand(-1, -1, -1, *members.shape[3:])
    own = torch.cat([members.gather(2, index)[:, :, 0, 1:], new], dim=2)
    return members.scatter(2, index, own[:, :, None]), own


def read_last(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    n_earlier: Tensor,
    *,
    scale: float | None = None,
    self_if_alone: bool = False,
    relative: Relative | None = None,
) -> Tensor:
    """One query (B, H, 1, K), the last keys and values with its own at the end (B, H, w, K) -> (B, H, 1, K).

    ``n_earlier`` (B, H or 1, 1) tokens came before it in its list; where they are fewer than w - 1, the
    rest is empty.
    """
    w = k.shape[2]
    age = torch.arange(w - 1, -1, -1, device=q.device)
    n_earlier = n_earlier.clamp(max=w - 1)[..., None]
    hidden = age > n_earlier  # (B, H or 1, 1, w)
    if self_if_alone:
        hidden = hidden | ((age == 0) & (n_earlier > 0))
    bias = torch.where(hidden, HIDDEN, 0.0)
    return attend(_scaled(q, scale), k, v, bias=bias, lag=age[None], reach=(0, w - 1), relative=relative)


def by_position(batch_size: int, n_heads: int, length: int, device: torch.device) -> Order:
    """Tokens as they stand, one group per head."""
    place = torch.arange(n_heads * length, device=device)
    start = place - place % length
    rows, start, end = (t.expand(batch_size, -1) for t in (place, start, start + length))
    return Order(rows, rows, start, end)


def _banded(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    order: Order,
    *,
    window: int,
    causal: bool,
    real: Tensor | None = None,
    self_if_alone: bool = False,
    relative: Relative | None = None,
) -> Tensor:
    """Scaled q, and k, v (B, H, L, K) -> (B, H, L, K): attention to less than ``window`` places away in the
    group.

    Backwards if ``causal``, else both ways. ``real`` (B, M), by place, hides keys from all but themselves.
    The list is cut into blocks of queries, each beside the keys that it reaches.
    """
    B, H, L, K = q.shape
    device, M, window = q.device, H * L, min(window, L)
    n, size, span = block_layout(M, window, causal=causal)
    query, key = torch.arange(size, device=device), torch.arange(span, device=device) - (window - 1)
    lag = query[:, None] - key  # (size, span)
    place = torch.arange(n, device=device)[:, None] * size
    queries, keys = ((place + x).clamp(0, M - 1).flatten() for x in (query, key))

    behind = (queries - order.start.index_select(1, queries)).clamp(max=window - 1).view(B, n, size, 1)
    ahead = (order.end.index_select(1, queries) - 1 - queries).clamp(max=window - 1).view(B, n, size, 1)
    hidden = (lag > behind) | (lag < (0 if causal else -ahead))  # (B, n, size, span)
    if real is not None:
        hidden = hidden | (~real.index_select(1, keys).view(B, n, 1, span) & (lag != 0))
    if self_if_alone:
        alone = (behind if causal else behind + ahead) == 0
        hidden = hidden | ((lag == 0) & ~alone)

    def take(t: Tensor, places: Tensor) -> Tensor:
        row = order.rows.index_select(1, places) + torch.arange(B, device=device)[:, None] * M
        return t.reshape(B * M, K).index_select(0, row.flatten()).view(B, n, -1, K)

    y = attend(
        take(q, queries),
        take(k, keys),
        take(v, keys),
        bias=torch.where(hidden, HIDDEN, 0.0),
        lag=lag,
        reach=(0 if causal else window - 1, window - 1),
        relative=relative,
    )
    back = order.places + torch.arange(B, device=device)[:, None] * (n * size)
    return y.reshape(B * n * size, K).index_select(0, back.flatten()).view(B, H, L, K)


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
    """q, k, v (B, H, L, K), scores (B, H, L, C) -> (B, H, L, K): attention among the w tokens of each
    centroid.

    A token's output is the sum over its clusters, divided by their number plus ``damping``. The lag of
    ``relative`` is that of the ranks inside a cluster. ``causal`` hides later members, as published: no
    gradient from the future is left, but it still decides who is a member. Ranks of two different lists
    cannot be compared, so it takes one.
    """
    assert not causal or k_scores is q_scores, "a causal cluster has one list of members for queries and keys"
    B, H, L, K = q.shape
    w = min(window, L)
    head = torch.arange(B * H, device=q.device).view(B, H, 1, 1) * L

    def members(scores: Tensor) -> Tensor:
        """The w best tokens of each centroid by position, then padding, as rows of (B H L): (B, H, C, w)."""
        scores = scores.transpose(-1, -2)  # (B, H, C, L)
        if mask is None:
            return scores.topk(w, dim=-1).indices.sort(dim=-1).values + head
        best = scores.masked_fill(~mask[:, None, None], -math.inf).topk(w, dim=-1).indices
        is_real = mask[:, None, None].expand(scores.shape).gather(-1, best)
        return torch.where(is_real, best, best + L).sort(dim=-1).values % L + head

    def take(t: Tensor, rows: Tensor) -> Tensor:
        return t.reshape(B * H * L, K).index_select(0, rows.flatten()).view(*rows.shape, K)

    q_rows = members(q_scores)
    k_rows = q_rows if k_scores is q_scores else members(k_scores)
    bias = torch.zeros(1, device=q.device)
    if mask is not None:
        real = mask[:, None].expand(B, H, L).reshape(-1)[k_rows]  # (B, H, C, w)
        bias = torch.where(real, 0.0, HIDDEN)[..., None, :]
    rank = torch.arange(w, device=q.device)
    lag = rank[:, None] - rank
    if causal:
        bias = bias + torch.where(lag < 0, HIDDEN, 0.0)
    y = attend(
        take(_scaled(q, scale), q_rows),
        take(k, k_rows),
        take(v, k_rows),
        bias=bias,
        lag=lag,
        reach=(0 if causal else w - 1, w - 1),
        relative=relative,
    )
    rows = q_rows.flatten()
    total = y.new_zeros(B * H * L, K).index_add(0, rows, y.reshape(-1, K))
    count = y.new_zeros(B * H * L, 1).index_add(0, rows, y.new_ones(rows.shape[0], 1))
    return (total / (count + damping if damping else count.clamp(min=1))).view(B, H, L, K)


def _scaled(q: Tensor, scale: float | None) -> Tensor:
    return q * (q.shape[-1] ** -0.5 if scale is None else scale)
