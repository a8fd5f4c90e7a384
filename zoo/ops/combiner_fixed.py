"""Combiner's fixed pattern: softmax over the own span's tokens and one summary per other span.

The sequence is cut into spans of s tokens. A query reads the tokens of its own span directly (causal: up to
itself) and every earlier span (bidirectional: every other span) through one summary key and value; direct
and summary logits share one softmax (Ren et al. 2021, arXiv:2107.05768). ``own_span_twice`` is what the
authors' code does bidirectionally: it reads the own span's summary beside its tokens.

Shapes: B batch, H heads, L length, K head width, s span, n spans, so L <= n s; time and memory are L (s +
n). Masks are (B, L), True at real tokens. A partial last span is padded inside.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.contract import State
from zoo.ops.combiner_pattern import Cache, Kept, SpanPattern, Tables, Tokens, Work
from zoo.ops.combiner_summary import Summary, bias_of, softmax, span_summaries

_IDENTITY_MAX = Summary("identity-max", 1)


@dataclass(frozen=True)
class Fixed(SpanPattern):
    """Spans of equal length."""

    span: int
    causal: bool
    own_span_twice: bool = False

    def attend(self, tokens: Tokens, summary: Summary, mask: Tensor | None = None) -> Tensor:
        q, k, v, *_ = tokens
        return fixed_attention(
            q, k, v, span=self.span, causal=self.causal, mask=mask, summary=summary,
            own_span_twice=self.own_span_twice,
        )  # fmt: skip

    def tables(self, length: int, device: torch.device) -> Tables:
        own = torch.arange(length, device=device) // self.span
        span = torch.arange(math.ceil(length / self.span), device=device)
        direct = own[:, None] == own
        readers = own[:, None] > span if self.causal else own[:, None] != span
        if self.causal:
            direct = direct.tril()
        elif self.own_span_twice:
            readers = torch.ones_like(readers)
        return Tables(direct, own == span[:, None], readers)

    def init_state(self, like: Tensor, x: Tensor, summary: Summary) -> State:
        """Keys and values of the open span and what its queries pool to; keys and values of closed spans."""
        B, H, _, K = like.shape
        state = {name: like.clone() for name in ("k", "v", "k_span", "v_span")}
        return state | {"q_pool": like.new_full((B, H, 1, K), summary.nothing)}

    def prefill(self, tokens: Tokens, summary: Summary) -> State:
        q, k, v, *_ = tokens
        n, K = q.shape[2] // self.span, q.shape[-1]
        cut = n * self.span
        f_q, f_k = summary.of_queries(q), summary.of_keys(k[:, :, :cut])
        spans = [t[:, :, :cut].unflatten(2, (n, self.span)) for t in (f_q * K**-0.5, f_k, k, v)]
        k_span, v_span = span_summaries((spans[0], spans[1]), spans[2], spans[3], summary)  # (B, H, n, K)
        k, v, q_pool = k[:, :, cut:], v[:, :, cut:], summary.merged_all(f_q[:, :, cut:])
        return {"k": k, "v": v, "k_span": k_span, "v_span": v_span, "q_pool": q_pool}

    def step(self, tokens: Tokens, state: State, summary: Summary) -> tuple[Tensor, State]:
        q, k, v, *_ = tokens  # (B, H, 1, K)
        scale = q.shape[-1] ** -0.5
        k, v = torch.cat([state["k"], k], dim=2), torch.cat([state["v"], v], dim=2)
        q_pool = summary.merged(state["q_pool"], summary.of_queries(q))
        k_span, v_span = state["k_span"], state["v_span"]
        logits = q @ torch.cat([k, k_span], dim=2).transpose(-1, -2) * scale
        y = softmax(logits).to(v.dtype) @ torch.cat([v, v_span], dim=2)
        if k.shape[2] == self.span:  # the span closes: keep its summary, drop its tokens
            q_span = summary.divided(q_pool, self.span) * scale
            new_k, new_v = span_summaries((q_span, summary.of_keys(k)), k, v, summary)
            k_span, v_span = (
                torch.cat([k_span, new_k[:, :, None]], 2),
                torch.cat([v_span, new_v[:, :, None]], 2),
            )
            k, v, q_pool = k[:, :, :0], v[:, :, :0], torch.full_like(q_pool, summary.nothing)
        return y, {"k": k, "v": v, "k_span": k_span, "v_span": v_span, "q_pool": q_pool}

    def work(self, length: int) -> Work:
        s = min(self.span, length)
        n = math.ceil(length / s)
        last = length - (n - 1) * s  # tokens in the last span
        if self.causal:
            direct = (n - 1) * s * (s + 1) // 2 + last * (last + 1) // 2
            read = s * (n - 1) * (n - 2) // 2 + last * (n - 1)
            summarised = (n - 1) * s
        else:
            direct = (n - 1) * s * s + last * last
            read = length * (n if self.own_span_twice else n - 1)
            summarised = length if read else 0
        pairs = n * s * (s + n + 1)
        return Work(
            2 * pairs, 2 * (direct + read + summarised), pairs, Kept(4 * n, of_features=2 * length),
            features=2 * length, features_needed=2 * summarised,
        )  # fmt: skip

    def step_work(self, n_tokens: int) -> Work:
        n, open_tokens = divmod(n_tokens, self.span)
        closes = open_tokens + 1 == self.span
        pairs = n + open_tokens + 1 + (self.span if closes else 0)
        features = 1 + (self.span if closes else 0)
        return Work(2 * pairs, 2 * pairs, pairs, features=features, features_needed=features)

    def cache(self, n_tokens: int) -> Cache:
        n_closed, n_open = divmod(n_tokens, self.span)
        return Cache(1 + 2 * (n_closed + n_open), per_token=(2, self.span))


def fixed_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    span: int,
    causal: bool,
    mask: Tensor | None = None,
    summary: Summary = _IDENTITY_MAX,
    own_span_twice: bool = False,
) -> Tensor:
    """q, k, v (B, H, L, K) -> (B, H, L, K), never forming more than (L, s + n) logits per head."""
    B, H, L, K = q.shape
    s = min(span, L)
    n = math.ceil(L / s)
    q = q * K**-0.5  # once, for direct, summary and local logits alike
    f_q, f_k = summary.of_queries(q), summary.of_keys(k)
    if (pad := n * s - L) > 0:
        same = f_q is q
        q, k, v = (F.pad(t, (0, 0, 0, pad)) for t in (q, k, v))
        f_q, f_k = (q, k) if same else (F.pad(f_q, (0, 0, 0, pad)), F.pad(f_k, (0, 0, 0, pad)))
        if not causal and mask is None:  # causally no real token reads the last span's summary
            mask = (torch.arange(n * s, device=q.device) < L)[None]
        elif mask is not None:
            mask = F.pad(mask, (0, pad))
    f_q, f_k, q, k, v = (t.reshape(B, H, n, s, K) for t in (f_q, f_k, q, k, v))
    real = None if mask is None else mask.view(-1, n, s)  # (B or 1, n, s)

    seen = None if real is None else real[:, None]
    k_span, v_span = span_summaries((f_q, f_k), k, v, summary, seen)  # (B, H, n, K)
    # The logits are the largest tensor by far; nothing here holds on to them, so each copy is freed at once.
    sees = _sees(n, s, causal, real, own_span_twice, q.device)
    weights = softmax(_logits(q, k, k_span, sees)).to(v.dtype)  # (B, H, n s, s + n)
    p_direct, p_summary = weights.split_with_sizes([s, n], dim=-1)
    y = (p_direct.view(B, H, n, s, s) @ v).view(B, H, n * s, K) + p_summary @ v_span
    return y[:, :, :L]


def _logits(q: Tensor, k: Tensor, k_span: Tensor, sees: Tensor) -> Tensor:
    """Scaled q and k (B, H, n, s, K), k_span (B, H, n, K) -> (B, H, n s, s + n), -inf for unseen keys."""
    B, H, n, s, K = q.shape
    direct = (q @ k.transpose(-1, -2)).view(B, H, n * s, s)
    summary = q.view(B, H, n * s, K) @ k_span.transpose(-1, -2)
    logits = torch.cat([direct, summary], dim=-1)
    return logits.add_(bias_of(sees, like=logits))


def _sees(
    n: int, s: int, causal: bool, real: Tensor | None, own_span_twice: bool, device: torch.device
) -> Tensor:
    """(B or 1, 1, n s, s + n): a query sees a token of its span, or a span."""
    token, span = (torch.arange(size, device=device) for size in (s, n))
    tokens = (token[:, None] >= token) if causal else torch.ones(s, s, dtype=torch.bool, device=device)
    spans = span[:, None] > span if causal else span[:, None] != span
    if own_span_twice and not causal:
        spans = torch.ones_like(spans)
    tokens, spans = tokens[None, None], spans[None, :, None]  # (B, n, s, s), (B, n, s, n)
    if real is not None:
        tokens = tokens & (real[:, :, None] | (token[:, None] == token))
        spans = spans & real.any(-1)[:, None, None]
    B = 1 if real is None else real.shape[0]
    sees = torch.cat([tokens.expand(B, n, s, s), spans.expand(B, n, s, n)], dim=-1)
    return sees.view(B, 1, n * s, s + n)
