"""Routing attention from a decoder's layer to the encoder's output: routed heads beside local ones.

    update = Wo [routed heads; local heads]          of Wq queries, Wk source, Wv source

After the encoder-decoder attention of Routing Transformer (Roy et al. 2021, arXiv:2003.05997). A routed
head's query reads the ``cluster_window`` source tokens that its centroid, the nearest one, picks (see
``zoo/ops/routed_cross.py``). There the centroids pick their nearest queries too, so that later tokens decide
which earlier ones get an answer; ours looks at the query alone and stays causal. A local head's query reads
the source around its own place (``zoo/ops/aligned.py``).

Centroids are buffers: a moving average of the source's keys, updated in ``apply_statistics``; queries have
no part in it, since a transfer is not told which of them are padding.

Shapes: B batch, M queries of width Dq, N source tokens of width Ds, H heads (R routed ones first) of width
K, A = H K, C clusters.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator
from torch import Tensor, nn

from archspec import Capabilities, Cost, CostContext, Site
from archspec.components import spec_problem
from zoo.contract import MixerOutput, State, Transfer, TransferConfig
from zoo.ops import routing_dense
from zoo.ops.aligned import aligned_attention, aligned_pairs, dense_aligned_attention
from zoo.ops.centroids import WithCentroids
from zoo.ops.routed_cross import dense_routed_cross_attention, query_blocks, routed_cross_attention
from zoo.ops.router import cluster_statistics, commitment, nearest, normalised, router_scores


class RoutingTransfer(WithCentroids, Transfer):
    class Config(TransferConfig):
        paper: ClassVar[str] = "Roy et al. 2021, arXiv:2003.05997"
        kind: Literal["routing"] = "routing"
        n_heads: PositiveInt = Field(4, description="heads: routed and local")
        n_routed_heads: NonNegativeInt | None = Field(
            None, description="heads that read through clusters; default half of n_heads"
        )
        d_head: PositiveInt | None = Field(None, description="width of a head; default d_model / n_heads")
        window: PositiveInt = Field(
            64, description="local heads read source positions less than this far from the query's own place"
        )
        n_clusters: PositiveInt = Field(8, description="centroids of each routed head")
        cluster_window: PositiveInt = Field(64, description="source tokens of each centroid")
        head_mix: bool = Field(
            False, description="one linear map d_head -> d_head after every head, shared by all"
        )
        decay: float = Field(
            0.99, ge=0, lt=1, description="of the centroids' moving average, per optimizer step"
        )
        commitment: float = Field(
            1e-4, ge=0, description="weight of the loss between keys and their centroids"
        )
        freeze_router: bool = Field(False, description="centroids stay as they are in training too")
        compat: Literal["none", "official"] = Field(
            "none", description="official: routed queries and keys normalised and not scaled"
        )

        @model_validator(mode="after")
        def _heads_sum(self) -> RoutingTransfer.Config:
            if self.routed_heads > self.n_heads:
                raise spec_problem(f"n_routed_heads {self.routed_heads} exceeds n_heads {self.n_heads}")
            return self

        @property
        def routed_heads(self) -> int:
            return (self.n_heads + 1) // 2 if self.n_routed_heads is None else self.n_routed_heads

        def head_width(self, d_model: int) -> int:
            return self.d_head or d_model // self.n_heads

        def misfit(self, site: Site) -> str | None:
            if self.d_head is None and site.d_model % self.n_heads:
                return f"d_model {site.d_model} is not a multiple of n_heads {self.n_heads} (or set d_head)"
            return None

        def capabilities(self) -> Capabilities:
            return Capabilities(
                causal="never",
                cross=True,
                decode="growing",
                updates_buffers=self.routed_heads > 0 and not self.freeze_router,
                aux_loss=self.routed_heads > 0,
                complexity="L^1.5" if self.routed_heads else "L",
            )

        def cost(self, ctx: CostContext) -> Cost:
            Dq, Ds, B, C = ctx.d_model, ctx.d_source, ctx.batch_size, self.n_clusters
            H, R, K = self.n_heads, self.routed_heads, self.head_width(ctx.d_model)
            M, N, A = ctx.seq_len, ctx.source_len, H * K
            n_queries, n_source = B * M, B * (N - ctx.context_len)
            params = 2 * Dq * A + 2 * Ds * A + self.head_mix * K * K
            maps = n_queries * (2 * Dq * A + self.head_mix * H * K * K) + n_source * 2 * Ds * A
            scores = (n_queries + n_source) * R * C  # fp32
            n, size = query_blocks(M, C) if M else (0, 0)
            w = min(self.cluster_window, N)
            local, local_needed = aligned_pairs(M, N, self.window, decoding=ctx.phase == "decode")
            pairs = B * (R * n * size * w + (H - R) * local)
            needed = n_queries * R * w + B * (H - R) * local_needed
            inputs = n_queries * Dq + n_source * Ds
            inner = 2 * (n_queries + n_source) * A  # q, k, v and the attention's output
            copies = 2 * B * R * n * (size + w) * K + 3 * B * (H - R) * local * K // 32  # the same in blocks
            wide = max(4, ctx.item_bytes)
            return Cost(
                params=params,
                params_active=params,
                buffer_bytes=4 * R * C * K,
                flops=2 * (maps + scores * K + 2 * K * pairs),
                flops_needed=2 * (maps + scores * K + 2 * K * needed),
                flops_elementwise=5 * pairs + 3 * inner + 2 * scores,
                bytes_moved=ctx.item_bytes * (params + 2 * inputs + 3 * inner + 2 * copies)
                + 12 * scores
                + (ctx.item_bytes * 2 * A + wide * R * C) * B * ctx.context_len,
                activation_bytes=ctx.item_bytes * (inputs + inner + copies) + 4 * n_source * R * K,
                workspace_bytes=ctx.item_bytes * (inner + copies) + 8 * scores,
                kv_bytes_per_token=2 * A * ctx.item_bytes + wide * R * C if ctx.causal else 0,
            )

        def backward_flops(self, ctx: CostContext, forward: Cost) -> tuple[int, int]:
            """No gradient passes through the router's scores."""
            d_routed = self.routed_heads * self.head_width(ctx.d_model)
            spared = 2 * 2 * ctx.batch_size * (ctx.seq_len + ctx.source_len) * d_routed * self.n_clusters
            done, needed = super().backward_flops(ctx, forward)
            return done - spared, needed - spared

    config: Config
    centroids: Tensor
    examples: ClassVar = (
        Config(n_heads=2, window=5, n_clusters=3, cluster_window=4),
        Config(
            n_heads=3, n_routed_heads=2, d_head=5, window=40, n_clusters=2, cluster_window=40, head_mix=True,
            compat="official",
        ),
        Config(n_heads=2, n_routed_heads=0, window=3),
        Config(n_heads=2, n_routed_heads=2, n_clusters=5, cluster_window=1, freeze_router=True),
    )  # fmt: skip

    def __init__(self, config: Config, site: Site, d_source: int):
        super().__init__(config, site, d_source)
        self.config = config
        self.n_routed = config.routed_heads
        K = config.head_width(site.d_model)
        self.q = nn.Linear(site.d_model, config.n_heads * K, bias=False)
        self.k = nn.Linear(d_source, config.n_heads * K, bias=False)
        self.v = nn.Linear(d_source, config.n_heads * K, bias=False)
        self.out = nn.Linear(config.n_heads * K, site.d_model, bias=False)
        if config.head_mix:
            self.head_mix = nn.Linear(K, K, bias=False)
        if self.n_routed:
            self.register_buffer("centroids", normalised(torch.randn(self.n_routed, config.n_clusters, K)))

    def forward(self, queries: Tensor, source: Tensor, mask: Tensor | None = None) -> Tensor | MixerOutput:
        q, k, v = self._heads(self.q(queries)), self._heads(self.k(source)), self._heads(self.v(source))
        if not self.n_routed:
            return self._attend(q, k, v, None, mask)
        seen = normalised(k[:, : self.n_routed])
        scores = router_scores(seen, self.centroids)  # (B, R, N, C)
        y = self._attend(q, self._as_read(k), v, scores, mask)
        if not self.training:
            return self._without_products(y)
        cluster, C = nearest(scores, mask), self.config.n_clusters
        loss = self.config.commitment * commitment(seen, cluster, self.centroids)
        return MixerOutput(y, loss, cluster_statistics(seen, cluster, n_clusters=C))

    def reference(self, queries: Tensor, source: Tensor, mask: Tensor | None = None) -> Tensor | MixerOutput:
        c, R = self.config, self.n_routed
        q, k, v = self._heads(self.q(queries)), self._heads(self.k(source)), self._heads(self.v(source))
        local = dense_aligned_attention(q[:, R:], k[:, R:], v[:, R:], window=c.window, mask=mask)
        if not R:
            return self._merge([local])
        q_scores, k_scores = (
            torch.einsum("bhik,hck->bhic", normalised(t[:, :R].detach()), normalised(self.centroids))
            for t in (q, k)
        )
        seen = normalised(k[:, :R])
        routed = dense_routed_cross_attention(
            self._unscaled(self._as_read(q)[:, :R]), self._as_read(k)[:, :R], v[:, :R], q_scores.argmax(-1),
            k_scores, window=c.cluster_window, mask=mask,
        )  # fmt: skip
        y = self._merge([routed, local])
        if not self.training:
            return self._without_products(y)
        cluster = nearest(k_scores, mask)
        loss = c.commitment * routing_dense.commitment(seen, cluster, self.centroids)
        return MixerOutput(y, loss, routing_dense.cluster_statistics(seen, cluster, n_clusters=c.n_clusters))

    def remember(self, source: Tensor) -> State:
        """Keys as they are read, values (B, N, A), scores of the routed heads' keys (B, N, R C)."""
        k, v = self._heads(self.k(source)), self.v(source)
        state = {"k": self._as_read(k).transpose(1, 2).flatten(2), "v": v}
        if self.n_routed:
            scores = router_scores(normalised(k[:, : self.n_routed]), self.centroids)
            state["scores"] = scores.transpose(1, 2).flatten(2)
        return state

    def recall(self, queries: Tensor, state: State, *, first: int = 0) -> Tensor:
        q, k, v = self._heads(self.q(queries)), self._heads(state["k"]), self._heads(state["v"])
        scores = None
        if self.n_routed:
            scores = state["scores"].view(*k.shape[:1], k.shape[2], self.n_routed, -1).transpose(1, 2)
        return self._attend(q, k, v, scores, state.get("mask"), first=first)

    def _attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        scores: Tensor | None,
        mask: Tensor | None,
        *,
        first: int | None = None,
    ) -> Tensor:
        """q (B, H, M, K), k as it is read, v (B, H, N, K), scores of keys (B, R, N, C) -> (B, M, Dq)."""
        c, R, ys = self.config, self.n_routed, []
        if scores is not None:
            own = nearest(router_scores(normalised(q[:, :R]), self.centroids))  # (B, R, M)
            routed = self._unscaled(self._as_read(q)[:, :R])
            ys.append(
                routed_cross_attention(
                    routed, k[:, :R], v[:, :R], own, scores, window=c.cluster_window, mask=mask
                )
            )
        if c.n_heads > R:
            local = (t[:, R:] for t in (q, k, v))
            ys.append(aligned_attention(*local, window=c.window, first=first, mask=mask))
        return self._merge(ys)

    def _as_read(self, x: Tensor) -> Tensor:
        """Queries or keys (B, H, L, K): those of routed heads normalised, where they officially are."""
        if self.config.compat == "none":
            return x
        R = self.n_routed
        return torch.cat([normalised(x[:, :R]).to(x.dtype), x[:, R:]], dim=1)

    def _unscaled(self, q: Tensor) -> Tensor:
        """Queries of routed heads, against the factor in the attention, which officially is none."""
        return q if self.config.compat == "none" else q.shape[-1] ** 0.5 * q

    def _heads(self, x: Tensor) -> Tensor:
        """(B, L, A) -> (B, H, L, K)."""
        return x.view(*x.shape[:2], self.config.n_heads, -1).transpose(1, 2)

    def _merge(self, ys: list[Tensor]) -> Tensor:
        y = torch.cat(ys, dim=1)  # (B, H, M, K)
        if self.config.head_mix:
            y = self.head_mix(y)
        return self.out(y.transpose(1, 2).flatten(2))

    def _without_products(self, y: Tensor) -> MixerOutput:
        nothing = F.pad(torch.zeros_like(self.centroids), (0, 1))
        return MixerOutput(y, nothing.new_zeros(()), nothing)
