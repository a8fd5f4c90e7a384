"""Attention from a decoder's layer to all of the encoder's output (Vaswani et al. 2017, arXiv:1706.03762).

    update = Wo attention(Wq queries, Wk source, Wv source)

No norm and no position is in it: the layer norms the queries, the encoder its output, and positions come
with the source. A row of queries whose source is masked altogether gets the output bias alone.

Shapes: B batch, Lq queries of width Dq, Ls source positions of width Ds, H heads of width K, A = H K.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, PositiveInt
from torch import Tensor, nn

from archspec import Capabilities, Cost, CostContext, Site
from zoo.contract import State, Transfer, TransferConfig
from zoo.ops.cross import attend_to_source, dense_attend_to_source


class CrossAttention(Transfer):
    class Config(TransferConfig):
        paper: ClassVar[str] = "Vaswani et al. 2017, arXiv:1706.03762"
        kind: Literal["attention"] = "attention"
        n_heads: PositiveInt = Field(4, description="heads")
        d_head: PositiveInt | None = Field(None, description="width of a head; default d_model / n_heads")
        qkv_bias: bool = Field(False, description="bias of the query, key and value projections")
        out_bias: bool = Field(False, description="bias of the output projection")

        def inner_width(self, d_model: int) -> int:
            return self.n_heads * (self.d_head or d_model // self.n_heads)

        def misfit(self, site: Site) -> str | None:
            if self.d_head is None and site.d_model % self.n_heads:
                return f"d_model {site.d_model} is not a multiple of n_heads {self.n_heads} (or set d_head)"
            return None

        def capabilities(self) -> Capabilities:
            return Capabilities(
                causal="never", cross=True, exact_softmax=True, decode="growing", complexity="L^2"
            )

        def cost(self, ctx: CostContext) -> Cost:
            Dq, Ds, A = ctx.d_model, ctx.d_source, self.inner_width(ctx.d_model)
            n_queries, n_source = ctx.tokens, ctx.batch_size * (ctx.source_len - ctx.context_len)
            n_kept = ctx.batch_size * ctx.source_len
            weights = 2 * Dq * A + 2 * Ds * A
            params = weights + self.qkv_bias * 3 * A + self.out_bias * Dq
            pairs = ctx.batch_size * ctx.seq_len * ctx.source_len
            flops = 2 * (n_queries * 2 * Dq * A + n_source * 2 * Ds * A + 2 * pairs * A)
            inputs = n_queries * Dq + n_source * Ds
            inner = 2 * (n_queries + n_source) * A  # q, k, v and the attention's output
            biases = self.qkv_bias * (n_queries + 2 * n_source) * A + self.out_bias * n_queries * Dq
            return Cost(
                params=params,
                params_active=params,
                flops=flops,
                flops_needed=flops,
                flops_elementwise=5 * pairs * self.n_heads + biases,
                bytes_moved=ctx.item_bytes * (params + inputs + 2 * inner + 2 * n_kept * A + n_queries * Dq),
                activation_bytes=ctx.item_bytes * (inputs + inner) + 4 * n_queries * self.n_heads,
                workspace_bytes=ctx.item_bytes * inner,
                kv_bytes_per_token=2 * A * ctx.item_bytes if ctx.causal else 0,
            )

    config: Config
    examples: ClassVar = (
        Config(n_heads=2),
        Config(n_heads=3, d_head=5, qkv_bias=True, out_bias=True),
        Config(n_heads=1, d_head=1),
    )

    def __init__(self, config: Config, site: Site, d_source: int):
        super().__init__(config, site, d_source)
        self.config = config
        inner = config.inner_width(site.d_model)
        self.q = nn.Linear(site.d_model, inner, bias=config.qkv_bias)
        self.k = nn.Linear(d_source, inner, bias=config.qkv_bias)
        self.v = nn.Linear(d_source, inner, bias=config.qkv_bias)
        self.out = nn.Linear(inner, site.d_model, bias=config.out_bias)
        for linear in (self.q, self.k, self.v, self.out):
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)

    def forward(self, queries: Tensor, source: Tensor, mask: Tensor | None = None) -> Tensor:
        return self._attend(queries, self.k(source), self.v(source), mask)

    def remember(self, source: Tensor) -> State:
        """Keys and values (B, Ls, A)."""
        return {"k": self.k(source), "v": self.v(source)}

    def recall(self, queries: Tensor, state: State, *, first: int = 0) -> Tensor:
        return self._attend(queries, state["k"], state["v"], state.get("mask"))

    def reference(self, queries: Tensor, source: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v = (
            t.unflatten(-1, (self.config.n_heads, -1))
            for t in (self.q(queries), self.k(source), self.v(source))
        )
        return self.out(dense_attend_to_source(q, k, v, mask).flatten(2))

    def _attend(self, queries: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = (
            t.view(*t.shape[:2], self.config.n_heads, -1).transpose(1, 2) for t in (self.q(queries), k, v)
        )
        y = attend_to_source(q, k, v, mask)  # (B, H, Lq, K)
        return self.out(y.transpose(1, 2).flatten(2))
