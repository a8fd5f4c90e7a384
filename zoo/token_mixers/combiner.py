"""Combiner: full attention at sparse cost (Ren et al. 2021, arXiv:2107.05768).

A query reads some tokens directly, and the rest of its support span by span: one entry of the same softmax
for a whole span, whose key pools the span's keys and whose value is what a query of the span's own reads
from it. So every token has the whole sequence in reach. What is direct and what is a span is the variant:

    fixed      spans of s tokens; direct: the own one
    logsparse  at each level l, the sibling of the own block of 2^l tokens; direct: itself and its neighbour
    axial      rows of s tokens, each summarised for a column by the row's token there; direct: the own row
    mixture    rows of s tokens; parts of columns above, of rows left and right; direct: own row and column

A span of 1, or one as long as the sequence, is full attention exactly (axial: unless a projection makes the
keys). With n spans of s tokens the cost is L (s + n), which is L^1.5 where the span follows the square root
of the length, and L log L for logsparse. Bidirectional logsparse and mixture are ours: the published ones
are causal, or (mixture, in the authors' code) count a token twice and read empty parts.

Shapes: B batch, L length, D d_model, H n_heads, K d_head, s span, n spans.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from archspec import Capabilities, Cost, CostContext, MixerConfig, Site
from archspec.components import spec_problem
from zoo.contract import Mixer, State
from zoo.ops.combiner_axial import Axial, RowSummary, RowSummaryKind
from zoo.ops.combiner_fixed import Fixed
from zoo.ops.combiner_logsparse import Logsparse
from zoo.ops.combiner_mixture import Groups, Mixture
from zoo.ops.combiner_pattern import Pattern, Tokens
from zoo.ops.combiner_summary import LocalSummary, Summary

Variant = Literal["fixed", "logsparse", "axial", "mixture"]
_OPTIONS: dict[Variant, tuple[str, ...]] = {
    "fixed": ("span", "local_summary", "compat"),
    "logsparse": ("local_summary",),
    "axial": ("span", "row_summary", "compat"),
    "mixture": ("span", "local_summary", "groups"),
}


class Combiner(Mixer):
    class Config(MixerConfig):
        paper: ClassVar[str] = "Ren et al. 2021, arXiv:2107.05768"
        kind: Literal["combiner"] = "combiner"
        variant: Variant = Field(
            "fixed",
            description="fixed: spans of equal length; logsparse: of all powers of two; axial: rows, each "
            "summarised for every column; mixture: rows and columns",
        )
        n_heads: PositiveInt = Field(4, description="heads")
        d_head: PositiveInt | None = Field(None, description="width of a head; default d_model / n_heads")
        span: PositiveInt = Field(
            64,
            description="tokens in a span, or in a row; about the square root of the length is cheapest",
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
        qkv_bias: bool = Field(False, description="bias of the query, key and value projections")
        out_bias: bool = Field(False, description="bias of the output projection")

        compat: Literal["none", "official"] = Field(
            "none",
            description="official: a bidirectional fixed or axial layer reads the summary of the query's own "
            "span as well",
        )

        @model_validator(mode="after")
        def _nothing_is_ignored(self) -> Combiner.Config:
            for name in ("span", "local_summary", "row_summary", "groups", "compat"):
                value, fields = getattr(self, name), type(self).model_fields
                if name not in _OPTIONS[self.variant] and value != fields[name].default:
                    users = ", ".join(variant for variant, names in _OPTIONS.items() if name in names)
                    raise spec_problem(
                        f"'{name}' ({value}) means nothing to variant '{self.variant}'",
                        f"it belongs to: {users}",
                    )
            return self

        def head_width(self, d_model: int) -> int:
            return self.d_head or d_model // self.n_heads

        def misfit(self, site: Site) -> str | None:
            if self.d_head is None and site.d_model % self.n_heads:
                return f"d_model {site.d_model} is not a multiple of n_heads {self.n_heads} (or set d_head)"
            return None

        def smells(self, site: Site) -> list[str]:
            found = []
            if "span" in _OPTIONS[self.variant]:
                if self.span >= site.seq_len:
                    found.append(f"span {self.span} >= seq_len {site.seq_len}: full attention in disguise")
                elif self.span == 1:
                    found.append("span 1: full attention in disguise, and slower")
            if self.compat == "official" and site.causal:
                found.append("compat official changes nothing in a causal model")
            return found

        def capabilities(self) -> Capabilities:
            return Capabilities(
                causal="switch",
                decode="growing",
                needs_position=True,
                complexity="L log L" if self.variant == "logsparse" else "L^1.5",
            )

        def pattern(self, causal: bool) -> Fixed | Logsparse | Axial | Mixture:
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

        def cost(self, ctx: CostContext) -> Cost:
            d_head, decodes = self.head_width(ctx.d_model), ctx.phase == "decode"
            d_inner = self.n_heads * d_head
            pattern = self.pattern(ctx.causal)
            work = pattern.step_work(ctx.context_len) if decodes else pattern.work(ctx.seq_len)
            weights = 4 * ctx.d_model * d_inner
            map_params, map_macs = self._summary_maps(ctx.d_model)
            params = weights + self.qkv_bias * 3 * d_inner + self.out_bias * ctx.d_model + map_params
            maps = 2 * ctx.tokens * weights
            per_product = 2 * ctx.batch_size * d_inner
            per_feature = 2 * ctx.batch_size * map_macs
            logits = ctx.batch_size * self.n_heads * work.logits
            elements = ctx.tokens * d_inner
            kept = ctx.batch_size * d_inner * work.vectors
            kv_bytes, state_bytes = self._cache_bytes(ctx, d_inner) if ctx.causal else (0, 0)
            cache_read = ctx.batch_size * (ctx.context_len * kv_bytes + state_bytes) if decodes else 0
            return Cost(
                params=params,
                params_active=params,
                flops=maps + per_product * work.products + per_feature * work.features,
                flops_needed=maps + per_product * work.needed + per_feature * work.features_needed,
                flops_elementwise=6 * logits + 4 * elements,
                bytes_moved=ctx.item_bytes * (params + 2 * ctx.tokens * ctx.d_model + 8 * elements + 2 * kept)
                + 4 * 4 * logits
                + cache_read,
                activation_bytes=ctx.item_bytes * (ctx.tokens * ctx.d_model + 4 * elements + 2 * kept)
                + 4 * logits,
                workspace_bytes=ctx.item_bytes * 4 * elements + 2 * 4 * logits,
                kv_bytes_per_token=kv_bytes,
                state_bytes=state_bytes,
            )

        def backward_flops(self, ctx: CostContext, forward: Cost) -> tuple[int, int]:
            """Features that nobody reads, where two tokens are too few for a summary, have no gradient."""
            done, needed = super().backward_flops(ctx, forward)
            if self.variant != "logsparse" or ctx.seq_len > 2:
                return done, needed
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

        def _cache_bytes(self, ctx: CostContext, d_inner: int) -> tuple[int, int]:
            """Of one sequence: bytes per token; what the state holds beyond that rate."""
            n_tokens = ctx.context_len if ctx.phase == "decode" else ctx.seq_len
            cache = self.pattern(causal=True).cache(n_tokens)
            held = (cache.vectors * d_inner + cache.inputs * ctx.d_model) * ctx.item_bytes
            vectors, tokens = cache.per_token
            per_token = vectors * d_inner * ctx.item_bytes // tokens
            return per_token, held - n_tokens * per_token

    config: Config
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

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self._merge(self.pattern.attend(self._project(x), self.summary, mask))

    def reference(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self._merge(self.pattern.reference(self._project(x), self.summary, mask))

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

    def _project(self, x: Tensor) -> Tokens:
        """(B, L, D) -> queries (not yet scaled), keys and values (B, H, L, K), beside x."""
        q, k, v = (
            self.qkv(x).unflatten(-1, (3, self.n_heads, self.d_head)).permute(2, 0, 3, 1, 4).contiguous()
        )
        return Tokens(q, k, v, x)

    def _merge(self, y: Tensor) -> Tensor:
        return self.out(y.transpose(1, 2).flatten(2))  # (B, L, D)
