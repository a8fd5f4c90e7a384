"""The configuration of routing attention: its fields, what fits where, and its closed form.

The letters are those of ``zoo/token_mixers/routing.py``.
"""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from archspec import Capabilities, Cost, CostContext, MixerConfig, Site
from archspec.components import spec_problem
from zoo.ops.routing_pairs import Pairs, cluster_pairs, last_pairs, local_pairs, top_w_pairs
from zoo.ops.softmax_attention import block_size
from zoo.ops.strided import strided_pairs


class RoutingConfig(MixerConfig):
    paper: ClassVar[str] = "Roy et al. 2021, arXiv:2003.05997"
    selection: Literal["causal", "top_w"] = Field(
        "causal",
        description="causal: a token picks its cluster; top_w: a centroid picks its tokens (not causal)",
    )
    n_heads: PositiveInt = Field(4, description="heads: routed, strided and local")
    n_routed_heads: NonNegativeInt | None = Field(
        None, description="heads that attend inside clusters; default half of n_heads"
    )
    n_strided_heads: NonNegativeInt = Field(
        0, description="heads that read every `stride`-th token; those that remain attend locally"
    )
    d_head: PositiveInt | None = Field(None, description="width of a head; default d_model / n_heads")
    window: PositiveInt = Field(
        64,
        description="local heads read the last `window` tokens, own included; both ways |i - j| < window",
    )
    stride: PositiveInt = Field(64, description="distance between the tokens that a strided head reads")
    n_clusters: PositiveInt = Field(8, description="centroids of each routed head")
    cluster_window: PositiveInt = Field(
        64,
        description="members of its cluster that a token reads (causal); tokens of a centroid (top_w)",
    )
    share_qk: bool = Field(
        False,
        description="routed heads use queries as keys; if causal, a token sees itself only when alone",
    )
    head_mix: bool = Field(
        False, description="one linear map d_head -> d_head after every head, shared by all"
    )
    relative_positions: PositiveInt | None = Field(
        None, description="greatest lag with a learnt vector of its own on keys and values (Shaw et al.)"
    )
    decay: float = Field(0.99, ge=0, lt=1, description="of the centroids' moving average, per optimizer step")
    commitment: float = Field(
        1e-4, ge=0, description="weight of the loss between vectors and their centroids"
    )
    freeze_router: bool = Field(
        False, description="centroids stay as they are in training too: clusters move with the queries alone"
    )
    allow_leaky: bool = Field(
        False,
        description="top_w with share_qk may stand in a causal model, where it leaks: the causality gate "
        "refuses it all the same",
    )
    compat: Literal["none", "official"] = Field(
        "none",
        description="official: routed queries and keys normalised and not scaled, 1 % damping of top_w "
        "outputs, key weights of routed heads kept under share_qk",
    )

    @model_validator(mode="after")
    def _heads_sum(self) -> RoutingConfig:
        routed, strided, n_heads = self.routed_heads, self.n_strided_heads, self.n_heads
        if routed > n_heads:
            raise spec_problem(f"n_routed_heads {routed} exceeds n_heads {n_heads}")
        if routed + strided > n_heads:
            raise spec_problem(
                f"n_routed_heads {routed} + n_strided_heads {strided} exceeds n_heads {n_heads}"
            )
        return self

    @model_validator(mode="after")
    def _leak_is_the_published_one(self) -> RoutingConfig:
        if self.allow_leaky and self.selection != "top_w":
            raise spec_problem(
                f"'allow_leaky' is true, but 'selection' is '{self.selection}': only 'top_w' leaks"
            )
        if self.allow_leaky and not self.share_qk:
            raise spec_problem(
                "'allow_leaky' needs 'share_qk: true': members of two lists have ranks that no causal mask "
                "can compare"
            )
        return self

    @property
    def routed_heads(self) -> int:
        return (self.n_heads + 1) // 2 if self.n_routed_heads is None else self.n_routed_heads

    @property
    def local_heads(self) -> int:
        return self.n_heads - self.routed_heads - self.n_strided_heads

    @property
    def key_heads(self) -> int:
        """Heads with key weights: those of shared routed heads would never be read."""
        is_read = not self.share_qk or self.compat == "official"
        return self.n_heads if is_read else self.n_heads - self.routed_heads

    @property
    def picks_from_future(self) -> bool:
        """Whether later tokens have a say in what earlier ones read."""
        return self.selection == "top_w" and self.routed_heads > 0

    def canonical_at(self, d_model: int) -> Self:
        d_head = None if self.d_head == d_model // self.n_heads else self.d_head
        routed = None if self.routed_heads == (self.n_heads + 1) // 2 else self.n_routed_heads
        return self.model_copy(update={"d_head": d_head, "n_routed_heads": routed})

    def head_width(self, d_model: int) -> int:
        return self.d_head or d_model // self.n_heads

    def misfit(self, site: Site) -> str | None:
        if self.d_head is None and site.d_model % self.n_heads:
            return f"d_model {site.d_model} is not a multiple of n_heads {self.n_heads} (or set d_head)"
        if self.routed_heads and self.cluster_window > site.seq_len:
            return f"cluster_window {self.cluster_window} exceeds the stream's length {site.seq_len}"
        return None

    def smells(self, site: Site) -> list[str]:
        found = []
        if self.local_heads and self.window >= site.seq_len:
            found.append(f"window {self.window} >= seq_len {site.seq_len}: full attention in disguise")
        if self.n_strided_heads and self.stride >= site.seq_len:
            found.append(
                f"stride {self.stride} >= seq_len {site.seq_len}: strided heads read their own token"
            )
        if site.causal and self.picks_from_future:
            found.append(
                "'top_w' leaks in a causal model: which earlier tokens are read depends on later ones; the "
                "causality gate refuses it ('selection: causal' does not leak)"
            )
        reached = self.n_clusters * self.cluster_window
        if self.routed_heads and not site.seq_len <= 4 * reached <= 16 * site.seq_len:
            found.append(
                f"n_clusters {self.n_clusters} x cluster_window {self.cluster_window} = {reached} is far "
                f"from seq_len {site.seq_len}: clusters are cut short, or windows stay empty"
            )
        return found

    def capabilities(self) -> Capabilities:
        leaks, strided = self.picks_from_future, self.n_strided_heads > 0
        return Capabilities(
            causal="never" if leaks and not self.allow_leaky else "switch",
            decode="none" if leaks else "growing" if strided else "constant",
            needs_position=self.relative_positions is None,
            updates_buffers=self.routed_heads > 0 and not self.freeze_router,
            aux_loss=self.routed_heads > 0,
            complexity="L^2" if strided else "L^1.5" if self.routed_heads else "L",
            period=None if strided else block_size(self.window),
        )

    def cost(self, ctx: CostContext) -> Cost:
        B, H, R, K = ctx.batch_size, self.n_heads, self.routed_heads, self.head_width(ctx.d_model)
        L = ctx.seq_len
        weights = ctx.d_model * (3 * H + self.key_heads) * K
        tables = 0 if self.relative_positions is None else 2 * (2 * self.relative_positions + 1) * K
        n_tables = (R > 0) + (self.local_heads > 0)
        params = weights + self.head_mix * K * K + n_tables * tables
        maps = L * (weights + self.head_mix * H * K * K)
        sides = 2 if self.selection == "top_w" and not self.share_qk else 1  # queries alone, or keys as well
        scores = sides * R * L * self.n_clusters * K
        routed, routed_needed = self._routed_pairs(ctx) if R else (0, 0)
        local, local_needed = self._local_pairs(ctx) if self.local_heads else (0, 0)
        strided, strided_needed = self._strided_pairs(ctx) if self.n_strided_heads else (0, 0)
        done, needed = routed + local + strided, routed_needed + local_needed + strided_needed
        logits = B * (routed + local)  # that are kept; the kernel under strided heads keeps none
        elements = ctx.tokens * H * K
        kv_bytes, state_bytes = self._cache_bytes(ctx)
        cache_read = B * (ctx.context_len * kv_bytes + state_bytes) if ctx.phase == "decode" else 0
        copies = 2 * ctx.item_bytes * B * K * (routed + local) // (32 + self.cluster_window)
        return Cost(
            params=params,
            params_active=params,
            buffer_bytes=4 * R * self.n_clusters * K,
            flops=2 * B * (maps + scores + 2 * K * done),
            flops_needed=2 * B * (maps + scores + 2 * K * needed),
            flops_elementwise=7 * B * done + 8 * elements + 2 * B * R * L * self.n_clusters,
            bytes_moved=ctx.item_bytes * (params + 2 * ctx.tokens * ctx.d_model + 10 * elements)
            + 2 * copies
            + 4 * 4 * logits
            + cache_read,
            activation_bytes=ctx.item_bytes * (ctx.tokens * ctx.d_model + 5 * elements) + copies + 4 * logits,
            workspace_bytes=ctx.item_bytes * 4 * elements + copies + 2 * 4 * logits,
            kv_bytes_per_token=kv_bytes,
            state_bytes=state_bytes,
        )

    def backward_flops(self, ctx: CostContext, forward: Cost) -> tuple[int, int]:
        """No gradient passes through the router's scores."""
        sides = 2 if self.selection == "top_w" and not self.share_qk else 1
        d_routed = self.routed_heads * self.head_width(ctx.d_model)
        spared = 2 * 2 * ctx.tokens * sides * d_routed * self.n_clusters
        done, needed = super().backward_flops(ctx, forward)
        return done - spared, needed - spared

    def _cache_bytes(self, ctx: CostContext) -> tuple[int, int]:
        """Of one sequence that is decoded: per token (strided heads read all of them), and the rest."""
        if not ctx.causal or self.picks_from_future:
            return 0, 0
        R, N, C, K = self.routed_heads, self.local_heads, self.n_clusters, self.head_width(ctx.d_model)
        lists = 2 * K * (R * C * self.cluster_window + N * self.window)
        counters = R * C + (N > 0)
        return 2 * K * self.n_strided_heads * ctx.item_bytes, lists * ctx.item_bytes + 8 * counters

    def _routed_pairs(self, ctx: CostContext) -> Pairs:
        R, C, w, lags = self.routed_heads, self.n_clusters, self.cluster_window, self.relative_positions
        if ctx.phase == "decode" and ctx.causal:
            return last_pairs(w, n_heads=R, n_earlier=ctx.context_len // C, max_rel=lags)
        if self.selection == "top_w":
            return top_w_pairs(ctx.seq_len, w, n_heads=R, n_clusters=C, max_rel=lags)
        return cluster_pairs(ctx.seq_len, w, n_heads=R, n_clusters=C, causal=ctx.causal, max_rel=lags)

    def _local_pairs(self, ctx: CostContext) -> Pairs:
        N, w, lags = self.local_heads, self.window, self.relative_positions
        if ctx.phase == "decode" and ctx.causal:
            return last_pairs(w, n_heads=N, n_earlier=ctx.context_len, max_rel=lags)
        return local_pairs(ctx.seq_len, w, n_heads=N, causal=ctx.causal, max_rel=lags)

    def _strided_pairs(self, ctx: CostContext) -> Pairs:
        S = self.n_strided_heads
        if ctx.phase == "decode" and ctx.causal:
            pairs = S * (ctx.context_len // self.stride + 1)
            return pairs, pairs
        done, needed = strided_pairs(ctx.seq_len, self.stride, causal=ctx.causal)
        return S * done, S * needed
