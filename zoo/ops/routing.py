"""Attention inside clusters of tokens, O(L (C + w)) for C clusters (after Roy et al. 2021, arXiv:2003.05997).

Each token joins the cluster of its nearest centroid, which looks at that token alone, and attends to the
last w members of its cluster; nothing of the future decides what the past sees. The published selection,
where a centroid picks its tokens, is in ``zoo/ops/top_w.py``, what tells the clusters in
``zoo/ops/router.py``.

Shapes: B batch, H heads, L length, K head width, C clusters, w window. A mask is (B, L), True at real
tokens; padding joins no cluster, and its outputs are finite but mean nothing. Queries are scaled by K^-1/2
unless told.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from zoo.ops.router import group_index, nearest, normalised, router_scores
from zoo.ops.shaw import Relative, attend, scaled
from zoo.ops.softmax_attention import HIDDEN, block_layout, sliding_attention

_LAST_RESORT = -1e20  # a score that survives beside hidden ones alone


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
        scaled(q, scale),
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
    return _banded(scaled(q, None), k, v, order, window=window, causal=causal, real=real, relative=relative)


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
    group, rows = group_index(cluster, n_clusters).view(B, H * L).sort(dim=1, stable=True)
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
    return attend(scaled(q, scale), k, v, bias=bias, lag=age[None], reach=(0, w - 1), relative=relative)


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
    n, size, span = band_layout(M, window, causal=causal)
    query = torch.arange(size, device=device)
    key = torch.arange(span, device=device) - (span - size if causal else window - 1)
    lag = query[:, None] - key  # (size, span)
    place = torch.arange(n, device=device)[:, None] * size
    queries, keys = ((place + x).clamp(0, M - 1).flatten() for x in (query, key))

    behind = (queries - order.start.index_select(1, queries)).clamp(max=window - 1).view(B, n, size, 1)
    bias = _beyond(behind, lag)  # (B, n, size, span)
    if not causal:
        ahead = (order.end.index_select(1, queries) - 1 - queries).clamp(max=window - 1).view(B, n, size, 1)
        bias.add_(_beyond(ahead, -lag))
    if causal or self_if_alone:
        fixed = torch.where(lag < 0, HIDDEN if causal else 0.0, 0.0)
        bias.add_(fixed.masked_fill(lag == 0, _LAST_RESORT) if self_if_alone else fixed)
    if real is not None:
        padding = ~real.index_select(1, keys).view(B, n, 1, span) & (lag != 0)
        bias.masked_fill_(padding, HIDDEN)

    def take(t: Tensor, places: Tensor) -> Tensor:
        row = order.rows.index_select(1, places) + torch.arange(B, device=device)[:, None] * M
        return t.reshape(B * M, K).index_select(0, row.flatten()).view(B, n, -1, K)

    y = attend(
        take(q, queries),
        take(k, keys),
        take(v, keys),
        bias=bias,
        lag=lag,
        reach=(0 if causal else window - 1, window - 1),
        relative=relative,
    )
    back = order.places + torch.arange(B, device=device)[:, None] * (n * size)
    return y.reshape(B * n * size, K).index_select(0, back.flatten()).view(B, H, L, K)


def _beyond(reach: Tensor, lag: Tensor) -> Tensor:
    """Reach of the queries (B, n, size, 1), lags (size, span) -> 0 within reach, below ``HIDDEN`` past it.

    A product of what is missing, for that is several times as fast as a comparison and a choice.
    """
    return (reach.to(torch.float32) - lag.to(torch.float32)).clamp_(max=0.0).mul_(-HIDDEN)


def band_layout(n_places: int, window: int, *, causal: bool) -> tuple[int, int, int]:
    """Blocks, queries in a block and keys beside it, a multiple of 8: products of odd widths take longer."""
    n, size, span = block_layout(n_places, window, causal=causal)
    return n, size, span + -span % 8
