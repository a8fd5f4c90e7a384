"""The configuration of Combiner: its fields, which variant they mean something to, and its closed form.

The letters are those of ``zoo/token_mixers/combiner.py``.
"""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from archspec import Capabilities, Cost, CostContext, MixerConfig, Site
from archspec.components import spec_problem
from zoo.ops.combiner_axial import Axial, RowSummaryKind
from zoo.ops.combiner_clustered import Clustered
from zoo.ops.combiner_fixed import Fixed
from zoo.ops.combiner_logsparse import Logsparse
from zoo.ops.combiner_mixture import Groups, Mixture
from zoo.ops.combiner_pattern import Kept
from zoo.ops.combiner_summary import LocalSummary

Variant = Literal["fixed", "logsparse", "axial", "mixture", "clustered"]
_OPTIONS: dict[Variant, tuple[str, ...]] = {
    "fixed": ("span", "local_summary", "compat"),
    "logsparse": ("local_summary",),
    "axial": ("span", "row_summary", "compat"),
    "mixture": ("span", "local_summary", "groups"),
    "clustered": ("span", "local_summary", "n_clusters", "decay", "commitment", "freeze_router"),
}


class CombinerConfig(MixerConfig):
    paper: ClassVar[str] = "Ren et al. 2021, arXiv:2107.05768"
    variant: Variant = Field(
        "fixed",
        description="fixed: spans of equal length; logsparse: of all powers of two; axial: rows, each "
        "summarised for every column; mixture: rows and columns; clustered: spans of similar tokens",
    )
    n_heads: PositiveInt = Field(4, description="heads")
    d_head: PositiveInt | None = Field(None, description="width of a head; default d_model / n_heads")
    span: PositiveInt = Field(
        64,
        description="tokens in a span (clustered: at most), or in a row; about the square root of the length "
        "is cheapest",
    )
    local_summary: LocalSummary = Field(
        "identity-max",
        description="what makes a span's query and key of its tokens': a map of each and how they pool; "
        "deepset: a linear map of each head's vectors, then ReLU",
    )
    row_summary: RowSummaryKind = Field(
        "wsum",
        description="axial: a row's key for a column, of the token there (none), of all (wsum), or by a "
        "projection of the row's value (proj) or of the wsum (wsum_proj)",
    )
    groups: Groups = Field(
        "both", description="mixture: summaries of columns (vertical), of rows (horizontal), or both"
    )
    n_clusters: PositiveInt = Field(8, description="clustered: centroids of each head")
    decay: float = Field(
        0.99, ge=0, lt=1, description="clustered: of the centroids' moving average, per optimizer step"
    )
    commitment: float = Field(
        1e-4, ge=0, description="clustered: weight of the loss between queries and their centroids"
    )
    freeze_router: bool = Field(False, description="clustered: centroids stay as they are in training too")
    qkv_bias: bool = Field(False, description="bias of the query, key and value projections")
    out_bias: bool = Field(False, description="bias of the output projection")
    compat: Literal["none", "official"] = Field(
        "none",
        description="official: a bidirectional fixed or axial layer reads the summary of the query's own "
        "span as well",
    )

    @model_validator(mode="after")
    def _nothing_is_ignored(self) -> CombinerConfig:
        for name in dict.fromkeys(name for names in _OPTIONS.values() for name in names):
            value, fields = getattr(self, name), type(self).model_fields
            if name not in _OPTIONS[self.variant] and value != fields[name].default:
                users = ", ".join(variant for variant, names in _OPTIONS.items() if name in names)
                raise spec_problem(
                    f"'{name}' ({value}) means nothing to variant '{self.variant}'",
                    f"it belongs to: {users}",
                )
        return self

    @property
    def is_clustered(self) -> bool:
        return self.variant == "clustered"

    def canonical_at(self, d_model: int) -> Self:
        d_head = None if self.d_head == d_model // self.n_heads else self.d_head
        return self.model_copy(update={"d_head": d_head})

    def head_width(self, d_model: int) -> int:
        return self.d_head or d_model // self.n_heads

    def misfit(self, site: Site) -> str | None:
        if self.d_head is None and site.d_model % self.n_heads:
            return f"d_model {site.d_model} is not a multiple of n_heads {self.n_heads} (or set d_head)"
        return None

    def smells(self, site: Site) -> list[str]:
        found = []
        if "span" in _OPTIONS[self.variant]:
            if self.span >= site.seq_len and not self.is_clustered:
                found.append(f"span {self.span} >= seq_len {site.seq_len}: full attention in disguise")
            elif self.span == 1:
                found.append("span 1: full attention in disguise, and slower")
            elif self.is_clustered and self.n_clusters * self.span > site.seq_len:
                found.append(
                    f"n_clusters {self.n_clusters} x span {self.span} = {self.n_clusters * self.span} "
                    f"exceeds seq_len {site.seq_len}: most places of spans are empty, and paid for"
                )
        if self.compat == "official" and site.causal:
            found.append("compat official changes nothing in a causal model")
        return found

    def capabilities(self) -> Capabilities:
        return Capabilities(
            causal="switch",
            decode="growing",
            needs_position=True,
            updates_buffers=self.is_clustered and not self.freeze_router,
            aux_loss=self.is_clustered,
            complexity="L log L" if self.variant == "logsparse" else "L^1.5",
        )

    def pattern(self, causal: bool) -> Fixed | Logsparse | Axial | Mixture | Clustered:
        """What the variant reads, by which ops, and what it counts."""
        twice = self.compat == "official"
        match self.variant:
            case "fixed":
                return Fixed(self.span, causal, own_span_twice=twice)
            case "logsparse":
                return Logsparse(causal)
            case "axial":
                return Axial(self.span, causal, self.row_summary, own_row_twice=twice)
            case "mixture":
                return Mixture(self.span, causal, self.groups)
            case "clustered":
                return Clustered(self.span, self.n_clusters, causal)

    def cost(self, ctx: CostContext) -> Cost:
        d_head, decodes = self.head_width(ctx.d_model), ctx.phase == "decode"
        d_inner = self.n_heads * d_head
        pattern = self.pattern(ctx.causal)
        work = pattern.step_work(ctx.context_len) if decodes else pattern.work(ctx.seq_len)
        weights = 4 * ctx.d_model * d_inner
        map_params, map_macs = self._summary_maps(ctx.d_model)
        params = weights + self.qkv_bias * 3 * d_inner + self.out_bias * ctx.d_model + map_params
        maps = 2 * ctx.tokens * (weights + self.is_clustered * self.n_clusters * d_inner)
        per_product = 2 * ctx.batch_size * d_inner
        per_feature = 2 * ctx.batch_size * map_macs
        logits = ctx.batch_size * self.n_heads * work.logits
        elements = ctx.tokens * d_inner
        kept, places = self._kept_bytes(ctx, work.kept)
        logit_bytes = 4 + ctx.item_bytes % 4  # exponentials in fp32, and rounded
        kv_bytes, state_bytes = self._cache_bytes(ctx, d_inner) if ctx.causal else (0, 0)
        cache_read = ctx.batch_size * (ctx.context_len * kv_bytes + state_bytes) if decodes else 0
        return Cost(
            params=params,
            params_active=params,
            buffer_bytes=4 * self.is_clustered * self.n_clusters * d_inner,
            flops=maps + per_product * work.products + per_feature * work.features,
            flops_needed=maps + per_product * work.needed + per_feature * work.features_needed,
            flops_elementwise=6 * logits + 4 * elements,
            bytes_moved=ctx.item_bytes * (params + 2 * ctx.tokens * ctx.d_model + 8 * elements)
            + 2 * (kept + places)
            + 4 * 4 * logits
            + cache_read,
            activation_bytes=ctx.item_bytes * (ctx.tokens * ctx.d_model + 5 * elements)
            + kept
            + places
            + logit_bytes * logits,
            workspace_bytes=ctx.item_bytes * (4 * elements + ctx.batch_size * d_inner * work.kept.vectors)
            + logit_bytes * logits * (2 if self.variant == "fixed" else 1),  # a softmax's input beside it
            kv_bytes_per_token=kv_bytes,
            state_bytes=state_bytes,
        )

    def backward_flops(self, ctx: CostContext, forward: Cost) -> tuple[int, int]:
        """No gradient reaches a router's scores, nor features where two tokens are too few for a summary."""
        done, needed = super().backward_flops(ctx, forward)
        spared = 0
        if self.is_clustered:
            spared = 2 * 2 * ctx.tokens * self.n_clusters * self.n_heads * self.head_width(ctx.d_model)
        elif self.variant == "logsparse" and ctx.seq_len <= 2:
            _, map_macs = self._summary_maps(ctx.d_model)
            spared = 2 * 2 * ctx.tokens * 2 * map_macs
        return done - spared, needed - spared

    def _summary_maps(self, d_model: int) -> tuple[int, int]:
        """Parameters of the summaries; multiply-adds of one of their features, in all heads."""
        d_head = self.head_width(d_model)
        d_inner = self.n_heads * d_head
        if self.variant == "axial" and self.row_summary.endswith("proj"):
            biases = self.out_bias * d_model + self.qkv_bias * d_inner
            return 2 * d_model * d_inner + 2 * d_model + biases, 2 * d_model * d_inner
        if self.local_summary.startswith("deepset"):
            return 2 * d_head**2, d_inner * d_head
        return 0, 0

    def _kept_bytes(self, ctx: CostContext, kept: Kept) -> tuple[int, int]:
        """Of vectors, and of integers: a training batch's."""
        is_max = self.variant != "axial" and self.local_summary.endswith("max")
        mapped = self.variant != "axial" and not self.local_summary.startswith("identity")
        vectors = kept.vectors + is_max * kept.of_max + mapped * kept.of_features
        d_inner = self.n_heads * self.head_width(ctx.d_model)
        widths = vectors * d_inner + kept.inputs * ctx.d_model
        places = 8 * (is_max * kept.places * d_inner + self.n_heads * kept.indices)
        return ctx.batch_size * ctx.item_bytes * widths, ctx.batch_size * places

    def _cache_bytes(self, ctx: CostContext, d_inner: int) -> tuple[int, int]:
        """Of one sequence: bytes per token; what the state holds beyond that rate."""
        n_tokens = ctx.context_len if ctx.phase == "decode" else ctx.seq_len
        cache = self.pattern(causal=True).cache(n_tokens)
        held = (cache.vectors * d_inner + cache.inputs * ctx.d_model) * ctx.item_bytes
        held += 8 * cache.counters * self.n_heads
        vectors, tokens = cache.per_token
        per_token = vectors * d_inner * ctx.item_bytes // tokens
        return per_token, held - n_tokens * per_token
