"""Combiner's summary of a span, in place of its tokens (Ren et al. 2021, arXiv:2107.05768).

    query = pool_j f_q(q_j)      key = pool_j f_k(k_j)      value = sum_j softmax_j(query . k_j) v_j

f is the identity, ReLU or, for ``deepset``, ReLU of a linear map without bias that all heads share, one for
queries and one for keys. pool is the maximum, mean or sum over the span's real tokens, coordinate by
coordinate. Queries come scaled by K^-1/2: f and pool take a positive factor through unchanged.

Shapes: B batch, H heads, L length, K head width, s tokens of a span.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LocalSummary = Literal[
    "identity-max", "identity-mean", "identity-sum",
    "relu-max", "relu-mean", "relu-sum",
    "deepset-max", "deepset-mean", "deepset-sum",
]  # fmt: skip


class Summary(nn.Module):
    """f and pool; it has parameters for ``deepset`` alone."""

    def __init__(self, kind: LocalSummary, d_head: int):
        super().__init__()
        self.features, _, self.pool = kind.partition("-")
        is_deepset = self.features == "deepset"
        self.q = nn.Linear(d_head, d_head, bias=False) if is_deepset else None
        self.k = nn.Linear(d_head, d_head, bias=False) if is_deepset else None

    def of_queries(self, q: Tensor) -> Tensor:
        """f_q of (..., K)."""
        return self._features(q, self.q)

    def of_keys(self, k: Tensor) -> Tensor:
        """f_k of (..., K)."""
        return self._features(k, self.k)

    def pooled(self, x: Tensor, hidden: Tensor | None = None) -> Tensor:
        """(..., s, K), tokens that do not count (..., s), never all of a span -> (..., K)."""
        if self.pool == "max":
            return (x if hidden is None else x.masked_fill(hidden[..., None], -math.inf)).amax(-2)
        total = (x if hidden is None else x.masked_fill(hidden[..., None], 0.0)).sum(-2)
        if self.pool == "sum":
            return total
        return total / (x.shape[-2] if hidden is None else (~hidden).sum(-1, keepdim=True).to(x.dtype))

    def running(self, x: Tensor, real: Tensor | None = None) -> Tensor:
        """(..., T, K), real tokens (..., T) -> of each token and those before it (..., T, K); 0 of none."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        if self.pool == "max":
            if real is None:
                return x.cummax(-2).values
            greatest = x.masked_fill(~real[..., None], -math.inf).cummax(-2).values
            return greatest.masked_fill(~real.cumsum(-1).bool()[..., None], 0.0)
        total = (wide if real is None else wide.masked_fill(~real[..., None], 0.0)).cumsum(-2)
        if self.pool == "mean":
            n = torch.arange(1, x.shape[-2] + 1, device=x.device) if real is None else real.cumsum(-1)
            total = total / n.clamp(min=1)[..., None].to(total.dtype)
        return total.to(x.dtype)

    def merged(self, a: Tensor, b: Tensor) -> Tensor:
        """What two spans pool to, before ``divided``, -> what they pool to together."""
        return torch.maximum(a, b) if self.pool == "max" else a + b

    def merged_all(self, x: Tensor) -> Tensor:
        """(..., s, K) -> (..., 1, K), also of no token."""
        if self.pool == "max":
            x = x if int(x.shape[-2]) else F.pad(x, (0, 0, 1, 0), value=-math.inf)
            return x.amax(-2, keepdim=True)
        return x.sum(-2, keepdim=True)

    def divided(self, merged: Tensor, n_tokens: Tensor | int) -> Tensor:
        return merged / n_tokens if self.pool == "mean" else merged

    @property
    def nothing(self) -> float:
        """What no token merges to."""
        return -math.inf if self.pool == "max" else 0.0

    def _features(self, x: Tensor, linear: nn.Linear | None) -> Tensor:
        if linear is not None:
            x = linear(x)
        return x if self.features == "identity" else F.relu(x)


def span_summaries(
    features: tuple[Tensor, Tensor], k: Tensor, v: Tensor, summary: Summary, real: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """f_q of scaled queries and f_k of keys, keys and values of spans (..., s, K) -> keys, values (..., K).

    ``real`` (..., s); a span without a real token is summarised as if all were real; nobody reads it.
    """
    hidden = None if real is None else ~(real | ~real.any(-1, keepdim=True))
    q_span, k_span = (summary.pooled(t, hidden) for t in features)
    return k_span, span_values(q_span, k, v, hidden)


def span_values(q_span: Tensor, k: Tensor, v: Tensor, hidden: Tensor | None = None) -> Tensor:
    """A scaled query (..., K) and the span's keys and values (..., s, K) -> what it reads there (..., K)."""
    logits = q_span[..., None, :] @ k.transpose(-1, -2)  # (..., 1, s)
    if hidden is not None:
        logits = logits.masked_fill(hidden[..., None, :], -math.inf)
    return (softmax(logits).to(v.dtype) @ v).squeeze(-2)


def softmax(logits: Tensor) -> Tensor:
    """Over the last dimension, in fp32 at least, whatever the autocast."""
    return torch.softmax(logits, dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32))


def bias_of(sees: Tensor, like: Tensor) -> Tensor:
    """What to add to logits: 0 where a query sees a key, -inf where not."""
    return torch.zeros((), dtype=like.dtype, device=like.device).masked_fill(~sees, -math.inf)
