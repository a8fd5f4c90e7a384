"""Combiner's fixed pattern: softmax over the own span's tokens and one summary per other span.

The sequence is cut into spans of s tokens. A query reads the tokens of its own span directly (causal: up to
itself) and every earlier span (bidirectional: every other span) through one summary key and value; direct
and summary logits share one softmax (Ren et al. 2021, arXiv:2107.05768). A summary key is the
coordinate-wise maximum of the span's keys; a summary value is what the maximum of the span's queries reads
from the span.

Shapes: B batch, H heads, L length, K head width, s span, n spans, so L <= n s; time and memory are L (s +
n). Masks are (B, L), True at real tokens. A padded query still sees itself, so no row is empty and nothing
is NaN; its output means nothing. A partial last span is padded inside.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def fixed_attention(
    q: Tensor, k: Tensor, v: Tensor, *, span: int, causal: bool, mask: Tensor | None = None
) -> Tensor:
    """q, k, v (B, H, L, K) -> (B, H, L, K), never forming more than (L, s + n) logits per head."""
    B, H, L, K = q.shape
    s = min(span, L)
    n = math.ceil(L / s)
    q = q * K**-0.5  # once, for direct, summary and local logits alike
    if (pad := n * s - L) > 0:
        q, k, v = (F.pad(t, (0, 0, 0, pad)) for t in (q, k, v))
        if not causal and mask is None:  # causally no real token reads the last span's summary
            mask = (torch.arange(n * s, device=q.device) < L)[None]
        elif mask is not None:
            mask = F.pad(mask, (0, pad))
    q, k, v = (t.reshape(B, H, n, s, K) for t in (q, k, v))
    real = None if mask is None else mask.view(-1, n, s)  # (B or 1, n, s)

    k_span, v_span = span_summaries(q, k, v, None if real is None else real[:, None])  # (B, H, n, K)
    # The logits are the largest tensor by far; nothing here holds on to them, so each copy is freed at once.
    weights = _softmax(_logits(q, k, k_span, causal, real)).to(v.dtype)  # (B, H, n s, s + n)
    p_direct, p_summary = weights.split_with_sizes([s, n], dim=-1)
    y = (p_direct.view(B, H, n, s, s) @ v).view(B, H, n * s, K) + p_summary @ v_span
    return y[:, :, :L]


def span_summaries(q: Tensor, k: Tensor, v: Tensor, real: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Scaled queries, keys and values of spans (..., s, K), real tokens (..., s) -> keys and values (..., K).

    A span without a real token is summarised as if all were real; nobody reads it.
    """
    if real is None:
        q_span, k_span, hidden = q.amax(-2), k.amax(-2), None
    else:
        hidden = ~(real | ~real.any(-1, keepdim=True))
        q_span, k_span = (t.masked_fill(hidden[..., None], -math.inf).amax(-2) for t in (q, k))
    logits = q_span[..., None, :] @ k.transpose(-1, -2)  # (..., 1, s)
    if hidden is not None:
        logits = logits.masked_fill(hidden[..., None, :], -math.inf)
    return k_span, (_softmax(logits).to(v.dtype) @ v).squeeze(-2)


def augmented_attention(
    q: Tensor, k: Tensor, v: Tensor, *, span: int, causal: bool, mask: Tensor | None = None
) -> Tensor:
    """The definition: softmax attention over K' = [K; k_span], V' = [V; v_span] under a boolean mask."""
    B, _, L, K = q.shape
    real = torch.ones(B, L, dtype=torch.bool, device=q.device) if mask is None else mask
    i = torch.arange(L, device=q.device)
    own = i // span
    k_all, v_all = [k], [v]
    sees = (own[:, None] == own) & real[:, None]  # (B, query, key)
    if causal:
        sees = sees & (i[:, None] >= i)
    visible = [sees | (i[:, None] == i)]
    for u, start in enumerate(range(0, L, span)):
        part = slice(start, start + span)
        any_real = real[:, part].any(1)  # (B,)
        m = real[:, part] | ~any_real[:, None]
        q_span, k_span = (t[:, :, part].masked_fill(~m[:, None, :, None], -math.inf).amax(2) for t in (q, k))
        local = torch.einsum("bhk,bhjk->bhj", q_span, k[:, :, part]) / K**0.5
        weights = local.masked_fill(~m[:, None], -math.inf).softmax(-1)
        k_all.append(k_span[:, :, None])
        v_all.append(torch.einsum("bhj,bhjk->bhk", weights, v[:, :, part])[:, :, None])
        readers = (own > u) if causal else (own != u)
        visible.append((readers & any_real[:, None])[:, :, None])
    logits = q @ torch.cat(k_all, 2).transpose(-1, -2) / K**0.5
    logits = logits.masked_fill(~torch.cat(visible, -1)[:, None], -math.inf)
    return logits.softmax(-1) @ torch.cat(v_all, 2)


def _logits(q: Tensor, k: Tensor, k_span: Tensor, causal: bool, real: Tensor | None) -> Tensor:
    """Scaled q and k (B, H, n, s, K), k_span (B, H, n, K) -> (B, H, n s, s + n), -inf for unseen keys."""
    B, H, n, s, K = q.shape
    direct = (q @ k.transpose(-1, -2)).view(B, H, n * s, s)
    summary = q.view(B, H, n * s, K) @ k_span.transpose(-1, -2)
    logits = torch.cat([direct, summary], dim=-1)
    return logits.add_(_bias(n, s, causal, real, like=logits))


def _bias(n: int, s: int, causal: bool, real: Tensor | None, *, like: Tensor) -> Tensor:
    """What to add to the logits (B, H, n s, s + n): 0 where a query sees a key, -inf where not."""
    token, span = (torch.arange(size, device=like.device) for size in (s, n))
    tokens = (token[:, None] >= token) if causal else torch.ones(s, s, dtype=torch.bool, device=like.device)
    spans = (span[:, None] > span) if causal else (span[:, None] != span)  # the own span is not summarised
    tokens, spans = tokens[None, None], spans[None, :, None]  # (B, n, s, s), (B, n, s, n)
    if real is not None:
        tokens = tokens & (real[:, :, None] | (token[:, None] == token))
        spans = spans & real.any(-1)[:, None, None]
    B = 1 if real is None else real.shape[0]
    sees = torch.cat([tokens.expand(B, n, s, s), spans.expand(B, n, s, n)], dim=-1)
    zero = torch.zeros((), dtype=like.dtype, device=like.device)
    return zero.masked_fill(~sees, -math.inf).view(B, 1, n * s, s + n)


def _softmax(logits: Tensor) -> Tensor:
    """Over the last dimension, in fp32 at least, whatever the autocast."""
    return torch.softmax(logits, dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32))
