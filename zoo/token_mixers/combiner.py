"""Combiner: full attention at sparse cost (Ren et al. 2021, arXiv:2107.05768).

The sequence is cut into spans. A token attends to its own span token by token, and to every earlier span
(bidirectional: every other span) as a whole: one entry of the same softmax, whose key is the maximum of the
span's keys and whose value is what the maximum of the span's queries reads from the span. So every token
has the whole sequence in reach, and a span of 1, or one as long as the sequence, is full attention exactly.
With n spans of s tokens the cost is L (s + n), which is L^1.5 where the span follows the square root of the
length.

Shapes: B batch, L length, D d_model, H n_heads, K d_head, s span, n spans.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from archspec import Capabilities, Cost, CostContext, MixerConfig, Site
from zoo.contract import Mixer, State
from zoo.ops.combiner import augmented_attention, fixed_attention, span_summaries


class Combiner(Mixer):
    class Config(MixerConfig):
        paper: ClassVar[str] = "Ren et al. 2021, arXiv:2107.05768"
        kind: Literal["combiner"] = "combiner"
        variant: Literal["fixed"] = Field("fixed", description="fixed: spans of equal length")
        n_heads: PositiveInt = Field(4, description="heads")
        d_head: PositiveInt | None = Field(None, description="width of a head; default d_model / n_heads")
        span: PositiveInt = Field(
            64, description="tokens in a span; about the square root of the length is cheapest"
        )
        local_summary: Literal["identity-max"] = Field(
            "identity-max",
            description="what makes a span's query and key of its tokens': their maximum, untransformed",
        )
        qkv_bias: bool = Field(False, description="bias of the query, key and value projections")
        out_bias: bool = Field(False, description="bias of the output projection")

        def head_width(self, d_model: int) -> int:
            return self.d_head or d_model // self.n_heads

        def misfit(self, site: Site) -> str | None:
            if self.d_head is None and site.d_model % self.n_heads:
                return f"d_model {site.d_model} is not a multiple of n_heads {self.n_heads} (or set d_head)"
            return None

        def smells(self, site: Site) -> list[str]:
            if self.span >= site.seq_len:
                return [f"span {self.span} >= seq_len {site.seq_len}: full attention in disguise"]
            if self.span == 1:
                return ["span 1: full attention in disguise, and slower"]
            return []

        def capabilities(self) -> Capabilities:
            return Capabilities(causal="switch", decode="growing", needs_position=True, complexity="L^1.5")

        def cost(self, ctx: CostContext) -> Cost:
            d_inner = self.n_heads * self.head_width(ctx.d_model)
            weights = 4 * ctx.d_model * d_inner
            params = weights + self.qkv_bias * 3 * d_inner + self.out_bias * ctx.d_model
            pairs, needed, n_spans = self._decode_pairs(ctx) if ctx.phase == "decode" else self._pairs(ctx)
            maps = 2 * ctx.tokens * weights
            per_pair = 4 * ctx.batch_size * d_inner  # logit and weighted sum
            logits = ctx.batch_size * self.n_heads * pairs
            elements = ctx.tokens * d_inner
            summaries = 2 * ctx.batch_size * n_spans * d_inner
            kv_bytes, state_bytes = self._cache_bytes(ctx, d_inner) if ctx.causal else (0, 0)
            cache_read = (
                ctx.batch_size * (ctx.context_len * kv_bytes + state_bytes) if ctx.phase == "decode" else 0
            )
            return Cost(
                params=params,
                params_active=params,
                flops=maps + per_pair * pairs,
                flops_needed=maps + per_pair * needed,
                flops_elementwise=6 * logits + 4 * elements,
                bytes_moved=ctx.item_bytes
                * (params + 2 * ctx.tokens * ctx.d_model + 8 * elements + 2 * summaries)
                + 4 * 4 * logits
                + cache_read,
                activation_bytes=ctx.item_bytes * (ctx.tokens * ctx.d_model + 4 * elements + 2 * summaries)
                + 4 * logits,
                workspace_bytes=ctx.item_bytes * 4 * elements + 2 * 4 * logits,
                kv_bytes_per_token=kv_bytes,
                state_bytes=state_bytes,
            )

        def _pairs(self, ctx: CostContext) -> tuple[int, int, int]:
            """(query, key or summary) pairs per head and sequence, computed and needed; spans summarised."""
            L = ctx.seq_len
            s = min(self.span, L)
            n = math.ceil(L / s)
            last = L - (n - 1) * s  # tokens in the last span
            if ctx.causal:
                direct = (n - 1) * s * (s + 1) // 2 + last * (last + 1) // 2
                read = s * (n - 1) * (n - 2) // 2 + last * (n - 1)
                summarised = (n - 1) * s
            else:
                direct = (n - 1) * s * s + last * last
                read = L * (n - 1)
                summarised = L if n > 1 else 0
            return n * s * (s + n + 1), direct + read + summarised, n

        def _decode_pairs(self, ctx: CostContext) -> tuple[int, int, int]:
            n, open_tokens = divmod(ctx.context_len, self.span)
            closes = open_tokens + 1 == self.span
            pairs = n + open_tokens + 1 + (self.span if closes else 0)
            return pairs, pairs, 0

        def _cache_bytes(self, ctx: CostContext, d_inner: int) -> tuple[int, int]:
            """Of one sequence: bytes per token of the summaries; what the state holds beyond that rate."""
            n_tokens = ctx.context_len if ctx.phase == "decode" else ctx.seq_len
            n_closed, n_open = divmod(n_tokens, self.span)
            held = (1 + 2 * (n_closed + n_open)) * d_inner * ctx.item_bytes  # greatest query; keys and values
            per_token = 2 * d_inner * ctx.item_bytes // self.span
            return per_token, held - n_tokens * per_token

    config: Config
    examples = (
        Config(n_heads=2, span=4),
        Config(n_heads=3, d_head=5, span=7, qkv_bias=True, out_bias=True),
        Config(n_heads=1, d_head=2, span=1),
    )

    def __init__(self, config: Config, site: Site):
        super().__init__(config, site)
        self.n_heads, self.d_head, self.span = config.n_heads, config.head_width(site.d_model), config.span
        d_inner = self.n_heads * self.d_head
        self.qkv = nn.Linear(site.d_model, 3 * d_inner, bias=config.qkv_bias)
        self.out = nn.Linear(d_inner, site.d_model, bias=config.out_bias)
        for bias in (self.qkv.bias, self.out.bias):
            if bias is not None:
                nn.init.zeros_(bias)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v = self._project(x)
        return self._merge(fixed_attention(q, k, v, span=self.span, causal=self.site.causal, mask=mask))

    def reference(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v = self._project(x)
        return self._merge(augmented_attention(q, k, v, span=self.span, causal=self.site.causal, mask=mask))

    def init_state(self, batch_size: int, *, dtype: torch.dtype, device: torch.device | str) -> State:
        """Keys and values of the open span and its greatest query, keys and values of the closed spans."""
        assert self.site.causal, "a bidirectional layer has no decode state"
        H, K = self.n_heads, self.d_head
        state = {
            name: torch.zeros(batch_size, H, 0, K, dtype=dtype, device=device)
            for name in ("k", "v", "k_span", "v_span")
        }
        state["q_max"] = torch.full((batch_size, H, 1, K), -math.inf, dtype=dtype, device=device)
        return state

    def prefill(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        q, k, v = self._project(x)
        y = fixed_attention(q, k, v, span=self.span, causal=True)
        n = x.shape[1] // self.span
        spans = (t[:, :, : n * self.span].unflatten(2, (n, self.span)) for t in (q * self.d_head**-0.5, k, v))
        k_span, v_span = span_summaries(*spans)  # (B, H, n, K)
        q, k, v = (t[:, :, n * self.span :] for t in (q, k, v))
        q_max = torch.cat([state["q_max"], q], dim=2).amax(2, keepdim=True)
        return self._merge(y), {"k": k, "v": v, "k_span": k_span, "v_span": v_span, "q_max": q_max}

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        q, k, v = self._project(x[:, None])  # (B, H, 1, K)
        k, v = (torch.cat([state[name], new], dim=2) for name, new in (("k", k), ("v", v)))
        q_max = torch.maximum(state["q_max"], q)
        k_span, v_span = state["k_span"], state["v_span"]
        logits = q @ torch.cat([k, k_span], dim=2).transpose(-1, -2) * self.d_head**-0.5
        weights = torch.softmax(logits, dim=-1, dtype=torch.promote_types(x.dtype, torch.float32)).to(v.dtype)
        y = weights @ torch.cat([v, v_span], dim=2)
        if k.shape[2] == self.span:  # the span closes: keep its summary, drop its tokens
            new_k, new_v = span_summaries(q_max * self.d_head**-0.5, k, v)
            k_span, v_span = (
                torch.cat([k_span, new_k[:, :, None]], 2),
                torch.cat([v_span, new_v[:, :, None]], 2),
            )
            k, v, q_max = k[:, :, :0], v[:, :, :0], torch.full_like(q_max, -math.inf)
        return self._merge(y).squeeze(1), {"k": k, "v": v, "k_span": k_span, "v_span": v_span, "q_max": q_max}

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, L, D) -> queries, keys and values, each (B, H, L, K), not yet scaled."""
        q, k, v = (
            self.qkv(x).unflatten(-1, (3, self.n_heads, self.d_head)).permute(2, 0, 3, 1, 4).contiguous()
        )
        return q, k, v

    def _merge(self, y: Tensor) -> Tensor:
        return self.out(y.transpose(1, 2).flatten(2))  # (B, L, D)
