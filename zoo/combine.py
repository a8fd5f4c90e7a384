"""What joins token mixers that run side by side on one input (Falcon-H1, Hymba).

    mean    1/n sum_i y_i              sum      sum_i y_i
    gated   sum_i w_i y_i, w learned   concat   W [y_1; ...; y_n], W learned (n D -> D)

The gates start at 1/n, so that a gated layer starts as the mean.

Shapes: B batch, L length, D width, n branches.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from archspec import Capabilities, ComponentConfig, Cost, CostContext, Site
from zoo.contract import Component, ParamHint


class Combine(Component):
    class Config(ComponentConfig):
        kind: Literal["combine"] = "combine"
        combine: Literal["mean", "sum", "concat", "gated"] = "mean"
        n_branches: Annotated[int, Field(ge=2)] = 2

        def cost(self, ctx: CostContext) -> Cost:
            D, n = ctx.d_model, self.n_branches
            elements = ctx.tokens * D
            params = {"concat": n * D * D, "gated": n}.get(self.combine, 0)
            flops = 2 * elements * n * D if self.combine == "concat" else 0
            joined = n if self.combine == "concat" else 0  # copies made before the linear map
            return Cost(
                params=params,
                params_active=params,
                flops=flops,
                flops_needed=flops,
                flops_elementwise={"mean": n, "sum": n - 1, "gated": 2 * n - 1}.get(self.combine, 0)
                * elements,
                bytes_moved=ctx.item_bytes * ((n + 1 + 2 * joined) * elements + params),
                activation_bytes=ctx.item_bytes * n * elements if params else 0,
                workspace_bytes=ctx.item_bytes * max(joined, 1) * elements,
            )

        def capabilities(self) -> Capabilities:
            return Capabilities(causal="always", mixes_tokens=False, decode="constant")

    examples: ClassVar = (
        Config(),
        Config(combine="sum", n_branches=3),
        Config(combine="concat"),
        Config(combine="gated", n_branches=3),
    )

    def __init__(self, config: Config, site: Site):
        super().__init__()
        self.config = config
        n = config.n_branches
        if config.combine == "concat":
            self.out = nn.Linear(n * site.d_model, site.d_model, bias=False)
        elif config.combine == "gated":
            self.gate = nn.Parameter(torch.full((n,), 1 / n))

    def forward(self, *ys: Tensor) -> Tensor:
        """n times (..., D) -> (..., D)."""
        if self.config.combine == "concat":
            return self.out(torch.cat(ys, dim=-1))
        if self.config.combine == "gated":
            ys = tuple(w * y for w, y in zip(self.gate.unbind(), ys, strict=True))
        total = ys[0]
        for y in ys[1:]:
            total = total + y
        return total / len(ys) if self.config.combine == "mean" else total

    def param_hints(self) -> dict[str, ParamHint]:
        return {"gate": ParamHint(no_weight_decay=True)} if self.config.combine == "gated" else {}
