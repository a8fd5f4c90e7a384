"""A read or write of FIT through clusters: a query attends to the source tokens that its centroid picks.

    update = Wo attention(Wq LN(queries), Wk LN(source), Wv LN(source)) + bo

As ``read`` and ``write`` (FIT: Chen & Li 2023, arXiv:2305.12689), but a query sees ``cluster_window`` source
tokens of each head instead of all of them: those nearest to the centroid that is nearest to the query (see
``zoo/ops/routed_cross.py``; after Roy et al. 2021, arXiv:2003.05997). Centroids are buffers: a moving average
of the source's keys, updated in ``apply_statistics``; queries have no part in it, since a transfer is not
told which of them are padding. Which source tokens a query reads depends on the source and on that query
alone, so a decoder that remembers the source's keys, values and scores gives what the whole pass gives.

Shapes: B batch, M queries of width Dq, N source tokens of width Ds, H heads of width K = min(Dq, Ds) / H, C
clusters.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor

from archspec import Capabilities, Cost, CostContext, Site
from zoo.contract import MixerOutput, State
from zoo.ops import routing_dense
from zoo.ops.centroids import WithCentroids
from zoo.ops.cross import CrossConfig, CrossTransfer
from zoo.ops.routed_cross import dense_routed_cross_attention, query_blocks, routed_cross_attention
from zoo.ops.router import cluster_statistics, commitment, nearest, normalised, router_scores


class RoutedRead(WithCentroids, CrossTransfer):
    class Config(CrossConfig):
        paper: ClassVar[str] = "Roy et al. 2021, arXiv:2003.05997; Chen & Li 2023, arXiv:2305.12689"
        kind: Literal["routed_read"] = "routed_read"
        n_clusters: PositiveInt = Field(4, description="centroids of each head")
        cluster_window: PositiveInt = Field(32, description="source tokens of each centroid")
        decay: float = Field(
            0.99, ge=0, lt=1, description="of the centroids' moving average, per optimizer step"
        )
        commitment: float = Field(
            1e-4, ge=0, description="weight of the loss between keys and their centroids"
        )
        freeze_router: bool = Field(False, description="centroids stay as they are in training too")

        def capabilities(self) -> Capabilities:
            return Capabilities(
                causal="never",
                cross=True,
                decode="growing",
                updates_buffers=not self.freeze_router,
                aux_loss=True,
                complexity="L^1.5",
            )

        def cost(self, ctx: CostContext) -> Cost:
            Dq, Ds, C = ctx.d_model, ctx.d_source, self.n_clusters
            A = min(Dq, Ds)
            n_queries, n_source = ctx.tokens, ctx.batch_size * (ctx.source_len - ctx.context_len)
            params = (2 * Dq * A + A + Dq) + 2 * (Ds * A + A) + 2 * Dq + 2 * Ds
            n, size = query_blocks(ctx.seq_len, C)
            w = min(self.cluster_window, ctx.source_len)
            pairs, needed = ctx.batch_size * n * size * w, n_queries * w
            maps = n_queries * 2 * Dq * A + n_source * 2 * Ds * A + (n_queries + n_source) * C * A
            inputs = n_queries * Dq + n_source * Ds
            inner = 2 * (n_queries + n_source) * A  # q, k, v and the attention's output
            copies = 2 * ctx.batch_size * n * (size + w) * A  # the same in blocks
            scores = self.n_heads * C * (n_queries + n_source)  # fp32
            return Cost(
                params=params,
                params_active=params,
                buffer_bytes=4 * C * A,
                flops=2 * (maps + 2 * pairs * A),
                flops_needed=2 * (maps + 2 * needed * A),
                flops_elementwise=6 * inputs + 5 * pairs * self.n_heads + 3 * inner + 2 * scores,
                bytes_moved=ctx.item_bytes * (params + 4 * inputs + 3 * inner + 2 * copies) + 12 * scores,
                activation_bytes=(ctx.item_bytes + max(4, ctx.item_bytes)) * inputs
                + ctx.item_bytes * (inner + copies)
                + 4 * n_source * A,
                workspace_bytes=ctx.item_bytes * (inputs + inner + copies) + 8 * scores,
                kv_bytes_per_token=ctx.causal
                * (2 * A * ctx.item_bytes + self.n_heads * C * max(4, ctx.item_bytes)),
            )

        def backward_flops(self, ctx: CostContext, forward: Cost) -> tuple[int, int]:
            """No gradient passes through the router's scores."""
            positions = ctx.batch_size * (ctx.seq_len + ctx.source_len)
            spared = 2 * 2 * positions * self.n_clusters * min(ctx.d_model, ctx.d_source)
            done, needed = super().backward_flops(ctx, forward)
            return done - spared, needed - spared

    config: Config
    centroids: Tensor
    examples: ClassVar = (
        Config(n_heads=2, n_clusters=3, cluster_window=4),
        Config(n_heads=1, n_clusters=2, cluster_window=40, eps=1e-3, freeze_router=True),
        Config(n_heads=4, n_clusters=5, cluster_window=1),
    )

    def __init__(self, config: Config, site: Site, d_source: int):
        super().__init__(config, site, d_source)
        d_head = min(site.d_model, d_source) // config.n_heads
        self.register_buffer("centroids", normalised(torch.randn(config.n_heads, config.n_clusters, d_head)))

    def forward(self, queries: Tensor, source: Tensor, mask: Tensor | None = None) -> MixerOutput:
        source = self.source_norm(source)
        q = self._heads(self.q(self.query_norm(queries)))  # (B, H, M, K)
        k, v = self._heads(self.k(source)), self._heads(self.v(source))  # (B, H, N, K)
        own = nearest(router_scores(normalised(q), self.centroids))  # (B, H, M)
        seen = normalised(k)
        scores = router_scores(seen, self.centroids)  # (B, H, N, C)
        y = routed_cross_attention(q, k, v, own, scores, window=self.config.cluster_window, mask=mask)
        y = self.out(y.transpose(1, 2).flatten(2))
        if not self.training:
            return self._without_products(y)
        cluster, C = nearest(scores, mask), self.config.n_clusters
        loss = self.config.commitment * commitment(seen, cluster, self.centroids)
        return MixerOutput(y, loss, cluster_statistics(seen, cluster, n_clusters=C))

    def remember(self, source: Tensor) -> State:
        """Keys and values (B, N, A), scores of the keys (B, N, H C)."""
        source = self.source_norm(source)
        k, v = self.k(source), self.v(source)
        scores = router_scores(normalised(self._heads(k)), self.centroids)
        return {"k": k, "v": v, "scores": scores.transpose(1, 2).flatten(2)}

    def recall(self, queries: Tensor, state: State, *, first: int = 0) -> Tensor:
        q = self._heads(self.q(self.query_norm(queries)))
        own = nearest(router_scores(normalised(q), self.centroids))
        k, v, scores = (self._heads(state[name]) for name in ("k", "v", "scores"))
        window, mask = self.config.cluster_window, state.get("mask")
        y = routed_cross_attention(q, k, v, own, scores, window=window, mask=mask)
        return self.out(y.transpose(1, 2).flatten(2))

    def reference(self, queries: Tensor, source: Tensor, mask: Tensor | None = None) -> MixerOutput:
        source = self.source_norm.reference(source)
        q = self._heads(self.q(self.query_norm.reference(queries)))
        k, v = self._heads(self.k(source)), self._heads(self.v(source))
        q_scores, k_scores = (
            torch.einsum("bhik,hck->bhic", normalised(t.detach()), normalised(self.centroids)) for t in (q, k)
        )
        own, window = q_scores.argmax(-1), self.config.cluster_window
        y = dense_routed_cross_attention(q, k, v, own, k_scores, window=window, mask=mask)
        y = self.out(y.transpose(1, 2).flatten(2))
        if not self.training:
            return self._without_products(y)
        cluster, C = nearest(k_scores, mask), self.config.n_clusters
        loss = self.config.commitment * routing_dense.commitment(normalised(k), cluster, self.centroids)
        return MixerOutput(y, loss, routing_dense.cluster_statistics(normalised(k), cluster, n_clusters=C))

    def _without_products(self, y: Tensor) -> MixerOutput:
        nothing = F.pad(torch.zeros_like(self.centroids), (0, 1))
        return MixerOutput(y, nothing.new_zeros(()), nothing)
