"""The learned vectors of FIT's two streams (Chen & Li 2023, arXiv:2305.12689).

The latents' initial value doubles as their position: one vector per latent of every group, which is all
that tells the groups apart. Positions are one vector per place inside a group, shared by the groups. Both
start as a normal of deviation 0.02, truncated.

Shapes: B batch, L length, D width, t groups, n positions per group, m latents per group.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from archspec import Capabilities, ComponentConfig, Cost, CostContext, Site
from zoo.contract import Component, ParamHint


class Latents(Component):
    """The latents before the block's first layer, as many groups of them as the tokens fill."""

    class Config(ComponentConfig):
        kind: Literal["latents"] = "latents"
        n_latents: Annotated[int, Field(ge=1, description="latents of each group")]

        def cost(self, ctx: CostContext) -> Cost:
            return _table_cost(ctx, flops_elementwise=0)

        def capabilities(self) -> Capabilities:
            return Capabilities(causal="always", mixes_tokens=False)

    def __init__(self, config: Config, site: Site, length: int):
        """``site`` is the latent stream; ``length`` is that of a group of tokens."""
        super().__init__()
        self.n_latents, self.length = config.n_latents, length
        self.weight = nn.Parameter(torch.empty(site.seq_len, site.d_model))
        nn.init.trunc_normal_(self.weight, std=0.02, a=-0.04, b=0.04)

    def forward(self, x: Tensor) -> Tensor:
        """The ungrouped tokens (B, L, .) -> (B, t m, D)."""
        self.check_length(x.shape[1])
        return self.of_groups(0, -(-x.shape[1] // self.length), batch_size=x.shape[0])

    def of_groups(self, first: int, end: int, *, batch_size: int) -> Tensor:
        """Those of groups ``first`` to ``end - 1``: (B, (end - first) m, D)."""
        return self.weight[first * self.n_latents : end * self.n_latents].expand(batch_size, -1, -1)

    def check_length(self, n_tokens: int) -> None:
        """ValueError where there are more tokens than groups for them."""
        longest = self.weight.shape[0] // self.n_latents * self.length
        if n_tokens > longest:
            raise ValueError(
                f"length {n_tokens} is past the {longest} positions that this block has latents for"
            )

    def param_hints(self) -> dict[str, ParamHint]:
        return {"weight": ParamHint(no_weight_decay=True)}


class GroupPositions(Component):
    """Adds to each token the vector of its place inside its group."""

    class Config(ComponentConfig):
        kind: Literal["group_positions"] = "group_positions"

        def cost(self, ctx: CostContext) -> Cost:
            return _table_cost(ctx, flops_elementwise=ctx.tokens * ctx.d_model)

        def capabilities(self) -> Capabilities:
            return Capabilities(causal="always", mixes_tokens=False)

    examples: ClassVar = (Config(),)

    def __init__(self, config: Config, site: Site):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(site.seq_len, site.d_model))
        nn.init.trunc_normal_(self.weight, std=0.02, a=-0.04, b=0.04)

    def forward(self, x: Tensor) -> Tensor:
        """(B t, n, D) -> (B t, n, D)."""
        return x + self.weight

    def step(self, x: Tensor, position: int) -> Tensor:
        """(B, D), the token at a place in its group -> (B, D)."""
        return x + self.weight[position]

    def param_hints(self) -> dict[str, ParamHint]:
        return {"weight": ParamHint(no_weight_decay=True)}


def _table_cost(ctx: CostContext, *, flops_elementwise: int) -> Cost:
    params = ctx.max_len * ctx.d_model
    return Cost(
        params=params,
        params_active=params,
        params_embedding=params,
        flops_elementwise=flops_elementwise,
        bytes_moved=ctx.item_bytes * (params + 2 * ctx.tokens * ctx.d_model),
    )
