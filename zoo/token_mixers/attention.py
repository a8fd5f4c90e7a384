"""Softmax attention (Vaswani et al. 2017, arXiv:1706.03762), full or windowed, causal or bidirectional.

Options: grouped key/value heads (Ainslie et al. 2023, arXiv:2305.13245), rotary positions, and a short
convolution on q, k and v. Shapes: B batch, L length, D d_model, H n_heads, G n_kv_heads, K d_head,
C = (H + 2G) K.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from archspec import Capabilities, Cost, CostContext, MixerConfig, Site
from archspec.components import spec_problem
from zoo.contract import Mixer, State
from zoo.ops.rope import rotary_angles, rotate
from zoo.ops.short_conv import last_inputs, short_conv, short_conv_step
from zoo.ops.softmax_attention import (
    block_size,
    dense_attention,
    full_attention,
    pairs_computed,
    pairs_needed,
    sliding_attention,
)


class Attention(Mixer):
    class Config(MixerConfig):
        paper: ClassVar[str] = "Vaswani et al. 2017, arXiv:1706.03762"
        kind: Literal["attention"] = "attention"
        n_heads: PositiveInt = Field(4, description="query heads")
        n_kv_heads: PositiveInt | None = Field(
            None,
            description="key and value heads, shared by groups of query heads; default n_heads",
        )
        d_head: PositiveInt | None = Field(None, description="width of a head; default d_model / n_heads")
        window: PositiveInt | None = Field(
            None,
            description="reads the last `window` positions, itself included; bidirectional: |i - j| < window",
        )
        rope: bool = Field(True, description="rotary positions on queries and keys")
        rope_base: float = Field(
            10_000.0, gt=1, description="rotary wavelengths reach from 2 pi to 2 pi rope_base"
        )
        d_conv: int = Field(
            0,
            ge=0,
            le=64,
            description="taps of a depthwise convolution on q, k and v; 0 for none; helps recall",
        )
        qkv_bias: bool = Field(False, description="bias of the query, key and value projections")
        out_bias: bool = Field(False, description="bias of the output projection")

        @model_validator(mode="after")
        def _heads_group(self) -> Attention.Config:
            if self.n_heads % self.kv_heads:
                raise spec_problem(f"n_heads {self.n_heads} is not a multiple of n_kv_heads {self.kv_heads}")
            if self.rope and self.d_head is not None and self.d_head % 2:
                raise spec_problem(f"rope pairs channels, and d_head {self.d_head} is odd")
            return self

        @property
        def kv_heads(self) -> int:
            return self.n_kv_heads or self.n_heads

        def head_width(self, d_model: int) -> int:
            return self.d_head or d_model // self.n_heads

        def canonical_at(self, d_model: int) -> Attention.Config:
            kv_heads = None if self.kv_heads == self.n_heads else self.n_kv_heads
            d_head = None if self.d_head == d_model // self.n_heads else self.d_head
            return self.model_copy(update={"n_kv_heads": kv_heads, "d_head": d_head})

        def misfit(self, site: Site) -> str | None:
            if self.d_head is not None:
                return None
            if site.d_model % self.n_heads:
                return f"d_model {site.d_model} is not a multiple of n_heads {self.n_heads} (or set d_head)"
            if self.rope and (width := site.d_model // self.n_heads) % 2:
                return (
                    f"rope pairs channels, and d_model {site.d_model} / n_heads {self.n_heads} gives "
                    f"heads of odd width {width}"
                )
            return None

        def smells(self, site: Site) -> list[str]:
            if self.window is not None and self.window >= site.seq_len:
                return [f"window {self.window} >= seq_len {site.seq_len}: full attention in disguise"]
            return []

        def capabilities(self) -> Capabilities:
            return Capabilities(
                causal="switch",
                mixes_tokens=self.window != 1 or self.d_conv > 1,
                decode="growing" if self.window is None else "constant",
                exact_softmax=True,
                needs_position=not self.rope and not self.d_conv,
                complexity="L^2" if self.window is None else "L",
                period=1 if self.window is None else block_size(self.window),
            )

        def cost(self, ctx: CostContext) -> Cost:
            K = self.head_width(ctx.d_model)
            d_out, d_kv = self.n_heads * K, self.kv_heads * K
            d_qkv = d_out + 2 * d_kv
            weights = ctx.d_model * (d_qkv + d_out)
            params = weights + d_qkv * self.d_conv + self.qkv_bias * d_qkv + self.out_bias * ctx.d_model
            if ctx.phase == "decode":
                past = ctx.context_len + ctx.seq_len
                computed = ctx.seq_len * (past if self.window is None else self.window)
                needed = min(ctx.seq_len * past, computed)
                kv_read = ctx.batch_size * (computed // ctx.seq_len) * 2 * d_kv
            else:
                computed = pairs_computed(ctx.seq_len, self.window, causal=ctx.causal)
                needed = pairs_needed(ctx.seq_len, self.window, causal=ctx.causal)
                kv_read = 0
            maps = 2 * ctx.tokens * (weights + d_qkv * self.d_conv)
            per_pair = 4 * ctx.batch_size * d_out
            streams = 2 * (
                ctx.d_model + d_qkv * (2 if self.d_conv else 1) + d_out
            )  # each written and read once
            rope = 6 * ctx.tokens * (d_out + d_kv) // 2 if self.rope else 0
            decodes = ctx.causal
            rolling = 0 if self.window is None else 2 * d_kv * self.window * ctx.item_bytes + 8
            return Cost(
                params=params,
                params_active=params,
                flops=maps + per_pair * computed,
                flops_needed=maps + per_pair * needed,
                flops_elementwise=4 * ctx.batch_size * self.n_heads * computed + rope,
                bytes_moved=ctx.item_bytes * (params + ctx.tokens * streams + kv_read),
                activation_bytes=ctx.tokens
                * (
                    (streams // 2 + d_out) * ctx.item_bytes + 4 * self.n_heads
                ),  # log-sum-exp of each row in fp32
                workspace_bytes=ctx.tokens * d_qkv * ctx.item_bytes,
                kv_bytes_per_token=2 * d_kv * ctx.item_bytes if decodes and self.window is None else 0,
                state_bytes=rolling + d_qkv * max(self.d_conv - 1, 0) * ctx.item_bytes if decodes else 0,
            )

        def block_cost(self, ctx: CostContext) -> Cost:
            """Without a window the positions of a block read each other; a window goes by token."""
            return self.cost(ctx) if self.window is None else super().block_cost(ctx)

    examples = (
        Config(n_heads=2),
        Config(n_heads=4, n_kv_heads=2, d_head=6, window=5, d_conv=3, qkv_bias=True, out_bias=True),
        Config(n_heads=3, n_kv_heads=1, d_head=5, rope=False),
        Config(n_heads=1, d_head=2, window=1),
    )

    config: Config

    def __init__(self, config: Config, site: Site):
        super().__init__(config, site)
        self.n_heads, self.kv_heads = config.n_heads, config.kv_heads
        self.block = site.block if config.window is None else 1  # a window is causal by token everywhere
        self.d_head = config.head_width(site.d_model)
        d_out = self.n_heads * self.d_head
        self.d_qkv = d_out + 2 * self.kv_heads * self.d_head
        self.qkv = nn.Linear(site.d_model, self.d_qkv, bias=config.qkv_bias)
        self.out = nn.Linear(d_out, site.d_model, bias=config.out_bias)
        if config.d_conv:
            self.conv_weight = nn.Parameter(torch.empty(self.d_qkv, 1, config.d_conv))
            nn.init.uniform_(self.conv_weight, -(config.d_conv**-0.5), config.d_conv**-0.5)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v = self._heads(self._project(x, mask))
        return self._merge(self._attend(q, k, v, mask))

    def reference(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v = self._heads(self._project(x, mask))
        y = dense_attention(
            q, k, v, window=self.config.window, causal=self.site.causal, mask=mask, block=self.block
        )
        return self._merge(y)

    def init_state(self, batch_size: int, *, dtype: torch.dtype, device: torch.device | str) -> State:
        assert self.site.causal, "a bidirectional layer has no decode state"
        n_kept = 0 if self.config.window is None else self.config.window
        state: State = {}
        for name in ("k", "v"):
            state[name] = torch.zeros(
                batch_size, self.kv_heads, n_kept, self.d_head, dtype=dtype, device=device
            )
        if self.config.window is not None:
            state["position"] = torch.zeros(batch_size, dtype=torch.long, device=device)
        if self.config.d_conv:
            state["conv"] = torch.zeros(
                batch_size, self.d_qkv, self.config.d_conv - 1, dtype=dtype, device=device
            )
        return state

    def prefill(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        length, window = x.shape[1], self.config.window
        projected = self.qkv(x)
        after = dict(state)
        if self.config.d_conv:
            after["conv"] = last_inputs(projected, self.config.d_conv)
            projected = short_conv(projected, self.conv_weight, causal=True)
        q, k, v = self._heads(projected)
        for name, new in (("k", k), ("v", v)):
            kept = torch.cat([state[name], new], dim=2)
            after[name] = kept if window is None else kept[:, :, kept.shape[2] - window :]
        if window is not None:
            after["position"] = state["position"] + length
        return self._merge(self._attend(q, k, v, None)), after

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        after = dict(state)
        projected = self.qkv(x)  # (B, C)
        if self.config.d_conv:
            projected, after["conv"] = short_conv_step(projected, state["conv"], self.conv_weight)
        window, n_past = self.config.window, state["k"].shape[2]
        position = (
            torch.full((1,), n_past, device=x.device) if window is None else state["position"][:, None, None]
        )
        q, k, v = self._heads(projected[:, None], position)  # (B, H, 1, K)
        for name, new in (("k", k), ("v", v)):
            kept = torch.cat([state[name], new], dim=2)
            after[name] = kept if window is None else kept[:, :, 1:]
        filled = None
        if window is not None:
            after["position"] = state["position"] + 1
            age = torch.arange(window - 1, -1, -1, device=x.device)
            filled = (age < after["position"][:, None])[:, None, None, :]  # (B, 1, 1, w)
        y = F.scaled_dot_product_attention(
            q, after["k"], after["v"], attn_mask=filled, enable_gqa=self.n_heads != self.kv_heads
        )
        return self._merge(y).squeeze(1), after

    def step_block(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        if self.config.window is not None or self.block == 1:
            return super().step_block(x, state)
        after = dict(state)
        projected = self.qkv(x)  # (B, n, C)
        if self.config.d_conv:
            taps = []
            for token in projected.unbind(1):
                y, after["conv"] = short_conv_step(token, after["conv"], self.conv_weight)
                taps.append(y)
            projected = torch.stack(taps, dim=1)
        n_past = state["k"].shape[2]
        q, k, v = self._heads(projected, torch.arange(n_past, n_past + x.shape[1], device=x.device))
        for name, new in (("k", k), ("v", v)):
            after[name] = torch.cat([state[name], new], dim=2)
        y = F.scaled_dot_product_attention(
            q, after["k"], after["v"], enable_gqa=self.n_heads != self.kv_heads
        )
        return self._merge(y), after

    def _project(self, x: Tensor, mask: Tensor | None) -> Tensor:
        qkv = self.qkv(x)  # (B, L, C)
        if not self.config.d_conv:
            return qkv
        if mask is not None:
            qkv = qkv.masked_fill(~mask[..., None], 0.0)
        return short_conv(qkv, self.conv_weight, causal=self.site.causal)

    def _heads(self, qkv: Tensor, position: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """(B, L, C) -> q (B, H, L, K), k and v (B, G, L, K), with rotary positions (0, 1, ... by default)."""
        H, G = self.n_heads, self.kv_heads
        heads = qkv.view(*qkv.shape[:2], H + 2 * G, self.d_head).transpose(1, 2)
        q, k, v = torch.split(heads, [H, G, G], dim=1)
        if self.config.rope:
            if position is None:
                position = torch.arange(qkv.shape[1], device=qkv.device)
            angles = rotary_angles(position, self.d_head, self.config.rope_base, q.dtype)
            q, k = rotate(q, angles), rotate(k, angles)
        return q, k, v

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        if self.config.window is None:
            return full_attention(q, k, v, causal=self.site.causal, mask=mask, block=self.block)
        return sliding_attention(q, k, v, window=self.config.window, causal=self.site.causal, mask=mask)

    def _merge(self, y: Tensor) -> Tensor:
        return self.out(y.transpose(1, 2).flatten(2))  # (B, L, D)
