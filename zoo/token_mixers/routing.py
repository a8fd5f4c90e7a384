"""Routing attention: heads that attend inside clusters of similar tokens, beside heads that attend nearby.

After Routing Transformer (Roy et al. 2021, arXiv:2003.05997). Routed heads compare each token with learnt
centroids (spherical k-means). ``selection: causal`` is ours and strictly causal: a token joins its nearest
centroid's cluster, which looks at that token alone, and attends to the cluster's last ``cluster_window``
members. ``selection: top_w`` is the published one, where each centroid picks its ``cluster_window`` nearest
tokens of the whole sequence. Which past tokens are picked depends on the future, so it is for bidirectional
models. Local heads attend in a sliding window.

Centroids are buffers: a moving average of the vectors that chose them, updated in ``apply_statistics``
after the optimizer step, never in ``forward``. The auxiliary loss pulls vectors towards their centroid
(``commitment``).

Shapes: B batch, L length, D d_model, H heads (routed ones first), R routed heads, K d_head, C clusters, w
cluster_window.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal, NamedTuple

import torch
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator
from torch import Tensor, nn

from archspec import Capabilities, Cost, CostContext, MixerConfig, Site
from archspec.components import spec_problem
from zoo.contract import Mixer, MixerOutput, State
from zoo.ops import routing, routing_dense
from zoo.ops.routing import nearest, normalised, router_scores
from zoo.ops.shaw import Relative, lags_in_reach
from zoo.ops.softmax_attention import block_layout, pairs_computed, pairs_needed


class Routing(Mixer):
    class Config(MixerConfig):
        paper: ClassVar[str] = "Roy et al. 2021, arXiv:2003.05997"
        kind: Literal["routing"] = "routing"
        selection: Literal["causal", "top_w"] = Field(
            "causal",
            description="causal: a token picks its cluster; top_w: a centroid picks its tokens (not causal)",
        )
        n_heads: PositiveInt = Field(4, description="heads, routed and local")
        n_routed_heads: NonNegativeInt | None = Field(
            None, description="heads that attend inside clusters, the others locally; default half of n_heads"
        )
        d_head: PositiveInt | None = Field(None, description="width of a head; default d_model / n_heads")
        window: PositiveInt = Field(
            64,
            description="local heads read the last `window` tokens, own included; both ways |i - j| < window",
        )
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
        decay: float = Field(
            0.99, ge=0, lt=1, description="of the centroids' moving average, per optimizer step"
        )
        commitment: float = Field(
            1e-4, ge=0, description="weight of the loss between vectors and their centroids"
        )
        compat: Literal["none", "official"] = Field(
            "none",
            description="official: routed queries and keys normalised and not scaled, 1 % damping of top_w "
            "outputs, key weights of routed heads kept under share_qk",
        )

        @model_validator(mode="after")
        def _heads_sum(self) -> Routing.Config:
            if self.routed_heads > self.n_heads:
                raise spec_problem(f"n_routed_heads {self.routed_heads} exceeds n_heads {self.n_heads}")
            return self

        @property
        def routed_heads(self) -> int:
            return (self.n_heads + 1) // 2 if self.n_routed_heads is None else self.n_routed_heads

        @property
        def local_heads(self) -> int:
            return self.n_heads - self.routed_heads

        @property
        def key_heads(self) -> int:
            """Heads with key weights: those of shared routed heads would never be read."""
            return self.local_heads if self.share_qk and self.compat == "none" else self.n_heads

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
            reached = self.n_clusters * self.cluster_window
            if self.routed_heads and not site.seq_len <= 4 * reached <= 16 * site.seq_len:
                found.append(
                    f"n_clusters {self.n_clusters} x cluster_window {self.cluster_window} = {reached} is far "
                    f"from seq_len {site.seq_len}: clusters are cut short, or windows stay empty"
                )
            return found

        def capabilities(self) -> Capabilities:
            picks_from_future = self.selection == "top_w" and self.routed_heads > 0
            return Capabilities(
                causal="never" if picks_from_future else "switch",
                decode="none" if picks_from_future else "constant",
                needs_position=self.relative_positions is None,
                updates_buffers=self.routed_heads > 0,
                aux_loss=self.routed_heads > 0,
                complexity="L^1.5" if self.routed_heads else "L",
            )

        def cost(self, ctx: CostContext) -> Cost:
            B, H, R, K = ctx.batch_size, self.n_heads, self.routed_heads, self.head_width(ctx.d_model)
            L = ctx.seq_len
            weights = ctx.d_model * (3 * H + self.key_heads) * K
            tables = 0 if self.relative_positions is None else 2 * (2 * self.relative_positions + 1) * K
            n_tables = (R > 0) + (self.local_heads > 0)
            params = weights + self.head_mix * K * K + n_tables * tables
            maps = L * (weights + self.head_mix * H * K * K)
            sides = (
                2 if self.selection == "top_w" and not self.share_qk else 1
            )  # queries alone, or keys as well
            scores = sides * R * L * self.n_clusters * K
            routed, routed_needed = self._routed_pairs(ctx) if R else (0, 0)
            local, local_needed = self._local_pairs(ctx) if self.local_heads else (0, 0)
            logits = B * (routed + local)
            elements = ctx.tokens * H * K
            decodes = ctx.causal and self.capabilities().decode == "constant"
            cached = 2 * K * (R * self.n_clusters * self.cluster_window + self.local_heads * self.window)
            counters = R * self.n_clusters + (self.local_heads > 0)
            state_bytes = cached * ctx.item_bytes + 8 * counters if decodes else 0
            copies = 2 * ctx.item_bytes * B * K * (routed + local) // (32 + self.cluster_window)
            return Cost(
                params=params,
                params_active=params,
                buffer_bytes=4 * R * self.n_clusters * K,
                flops=2 * B * (maps + scores + 2 * K * (routed + local)),
                flops_needed=2 * B * (maps + scores + 2 * K * (routed_needed + local_needed)),
                flops_elementwise=7 * logits + 8 * elements + 2 * B * R * L * self.n_clusters,
                bytes_moved=ctx.item_bytes * (params + 2 * ctx.tokens * ctx.d_model + 10 * elements)
                + 2 * copies
                + 4 * 4 * logits
                + (B * state_bytes if ctx.phase == "decode" else 0),
                activation_bytes=ctx.item_bytes * (ctx.tokens * ctx.d_model + 5 * elements)
                + copies
                + 4 * logits,
                workspace_bytes=ctx.item_bytes * 4 * elements + copies + 2 * 4 * logits,
                state_bytes=state_bytes,
            )

        def _routed_pairs(self, ctx: CostContext) -> tuple[int, int]:
            """Pairs of a query and a key or a lag's vector, of all routed heads of a sequence: computed,
            needed.

            What is needed depends on the data; here the clusters are equally large.
            """
            R, C, L = self.routed_heads, self.n_clusters, ctx.seq_len
            if ctx.phase == "decode" and ctx.causal:
                w = self.cluster_window
                lags = self._lags(w, causal=True)
                return R * (w + lags), R * (min(w, ctx.context_len // C + 1) + lags)
            w = min(self.cluster_window, L)
            if self.selection == "top_w":
                lags = self._lags(w, causal=False)
                return R * C * w * (w + lags), R * C * w * (w + lags)
            n, size, span = block_layout(R * L, w, causal=ctx.causal)
            lags = self._lags(w, causal=ctx.causal)
            few, rest = divmod(L, C)  # members of most clusters, and how many clusters have one more
            members = [(few, C - rest), (few + 1, rest)]
            needed = sum(many * pairs_needed(m, w, causal=ctx.causal) for m, many in members if m)
            return n * size * (span + lags), R * (needed + L * lags)

        def _local_pairs(self, ctx: CostContext) -> tuple[int, int]:
            """The same of all local heads."""
            N, L = self.local_heads, ctx.seq_len
            if ctx.phase == "decode" and ctx.causal:
                lags = self._lags(self.window, causal=True)
                return N * (self.window + lags), N * (min(self.window, ctx.context_len + 1) + lags)
            needed = N * pairs_needed(L, self.window, causal=ctx.causal)
            if self.relative_positions is None:
                return N * pairs_computed(L, self.window, causal=ctx.causal), needed
            w = min(self.window, L)
            n, size, span = block_layout(N * L, w, causal=ctx.causal)
            lags = self._lags(w, causal=ctx.causal)
            return n * size * (span + lags), needed + N * L * lags

        def _lags(self, window: int, *, causal: bool) -> int:
            if self.relative_positions is None:
                return 0
            return lags_in_reach(self.relative_positions, (0 if causal else window - 1, window - 1))

    config: Config
    centroids: Tensor
    examples = (
        Config(n_heads=4, window=5, n_clusters=3, cluster_window=4),
        Config(
            n_heads=3, n_routed_heads=2, d_head=5, window=6, n_clusters=4, cluster_window=7, share_qk=True,
            head_mix=True, relative_positions=3,
        ),
        Config(selection="top_w", n_heads=2, window=7, n_clusters=3, cluster_window=6, relative_positions=2),
        Config(
            selection="top_w", n_heads=2, n_routed_heads=2, n_clusters=2, cluster_window=9, share_qk=True,
            compat="official",
        ),
        Config(n_heads=2, n_routed_heads=0, window=4, relative_positions=8),
    )  # fmt: skip

    def __init__(self, config: Config, site: Site):
        super().__init__(config, site)
        self.n_heads, self.n_routed, self.d_head = (
            config.n_heads,
            config.routed_heads,
            config.head_width(site.d_model),
        )
        H, K = self.n_heads, self.d_head
        self.scale = 1.0 if config.compat == "official" else K**-0.5  # of routed logits
        self.qkv = nn.Linear(site.d_model, (2 * H + config.key_heads) * K, bias=False)
        self.out = nn.Linear(H * K, site.d_model, bias=False)
        if config.head_mix:
            self.head_mix = nn.Linear(K, K, bias=False)
        for name, n_heads in (("routed_lags", self.n_routed), ("local_lags", config.local_heads)):
            if config.relative_positions is not None and n_heads:
                table = torch.randn(2, 2 * config.relative_positions + 1, K) * K**-0.5
                self.register_parameter(name, nn.Parameter(table))
        if self.n_routed:
            centroids = routing.normalised(torch.randn(self.n_routed, config.n_clusters, K))
            self.register_buffer("centroids", centroids)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor | MixerOutput:
        return self._mix(x, mask, _FAST)

    def reference(self, x: Tensor, mask: Tensor | None = None) -> Tensor | MixerOutput:
        return self._mix(x, mask, _DEFINITION)

    def _mix(self, x: Tensor, mask: Tensor | None, ops: _Ops) -> Tensor | MixerOutput:
        q, k, v = self._project(x)
        R, causal = self.n_routed, self.site.causal
        ys = []
        if self.config.local_heads:
            nearby = {
                "window": self.config.window,
                "causal": causal,
                "relative": self._relative("local_lags"),
            }
            ys = [ops.window(q[:, R:], k[:, R:], v[:, R:], mask=mask, **nearby)]
        if not R:
            return self._merge(ys)

        q, k, v = q[:, :R], k[:, :R], v[:, :R]
        seen = [normalised(q)]  # what the router sees: (B, R, L, K)
        if self.config.selection == "top_w" and not self.config.share_qk:
            seen.append(normalised(k))
        scores = [router_scores(t, self.centroids) for t in seen]
        clusters = [nearest(s, mask) for s in scores]
        pattern = {
            "window": self.config.cluster_window, "causal": causal, "scale": self.scale,
            "relative": self._relative("routed_lags"),
        }  # fmt: skip
        if self.config.selection == "top_w":
            damping = 1e-2 if self.config.compat == "official" else 0.0
            y = ops.top_w(q, k, v, scores[0], scores[-1], mask=mask, damping=damping, **pattern)
        else:
            C, alone = self.config.n_clusters, self.config.share_qk
            y = ops.clusters(q, k, v, clusters[0], n_clusters=C, self_if_alone=alone, **pattern)
        y = self._merge([y, *ys])
        if not self.training:
            nothing = self.centroids.new_zeros(R, self.config.n_clusters, self.d_head + 1)
            return MixerOutput(y, nothing.new_zeros(()), nothing)
        losses = [ops.commitment(t, c, self.centroids) for t, c in zip(seen, clusters)]
        counts = [ops.statistics(t, c, n_clusters=self.config.n_clusters) for t, c in zip(seen, clusters)]
        return MixerOutput(y, self.config.commitment * torch.stack(losses).sum(), torch.stack(counts).sum(0))

    @torch.no_grad()
    def apply_statistics(self, statistics: Tensor) -> None:
        """Sums and numbers of the vectors that chose each centroid -> centroids moved towards their means."""
        total, number = statistics[..., :-1], statistics[..., -1:]
        moved = self.centroids.lerp((total / number.clamp(min=1)).to(self.centroids), 1 - self.config.decay)
        self.centroids.copy_(torch.where(number > 0, moved, self.centroids))

    def init_state(self, batch_size: int, *, dtype: torch.dtype, device: torch.device | str) -> State:
        """The last members of every cluster, the last tokens of local heads (at first zeros), and counts."""
        assert self.site.causal, "a bidirectional layer has no decode state"
        c, B, R, N, K = self.config, batch_size, self.n_routed, self.config.local_heads, self.d_head
        state: State = {}
        for name in ("k", "v"):
            if R:
                state[f"{name}_cluster"] = torch.zeros(
                    B, R, c.n_clusters, c.cluster_window, K, dtype=dtype, device=device
                )
            if N:
                state[f"{name}_local"] = torch.zeros(B, N, c.window, K, dtype=dtype, device=device)
        if R:
            state["n_members"] = torch.zeros(B, R, c.n_clusters, dtype=torch.long, device=device)
        if N:
            state["n_tokens"] = torch.zeros(B, dtype=torch.long, device=device)
        return state

    def prefill(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        y, after = self(x), dict(state)
        q, *kv = self._project(x)
        R, C, L = self.n_routed, self.config.n_clusters, x.shape[1]
        for name, t in zip(("k", "v"), kv):
            if self.config.local_heads:
                kept = torch.cat([state[f"{name}_local"], t[:, R:]], dim=2)
                after[f"{name}_local"] = kept[:, :, L:]
                after["n_tokens"] = state["n_tokens"] + L
            if R:
                cluster = nearest(router_scores(normalised(q[:, :R]), self.centroids))
                after[f"{name}_cluster"], after["n_members"] = routing.last_members(
                    t[:, :R], cluster, n_clusters=C, window=self.config.cluster_window
                )
        return (y if isinstance(y, Tensor) else y.y), after

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        q, k, v = self._project(x[:, None])  # (B, H, 1, K)
        R, after, ys = self.n_routed, dict(state), []
        if R:
            cluster = nearest(router_scores(normalised(q[:, :R]), self.centroids))  # (B, R, 1)
            n_earlier = state["n_members"].gather(2, cluster)
            after["n_members"] = state["n_members"].scatter(2, cluster, n_earlier + 1)
            after["k_cluster"], k_members = routing.add_member(state["k_cluster"], k[:, :R], cluster)
            after["v_cluster"], v_members = routing.add_member(state["v_cluster"], v[:, :R], cluster)
            ys.append(
                routing.read_last(
                    q[:, :R], k_members, v_members, n_earlier, scale=self.scale,
                    self_if_alone=self.config.share_qk, relative=self._relative("routed_lags"),
                )
            )  # fmt: skip
        if self.config.local_heads:
            after["n_tokens"] = state["n_tokens"] + 1
            after["k_local"] = torch.cat([state["k_local"][:, :, 1:], k[:, R:]], dim=2)
            after["v_local"] = torch.cat([state["v_local"][:, :, 1:], v[:, R:]], dim=2)
            nearby = (q[:, R:], after["k_local"], after["v_local"], state["n_tokens"][:, None, None])
            ys.append(routing.read_last(*nearby, relative=self._relative("local_lags")))
        return self._merge(ys).squeeze(1), after

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, L, D) -> queries, keys and values (B, H, L, K), routed heads first; shared keys are queries."""
        H, R, n_keys = self.n_heads, self.n_routed, self.config.key_heads
        heads = self.qkv(x).unflatten(-1, (-1, self.d_head)).transpose(1, 2)  # (B, all, L, K)
        q, k, v = heads.split_with_sizes([H, n_keys, H], dim=1)
        if R and self.config.compat == "official":
            q = torch.cat([normalised(q[:, :R]).to(q.dtype), q[:, R:]], dim=1)
            routed = q[:, :R] if self.config.share_qk else normalised(k[:, :R]).to(k.dtype)
            k = torch.cat([routed, k[:, R:]], dim=1)
        elif R and self.config.share_qk:
            k = torch.cat([q[:, :R], k], dim=1)
        return q, k, v

    def _merge(self, ys: list[Tensor]) -> Tensor:
        y = torch.cat(ys, dim=1)  # (B, H, L, K)
        if self.config.head_mix:
            y = self.head_mix(y)
        return self.out(y.transpose(1, 2).flatten(2))  # (B, L, D)

    def _relative(self, name: Literal["routed_lags", "local_lags"]) -> Relative | None:
        return None if self.config.relative_positions is None else Relative(*self.get_parameter(name))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Routing:
        """Centroids follow to another device, and to float64, never below float32: their steps are small."""
        kept = self.centroids if self.n_routed else None
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if kept is not None and self.centroids.dtype.itemsize < 4:
            self.centroids = kept.to(self.centroids.device)
        return self


class _Ops(NamedTuple):
    """What forward and reference do in two ways."""

    clusters: Callable[..., Tensor]
    top_w: Callable[..., Tensor]
    window: Callable[..., Tensor]
    statistics: Callable[..., Tensor]
    commitment: Callable[..., Tensor]


_FAST = _Ops(
    routing.cluster_attention,
    routing.top_w_attention,
    routing.window_attention,
    routing.cluster_statistics,
    routing.commitment,
)
_DEFINITION = _Ops(
    routing_dense.cluster_attention,
    routing_dense.top_w_attention,
    routing_dense.window_attention,
    routing_dense.cluster_statistics,
    routing_dense.commitment,
)
