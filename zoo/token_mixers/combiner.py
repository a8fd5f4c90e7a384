"""Combiner: full attention at sparse cost (Ren et al. 2021, arXiv:2107.05768).

A query reads some tokens directly, and the rest of its support span by span: one entry of the same softmax
for a whole span, whose key pools the span's keys and whose value is what a query of the span's own reads
from it. So every token has the whole sequence in reach. What is direct and what is a span is the variant:

    fixed      spans of s tokens; direct: the own one
    logsparse  at each level l, the sibling of the own block of 2^l tokens; direct: itself and its neighbour
    axial      rows of s tokens, each summarised for a column by the row's token there; direct: the own row
    mixture    rows of s tokens; parts of columns above, of rows left and right; direct: own row and column
    clustered  members of a cluster of similar tokens, s to a span; direct: the own span

A span of 1, or one as long as the sequence, is full attention exactly (axial: unless a projection makes the
keys). With n spans of s tokens the cost is L (s + n), which is L^1.5 where the span follows the square root
of the length, and L log L for logsparse. Bidirectional logsparse and mixture are ours: the published ones
are causal, or (mixture, in the authors' code) count a token twice and read empty parts. ``clustered`` (4.4
in the paper, without public code) has Routing Transformer's centroids and learns them as ``routing`` does.

Shapes: B batch, L length, D d_model, H n_heads, K d_head, s span, n spans, C n_clusters.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from archspec import Site
from zoo.contract import Mixer, MixerOutput, State
from zoo.ops import router, routing_dense
from zoo.ops.centroids import WithCentroids
from zoo.ops.combiner_axial import RowSummary
from zoo.ops.combiner_config import CombinerConfig
from zoo.ops.combiner_pattern import Pattern, Tokens
from zoo.ops.combiner_summary import Summary
from zoo.ops.router import nearest, normalised, router_scores


class Combiner(WithCentroids, Mixer):
    class Config(CombinerConfig):
        kind: Literal["combiner"] = "combiner"

    config: Config
    centroids: Tensor
    examples = (
        Config(n_heads=2, span=4),
        Config(n_heads=3, d_head=5, span=7, qkv_bias=True, out_bias=True),
        Config(n_heads=1, d_head=2, span=1),
        Config(n_heads=2, span=5, local_summary="deepset-mean", compat="official"),
        Config(n_heads=2, variant="logsparse"),
        Config(n_heads=3, d_head=5, variant="logsparse", local_summary="deepset-max"),
        Config(n_heads=2, variant="axial", span=5),
        Config(n_heads=3, d_head=5, variant="axial", span=4, row_summary="wsum_proj", out_bias=True),
        Config(n_heads=2, variant="axial", span=6, row_summary="proj", qkv_bias=True, compat="official"),
        Config(n_heads=2, variant="mixture", span=5),
        Config(n_heads=2, variant="mixture", span=4, groups="vertical", local_summary="relu-sum"),
        Config(n_heads=1, variant="mixture", span=6, groups="horizontal", local_summary="deepset-mean"),
        Config(n_heads=2, variant="clustered", n_clusters=3, span=4),
        Config(n_heads=3, d_head=5, variant="clustered", n_clusters=5, span=3, local_summary="deepset-mean"),
        Config(n_heads=1, variant="clustered", n_clusters=2, span=99, qkv_bias=True, freeze_router=True),
    )

    def __init__(self, config: Config, site: Site):
        super().__init__(config, site)
        self.n_heads, self.d_head = config.n_heads, config.head_width(site.d_model)
        d_inner = self.n_heads * self.d_head
        self.qkv = nn.Linear(site.d_model, 3 * d_inner, bias=config.qkv_bias)
        self.out = nn.Linear(d_inner, site.d_model, bias=config.out_bias)
        for bias in (self.qkv.bias, self.out.bias):
            if bias is not None:
                nn.init.zeros_(bias)
        self.pattern: Pattern[Any] = config.pattern(site.causal)
        self.summary: Summary | RowSummary = (
            RowSummary(
                config.row_summary, d_model=site.d_model, n_heads=self.n_heads, d_head=self.d_head,
                key_bias=config.qkv_bias, out_bias=config.out_bias,
            )
            if config.variant == "axial"
            else Summary(config.local_summary, self.d_head)
        )  # fmt: skip
        if config.is_clustered:
            centroids = normalised(torch.randn(self.n_heads, config.n_clusters, self.d_head))
            self.register_buffer("centroids", centroids)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor | MixerOutput:
        tokens = self._project(x, mask)
        y = self._merge(self.pattern.attend(tokens, self.summary, mask))
        return y if tokens.cluster is None else self._beside(y, tokens.q, tokens.cluster, router)

    def reference(self, x: Tensor, mask: Tensor | None = None) -> Tensor | MixerOutput:
        tokens = self._project(x, mask)
        y = self._merge(self.pattern.reference(tokens, self.summary, mask))
        return y if tokens.cluster is None else self._beside(y, tokens.q, tokens.cluster, routing_dense)

    def init_state(self, batch_size: int, *, dtype: torch.dtype, device: torch.device | str) -> State:
        """What the pattern keeps of no tokens; see its ``init_state``."""
        assert self.site.causal, "a bidirectional layer has no decode state"
        like = torch.zeros(batch_size, self.n_heads, 0, self.d_head, dtype=dtype, device=device)
        x = torch.zeros(batch_size, 0, self.site.d_model, dtype=dtype, device=device)
        return self.pattern.init_state(like, x, self.summary)

    def prefill(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        tokens = self._project(x)
        y = self._merge(self.pattern.attend(tokens, self.summary))
        return y, self.pattern.prefill(tokens, self.summary)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        y, state = self.pattern.step(self._project(x[:, None]), state, self.summary)
        return self._merge(y).squeeze(1), state

    def _project(self, x: Tensor, mask: Tensor | None = None) -> Tokens:
        """(B, L, D) -> queries (not yet scaled), keys and values (B, H, L, K), beside x; and clusters."""
        q, k, v = (
            self.qkv(x).unflatten(-1, (3, self.n_heads, self.d_head)).permute(2, 0, 3, 1, 4).contiguous()
        )
        if not self.config.is_clustered:
            return Tokens(q, k, v, x)
        return Tokens(q, k, v, x, nearest(router_scores(normalised(q.detach()), self.centroids), mask))

    def _beside(self, y: Tensor, q: Tensor, cluster: Tensor, ops: Any) -> MixerOutput:
        """What the centroids learn from, and the loss that pulls queries towards them, beside the output."""
        c, nothing = (
            self.config,
            self.centroids.new_zeros(self.n_heads, self.config.n_clusters, self.d_head + 1),
        )
        if not self.training:
            return MixerOutput(y, nothing.new_zeros(()), nothing)
        seen = normalised(q)
        loss = c.commitment * ops.commitment(seen, cluster, self.centroids)
        if c.freeze_router:
            return MixerOutput(y, loss, nothing)
        return MixerOutput(y, loss, ops.cluster_statistics(seen, cluster, n_clusters=c.n_clusters))

    def _merge(self, y: Tensor) -> Tensor:
        return self.out(y.transpose(1, 2).flatten(2))  # (B, L, D)
