"""Where tokens stand when each head puts them span by span: members of a cluster in order, s to a span.

How many members a cluster has depends on the data, how many spans there are at most does not: C clusters of
L tokens fill C + (L - C) // s spans, if every one has a member. So there are always as many, some of them
empty, and the last span of a cluster may be filled in part, from its first place on.

Shapes: B batch, H heads, L length, C clusters, E spans of s places.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Places(NamedTuple):
    """Spans of a head are numbered cluster by cluster. Padding, whose cluster is C, stands nowhere."""

    tokens: Tensor  # (B, H, E, s): the token of a place; L where there is none
    places: Tensor  # (B, H, L): the place of a token among E s; E s for padding
    sizes: Tensor  # (B, H, C): members of a cluster
    first: Tensor  # (B, H, C): the first span of a cluster


def n_spans(length: int, n_clusters: int, span: int) -> int:
    """E."""
    some = min(length, n_clusters)
    return some + (length - some) // span


def places_of(cluster: Tensor, *, n_clusters: int, span: int) -> Places:
    """(B, H, L) -> the places of each head's tokens."""
    B, H, L = cluster.shape
    E = n_spans(int(L), n_clusters, span)
    own, tokens = cluster.sort(dim=-1, stable=True)
    bounds = torch.arange(n_clusters + 1, device=cluster.device).expand(B, H, -1).contiguous()
    bounds = torch.searchsorted(own, bounds)  # where a cluster starts in the sorted list
    sizes = bounds[..., 1:] - bounds[..., :-1]
    spans = (sizes + (span - 1)).div(span, rounding_mode="floor")
    first = spans.cumsum(-1) - spans
    ahead = F.pad(first * span - bounds[..., :-1], (0, 1), value=E * span)  # of the place in the sorted list
    place = torch.arange(int(L), device=cluster.device) + ahead.gather(-1, own)
    place = place.clamp(max=E * span)
    filled = torch.full((B, H, E * span + 1), int(L), device=cluster.device).scatter(-1, place, tokens)
    places = torch.empty_like(place).scatter(-1, tokens, place)
    return Places(filled[..., :-1].reshape(B, H, E, span).contiguous(), places, sizes, first)


def taken(t: Tensor, index: Tensor) -> Tensor:
    """(B, H, M, ...), (B, H, N) -> the rows of an index (B, H, N, ...)."""
    B, H, M = t.shape[:3]
    head = torch.arange(B * H, device=t.device).view(B, H, 1) * M
    rows = t.reshape(B * H * M, *t.shape[3:]).index_select(0, (index + head).flatten())
    return rows.view(B, H, -1, *t.shape[3:])
