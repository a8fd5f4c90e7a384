"""What FIT's denoiser adds to the block (Chen & Li 2023, arXiv:2305.12689; the authors' code).

Condition tokens: vectors, projected if they are to have another width, after one token made of the diffusion
time, an embedding of E = W / 4 sines and cosines of 1000 time:

    token = W2 silu(W1 standardised(codes) + b1) + b2

Self-conditioning: latents begin as their table plus what an earlier pass left, u, through a residual MLP
and a norm whose scale starts at zero, so that the model begins without it. Without an earlier pass u is zero.

    latents + LN0(u + MLP(LN(u)))

Shapes: B batch, S vectors of width C, W width of a token, M latents of width D.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from archspec import Capabilities, ComponentConfig, Cost, CostContext, Site
from archspec.inputs import Width
from zoo.channel_mixers.mlp import MLP
from zoo.contract import Component, ParamHint
from zoo.norms import LayerNorm

_NORM = LayerNorm.Config(eps=1e-6)
_TIME_SCALE = 1000.0


class ConditionTokens(Component):
    """(B, S, C) and times (B,) -> (B, 1 + S, W), what latents read; either may be absent from the model."""

    class Config(ComponentConfig):
        kind: Literal["condition_tokens"] = "condition_tokens"
        d_input: Width | None = Field(None, description="width of the vectors, if there are any")
        time: bool = Field(False, description="the time is the first token")
        project: bool = Field(False, description="the vectors are mapped to the tokens' width")

        def cost(self, ctx: CostContext) -> Cost:
            W, C, B = ctx.d_model, self.d_input or 0, ctx.batch_size
            n_vectors = ctx.tokens - B * self.time
            weights = C * W if self.project else 0
            time_weights = W // 4 * W + W * W if self.time else 0
            params = weights + W * self.project + (time_weights + 2 * W) * self.time
            flops = 2 * (n_vectors * weights + B * time_weights)
            return Cost(
                params=params,
                params_active=params,
                flops=flops,
                flops_needed=flops,
                flops_elementwise=n_vectors * W * self.project + B * 5 * W * self.time,
                bytes_moved=ctx.item_bytes * (params + n_vectors * (C + W) + 6 * B * W * self.time),
                activation_bytes=ctx.item_bytes * (n_vectors * C * self.project + 3 * B * W * self.time),
            )

        def backward_flops(self, ctx: CostContext, forward: Cost) -> tuple[int, int]:
            """Nothing asks for the gradients of the given vectors and of the times' codes."""
            W, C, B = ctx.d_model, self.d_input or 0, ctx.batch_size
            first_maps = (ctx.tokens - B * self.time) * C * W * self.project + B * (W // 4) * W * self.time
            done, needed = super().backward_flops(ctx, forward)
            return done - 2 * first_maps, needed - 2 * first_maps

        def capabilities(self) -> Capabilities:
            return Capabilities(causal="always", mixes_tokens=False)

    config: Config
    examples: ClassVar = (Config(d_input=6, time=True, project=True), Config(time=True), Config(d_input=32))

    def __init__(self, config: Config, site: Site):
        super().__init__()
        self.config = config
        W = site.d_model
        self.n_codes = W // 4
        self.project = nn.Linear(config.d_input or 0, W) if config.project else None
        self.time_up = nn.Linear(self.n_codes, W) if config.time else None
        self.time_down = nn.Linear(W, W) if config.time else None
        for linear in (self.project, self.time_up, self.time_down):
            if linear is not None:
                nn.init.zeros_(linear.bias)

    def forward(self, *inputs: Tensor | None) -> Tensor:
        """The vectors, then the times, each where the model has them; ValueError where one is missing."""
        given = iter(inputs)
        tokens = []
        if self.config.d_input is not None:
            vectors = _present(next(given), f"condition (B, S, {self.config.d_input})")
            tokens.append(vectors if self.project is None else self.project(vectors))
        if self.config.time:
            tokens.insert(0, self._time_token(_present(next(given), "time (B,)")))
        return tokens[0] if len(tokens) == 1 else torch.cat(tokens, dim=1)

    def _time_token(self, time: Tensor) -> Tensor:
        """(B,) -> (B, 1, W)."""
        assert self.time_up is not None
        assert self.time_down is not None
        exponents = torch.arange(self.n_codes // 2, device=time.device, dtype=torch.float64) * (
            -2 / self.n_codes
        )
        angles = _TIME_SCALE * time.double()[:, None] * 10_000.0**exponents
        codes = torch.cat([angles.sin(), angles.cos()], dim=-1)  # (B, E)
        codes = (codes - codes.mean(-1, keepdim=True)) / codes.std(-1, correction=0, keepdim=True)
        hidden = F.silu(self.time_up(codes.to(self.time_up.weight.dtype)))
        y: Tensor = self.time_down(hidden)[:, None]
        return y


class SelfCondition(Component):
    """(B, M, D) and an earlier pass's latents, or None -> (B, M, D)."""

    class Config(ComponentConfig):
        kind: Literal["self_condition"] = "self_condition"

        def cost(self, ctx: CostContext) -> Cost:
            norm = _NORM.cost(ctx)
            added = 3 * ctx.item_bytes * ctx.tokens * ctx.d_model
            sums = Cost(flops_elementwise=2 * ctx.tokens * ctx.d_model, bytes_moved=2 * added)
            return norm + MLP.Config().cost(ctx) + norm + sums

        def capabilities(self) -> Capabilities:
            return Capabilities(causal="always", mixes_tokens=False)

    examples: ClassVar = (Config(),)

    def __init__(self, config: Config, site: Site):
        super().__init__()
        self.norm = LayerNorm(_NORM, site.d_model)
        self.mlp = MLP(MLP.Config(), replace(site, block=1))
        self.out_norm = LayerNorm(_NORM, site.d_model)
        assert self.out_norm.weight is not None
        nn.init.zeros_(self.out_norm.weight)

    def forward(self, latents: Tensor, earlier: Tensor | None = None) -> Tensor:
        if earlier is None:
            earlier = torch.zeros_like(latents)
        if earlier.shape != latents.shape:
            wanted, found = tuple(latents.shape), tuple(earlier.shape)
            raise ValueError(f"the earlier pass's latents are {found}, this model's are {wanted}")
        return latents + self.out_norm(earlier + self.mlp(self.norm(earlier)))

    def param_hints(self) -> dict[str, ParamHint]:
        return {n: ParamHint(no_weight_decay=True) for n, _ in self.named_parameters() if "norm" in n}


def _present(tensor: Tensor | None, what: str) -> Tensor:
    if tensor is None:
        raise ValueError(f"this model is conditioned: give it {what}")
    return tensor
