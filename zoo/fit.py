"""What tells FIT's tokens and latents where they stand (Chen & Li 2023, arXiv:2305.12689; the authors' code).

The latents' initial value doubles as their position: one vector per latent of every group, which is all
that tells the groups apart. Positions are one vector per place inside a group, shared by the groups. Both
are learned (at first a normal of deviation 0.02, truncated at two deviations) or fixed codes (see
``zoo/ops/sin_cos.py``): of the latents as a grid of groups times latents, of a group's tokens as a line, or
as a square (``sin_cos_2d``).

Shapes: B batch, L length, D width, t groups, n positions per group, m latents per group.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from archspec import Capabilities, ComponentConfig, Cost, CostContext, Site
from zoo.contract import Component, ParamHint
from zoo.ops.sin_cos import grid_codes, line_codes


class Latents(Component):
    """The latents before the block's first layer, as many groups of them as the tokens fill."""

    class Config(ComponentConfig):
        kind: Literal["latents"] = "latents"
        n_latents: Annotated[int, Field(ge=1, description="latents of each group")]
        positions: Literal["learned", "sin_cos"] = Field(
            "learned", description="initial values of the latents"
        )

        def cost(self, ctx: CostContext) -> Cost:
            return _table_cost(ctx, learned=self.positions == "learned", flops_elementwise=0)

        def capabilities(self) -> Capabilities:
            return Capabilities(causal="always", mixes_tokens=False)

        def misfit(self, site: Site) -> str | None:
            is_grid = self.positions == "sin_cos" and 1 < self.n_latents < site.seq_len
            if is_grid and site.d_model % 2:
                return f"'latent_positions' is 'sin_cos', which needs an even 'd_latent', not {site.d_model}"
            return None

    def __init__(self, config: Config, site: Site, length: int):
        """``site`` is the latent stream; ``length`` is that of a group of tokens."""
        super().__init__()
        self.n_latents, self.length = config.n_latents, length
        self.n_groups, self.d_model = site.seq_len // config.n_latents, site.d_model
        self.weight = _table(site) if config.positions == "learned" else None

    def forward(self, x: Tensor) -> Tensor:
        """The ungrouped tokens (B, L, .) -> (B, t m, D)."""
        self.check_length(x.shape[1])
        return self.of_groups(0, -(-x.shape[1] // self.length), like=x)

    def of_groups(self, first: int, end: int, *, like: Tensor) -> Tensor:
        """Those of groups ``first`` to ``end - 1`` for the batch of ``like``: (B, (end - first) m, D)."""
        table = self._codes(like) if self.weight is None else self.weight
        return table[first * self.n_latents : end * self.n_latents].expand(like.shape[0], -1, -1)

    def check_length(self, n_tokens: int) -> None:
        """ValueError where there are more tokens than groups for them."""
        longest = self.n_groups * self.length
        if n_tokens > longest:
            raise ValueError(
                f"length {n_tokens} is past the {longest} positions that this block has latents for"
            )

    def param_hints(self) -> dict[str, ParamHint]:
        return _without_decay(self)

    def _codes(self, like: Tensor) -> Tensor:
        """(t m, D): a single group, or single latents, stand in a line."""
        t, m, D = self.n_groups, self.n_latents, self.d_model
        is_grid = t > 1 and m > 1
        codes = (
            grid_codes(t, m, D, device=like.device) if is_grid else line_codes(t * m, D, device=like.device)
        )
        return codes.to(like.dtype)


class GroupPositions(Component):
    """Adds to each token the vector of its place inside its group."""

    class Config(ComponentConfig):
        kind: Literal["group_positions"] = "group_positions"
        positions: Literal["learned", "sin_cos", "sin_cos_2d"] = Field(
            "learned", description="what a place's vector is"
        )

        def cost(self, ctx: CostContext) -> Cost:
            learned = self.positions == "learned"
            return _table_cost(ctx, learned=learned, flops_elementwise=ctx.tokens * ctx.d_model)

        def capabilities(self) -> Capabilities:
            return Capabilities(causal="always", mixes_tokens=False)

        def misfit(self, site: Site) -> str | None:
            if self.positions != "sin_cos_2d":
                return None
            if math.isqrt(site.seq_len) ** 2 != site.seq_len:
                return f"'positions' is 'sin_cos_2d', but a group's {site.seq_len} positions are no square"
            if site.d_model % 2:
                return f"'positions' is 'sin_cos_2d', which needs an even 'd_model', not {site.d_model}"
            return None

    examples: ClassVar = (Config(), Config(positions="sin_cos"))

    def __init__(self, config: Config, site: Site):
        super().__init__()
        self.length, self.d_model = site.seq_len, site.d_model
        self.is_square = config.positions == "sin_cos_2d"
        self.weight = _table(site) if config.positions == "learned" else None

    def forward(self, x: Tensor) -> Tensor:
        """(B t, n, D) -> (B t, n, D)."""
        return x + self._vectors(x)

    def step(self, x: Tensor, position: int) -> Tensor:
        """(B, D), the token at a place in its group -> (B, D)."""
        return x + self._vectors(x)[position]

    def param_hints(self) -> dict[str, ParamHint]:
        return _without_decay(self)

    def _vectors(self, like: Tensor) -> Tensor:
        """(n, D)."""
        if self.weight is not None:
            return self.weight
        if self.is_square:
            side = math.isqrt(self.length)
            return grid_codes(side, side, self.d_model, device=like.device).to(like.dtype)
        return line_codes(self.length, self.d_model, device=like.device).to(like.dtype)


def _table(site: Site) -> nn.Parameter:
    weight = nn.Parameter(torch.empty(site.seq_len, site.d_model))
    nn.init.trunc_normal_(weight, std=0.02, a=-0.04, b=0.04)
    return weight


def _without_decay(component: nn.Module) -> dict[str, ParamHint]:
    return {name: ParamHint(no_weight_decay=True) for name, _ in component.named_parameters()}


def _table_cost(ctx: CostContext, *, learned: bool, flops_elementwise: int) -> Cost:
    """Fixed codes are made when they are needed: a table's worth of sines for each pass."""
    elements = ctx.max_len * ctx.d_model
    params = elements if learned else 0
    return Cost(
        params=params,
        params_active=params,
        params_embedding=params,
        flops_elementwise=flops_elementwise + (0 if learned else 2 * elements),
        bytes_moved=ctx.item_bytes * (elements + 2 * ctx.tokens * ctx.d_model),
        workspace_bytes=0 if learned else 24 * elements,
    )
