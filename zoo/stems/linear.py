"""Feature vectors to the model's width: a linear map with bias, a norm and positions as options.

    x_t = norm(W u_t + b) + positions[t]

The norm comes before the positions, as in FIT. A cls token is a learned vector put first, after the norm;
it has a position of its own. Learned positions and the cls token start normal with ``init_std``.

Shapes: B batch, L length, C d_input, D d_model.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from archspec import Capabilities, Cost, CostContext, FeatureInput, Input, Site
from zoo.contract import ParamHint, Stem, StemConfig
from zoo.norms import InnerNorm, LayerNorm, RMSNorm, build_norm
from zoo.ops.positions import AbsolutePositions, Positions


class Linear(Stem):
    class Config(StemConfig):
        kind: Literal["linear"] = "linear"
        positions: Positions = Field(
            "none", description="absolute positions; learned: one vector per position"
        )
        norm: InnerNorm | None = Field(None, description="normalises the projected features")
        bias: bool = Field(True, description="bias of the linear map")
        cls_token: bool = Field(False, description="prepend a learned position")
        init_std: float = Field(
            0.02, gt=0, le=10, description="standard deviation of learned vectors at the start"
        )

        @property
        def gives_positions(self) -> bool:
            return self.positions != "none"

        @property
        def has_cls(self) -> bool:
            return self.cls_token

        def out_length(self, input: Input) -> int:
            return input.seq_len + self.cls_token

        def input_misfit(self, input: Input) -> str | None:
            if not isinstance(input, FeatureInput):
                return f"stem 'linear' takes input of kind 'features', not '{input.kind}'"
            return None

        def capabilities(self) -> Capabilities:
            decode: Literal["none", "constant"] = "none" if self.cls_token else "constant"
            return Capabilities(causal="always", mixes_tokens=False, decode=decode)

        def cost(self, ctx: CostContext) -> Cost:
            assert isinstance(ctx.input, FeatureInput), "the cost of a linear stem needs the input"
            C, D = ctx.input.d_input, ctx.d_model
            n_rows = (ctx.max_len or self.out_length(ctx.input)) if self.positions == "learned" else 0
            n_vectors = ctx.tokens - (ctx.batch_size if self.cls_token else 0)
            params = C * D + D * (self.bias + self.cls_token + n_rows)
            cost = Cost(
                params=params,
                params_active=params,
                params_embedding=D * n_rows,
                flops=2 * n_vectors * C * D,
                flops_needed=2 * n_vectors * C * D,
                flops_elementwise=D * (self.bias * n_vectors + self.gives_positions * ctx.tokens),
                bytes_moved=ctx.item_bytes
                * (C * D + n_vectors * (C + D) + 3 * self.gives_positions * ctx.tokens * D),
                activation_bytes=ctx.item_bytes * n_vectors * C + 8 * ctx.seq_len * (n_rows > 0),
            )
            return (
                cost
                if self.norm is None
                else cost + self.norm.cost(replace(ctx, batch_size=1, seq_len=n_vectors))
            )

        def backward_flops(self, ctx: CostContext, forward: Cost) -> tuple[int, int]:
            """Of the weights' gradient alone: nothing asks for that of the raw input."""
            return forward.flops, forward.flops_needed

    config: Config
    examples: ClassVar = (
        Config(),
        Config(norm=LayerNorm.Config(eps=1e-6), positions="learned"),
        Config(positions="sinusoidal", bias=False, norm=RMSNorm.Config(), cls_token=True, init_std=1.0),
    )

    def __init__(self, config: Config, site: Site, input: Input):
        super().__init__()
        assert isinstance(input, FeatureInput)
        self.config = config
        D, std = site.d_model, config.init_std
        self.project = nn.Linear(input.d_input, D, bias=config.bias)
        self.norm = build_norm(config.norm, D) if config.norm else None
        self.cls = nn.Parameter(std * torch.randn(D)) if config.cls_token else None
        self.positions = (
            None
            if config.positions == "none"
            else AbsolutePositions(config.positions, config.out_length(input), D, init_std=std)
        )
        if config.bias:
            nn.init.zeros_(self.project.bias)

    def forward(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self._project(inputs)  # (B, L, D)
        if self.cls is not None:
            x = torch.cat([self.cls.expand(x.shape[0], 1, -1), x], dim=1)
        return x if self.positions is None else self.positions(x)

    def reference(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        x = torch.einsum("blc,dc->bld", inputs, self.project.weight)
        if self.config.bias:
            x = x + self.project.bias
        if self.norm is not None:
            x = self.norm.reference(x)
        if self.cls is not None:
            x = torch.stack([torch.cat([self.cls[None], row]) for row in x])
        return x if self.positions is None else self.positions.reference(x)

    def out_mask(self, mask: Tensor) -> Tensor:
        return F.pad(mask, (1, 0), value=True) if self.config.cls_token else mask

    def step(self, inputs: Tensor, position: Tensor) -> Tensor:
        assert self.cls is None, "a stem with a cls token does not decode"
        x = self._project(inputs)[:, None]
        return (x if self.positions is None else self.positions(x, position.view(1)))[:, 0]

    def param_hints(self) -> dict[str, ParamHint]:
        return {
            n: ParamHint(no_weight_decay=True) for n, _ in self.named_parameters() if n != "project.weight"
        }

    def _project(self, inputs: Tensor) -> Tensor:
        x = self.project(inputs)
        return x if self.norm is None else self.norm(x)
