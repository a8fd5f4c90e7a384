"""Cross-attention between two streams of their own widths, as FIT's read and write use it (arXiv:2305.12689).

A layer norm on the queries and one on the source; inner width A = min(Dq, Ds); biases on q, k, v and o; the
output has the queries' width. A row of queries whose source is masked altogether gets the output bias
alone: zero attention, never an average of forbidden values.

Shapes: B batch, Lq queries of width Dq, Ls source positions of width Ds, H heads of width K = A / H.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from archspec import Capabilities, Cost, CostContext, Site
from zoo.contract import State, Transfer, TransferConfig
from zoo.norms import Epsilon, LayerNorm


class CrossConfig(TransferConfig):
    paper: ClassVar[str] = "Chen & Li 2023, arXiv:2305.12689"
    n_heads: int = Field(4, ge=1, le=1024, description="attention heads; divides min(d_model, d_latent)")
    eps: Epsilon = Field(1e-6, description="of both layer norms")

    def source_misfit(self, d_model: int, d_source: int) -> str | None:
        if (inner := min(d_model, d_source)) % self.n_heads:
            return f"'n_heads' ({self.n_heads}) must divide the smaller of the streams' widths ({inner})"
        return None

    def capabilities(self) -> Capabilities:
        return Capabilities(causal="never", cross=True, exact_softmax=True, decode="growing")

    def cost(self, ctx: CostContext) -> Cost:
        Dq, Ds = ctx.d_model, ctx.d_source
        A = min(Dq, Ds)
        n_queries, n_source = ctx.tokens, ctx.batch_size * (ctx.source_len - ctx.context_len)
        params = (2 * Dq * A + A + Dq) + 2 * (Ds * A + A) + 2 * Dq + 2 * Ds
        pairs = ctx.batch_size * ctx.seq_len * ctx.source_len
        flops = 2 * (n_queries * 2 * Dq * A + n_source * 2 * Ds * A + 2 * pairs * A)
        norms = 6 * (n_queries * Dq + n_source * Ds)
        inputs = n_queries * Dq + n_source * Ds
        inner = 2 * (n_queries + n_source) * A  # q, k, v and the attention's output
        return Cost(
            params=params,
            params_active=params,
            flops=flops,
            flops_needed=flops,
            flops_elementwise=norms + 5 * pairs * self.n_heads + inner + n_queries * Dq,
            bytes_moved=ctx.item_bytes * (params + 4 * inputs + 2 * inner + n_queries * Dq),
            # Both inputs (fp32 or wider, for the norms) and normed, q, k, v, the output, the row sums.
            activation_bytes=(ctx.item_bytes + max(4, ctx.item_bytes)) * inputs
            + ctx.item_bytes * inner
            + 4 * n_queries * (self.n_heads + 2)
            + 8 * n_source,
            workspace_bytes=ctx.item_bytes * (inputs + inner),
            kv_bytes_per_token=2 * A * ctx.item_bytes if ctx.causal else 0,
        )


class CrossTransfer(Transfer):
    """The projections of ``CrossConfig`` around an attention; biases start at zero."""

    config: CrossConfig

    def __init__(self, config: CrossConfig, site: Site, d_source: int):
        super().__init__(config, site, d_source)
        self.config = config
        assert config.source_misfit(site.d_model, d_source) is None
        inner = min(site.d_model, d_source)
        self.query_norm = LayerNorm(LayerNorm.Config(eps=config.eps), site.d_model)
        self.source_norm = LayerNorm(LayerNorm.Config(eps=config.eps), d_source)
        self.q = nn.Linear(site.d_model, inner)
        self.k = nn.Linear(d_source, inner)
        self.v = nn.Linear(d_source, inner)
        self.out = nn.Linear(inner, site.d_model)
        for linear in (self.q, self.k, self.v, self.out):
            nn.init.zeros_(linear.bias)

    def _heads(self, x: Tensor) -> Tensor:
        """(B, L, A) -> (B, H, L, K)."""
        H = self.config.n_heads
        return x.view(*x.shape[:2], H, x.shape[2] // H).transpose(1, 2)


class SoftmaxTransfer(CrossTransfer):
    """Every query reads the whole source."""

    def forward(self, queries: Tensor, source: Tensor, mask: Tensor | None = None) -> Tensor:
        return self._attend(queries, *self._keys_values(source), mask)

    def remember(self, source: Tensor) -> State:
        """Keys and values (B, Ls, A)."""
        k, v = self._keys_values(source)
        return {"k": k, "v": v}

    def recall(self, queries: Tensor, state: State, *, first: int = 0) -> Tensor:
        return self._attend(queries, state["k"], state["v"], state.get("mask"))

    def _keys_values(self, source: Tensor) -> tuple[Tensor, Tensor]:
        source = self.source_norm(source)
        return self.k(source), self.v(source)

    def _attend(self, queries: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        q = self._heads(self.q(self.query_norm(queries)))  # (B, H, Lq, K)
        y = attend_to_source(q, self._heads(k), self._heads(v), mask)
        return self.out(y.transpose(1, 2).flatten(2))

    def reference(self, queries: Tensor, source: Tensor, mask: Tensor | None = None) -> Tensor:
        H = self.config.n_heads
        q = self.q(self.query_norm.reference(queries)).unflatten(-1, (H, -1))  # (B, Lq, H, K)
        source = self.source_norm.reference(source)
        k, v = self.k(source).unflatten(-1, (H, -1)), self.v(source).unflatten(-1, (H, -1))
        return self.out(dense_attend_to_source(q, k, v, mask).flatten(2))


def attend_to_source(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """q (B, H, Lq, K), k, v (B, H, Ls, K), mask (B, Ls) -> (B, H, Lq, K); zero where no source is real."""
    if mask is None:
        return F.scaled_dot_product_attention(q, k, v)
    # A row without any real source attends to all of it, finite, and is zeroed afterwards.
    some = mask.any(-1)[:, None, None, None]  # (B, 1, 1, 1)
    allowed = mask[:, None, None, :] | ~some
    return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed).masked_fill(~some, 0)


def dense_attend_to_source(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """The definition, heads third: q (B, Lq, H, K), k, v (B, Ls, H, K) -> (B, Lq, H, K)."""
    weights = (torch.einsum("bihk,bjhk->bhij", q, k) / q.shape[-1] ** 0.5).exp()
    if mask is not None:
        weights = weights * mask[:, None, None, :]
    weights = weights / weights.sum(-1, keepdim=True).clamp(min=1e-300)
    return torch.einsum("bhij,bjhk->bihk", weights, v)
