"""Attention among the tokens that each centroid picks, as published (Roy et al. 2021, arXiv:2003.05997).

Each centroid picks its w nearest tokens of the whole sequence; a token in several clusters gets their mean,
one in none gets zero. Since later tokens crowd out earlier ones, it is for bidirectional models only, even
where its attention is masked.

Shapes: B batch, H heads, L length, K head width, C clusters, w window. A mask is (B, L), True at real
tokens; padding joins no cluster, and its outputs are finite but mean nothing.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from zoo.ops.shaw import Relative, attend, scaled
from zoo.ops.softmax_attention import HIDDEN


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
        take(scaled(q, scale), q_rows),
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
