"""Two linear maps around an activation, or the gated form (Vaswani et al. 2017, arXiv:1706.03762).

    y = W2 act(W1 x + b1) + b2            gated:  y = W2 (act(Wg x + bg) * (Wu x + bu)) + b2

Gated (Shazeer 2020, arXiv:2002.05202) with ``gelu`` is GEGLU. Biases are on by default, as in GPT-2 and
ViT; the gate and value maps are one matrix, the gate's rows first.

Shapes: D d_model, F d_ff.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from archspec import Capabilities, Cost, CostContext, MixerConfig, Site
from archspec.components import spec_problem
from archspec.inputs import Width
from zoo.contract import Mixer, State

Activation = Literal["relu", "gelu", "gelu_tanh", "silu"]


class MLP(Mixer):
    class Config(MixerConfig):
        paper: ClassVar[str] = "Vaswani et al. 2017, arXiv:1706.03762; Shazeer 2020, arXiv:2002.05202"
        kind: Literal["mlp"] = "mlp"
        d_ff: Width | None = Field(None, description="inner width; default ratio * d_model, or 4 * d_model")
        ratio: float | None = Field(None, gt=0, le=64, description="inner width in units of d_model")
        activation: Activation = Field("gelu", description="gelu is exact, gelu_tanh its approximation")
        bias: bool = Field(True, description="biases on all linear maps")
        gated: bool = Field(False, description="multiply the activated half by a second linear map (GEGLU)")

        @model_validator(mode="after")
        def _one_width(self) -> MLP.Config:
            if self.d_ff is not None and self.ratio is not None:
                raise spec_problem(
                    f"'d_ff' ({self.d_ff}) and 'ratio' ({self.ratio}) both give the inner width", "keep one"
                )
            return self

        def canonical_at(self, d_model: int) -> MLP.Config:
            inner = self.inner_width(d_model)
            return self.model_copy(update={"ratio": None, "d_ff": None if inner == 4 * d_model else inner})

        def inner_width(self, d_model: int) -> int:
            """F."""
            return self.d_ff or max(1, round((self.ratio or 4.0) * d_model))

        def cost(self, ctx: CostContext) -> Cost:
            D, F_ = ctx.d_model, self.inner_width(ctx.d_model)
            n_up = 2 if self.gated else 1  # matrices of D x F that lead up
            weights = (n_up + 1) * D * F_
            params = weights + (n_up * F_ + D if self.bias else 0)
            hidden = ctx.tokens * F_
            flops = 2 * ctx.tokens * weights
            # Kept for backward: x, the activation's input (relu: its output), both factors, W2's input.
            kept = (
                n_up if self.activation == "relu" and not self.gated else n_up + 1 + (1 if self.gated else 0)
            )
            return Cost(
                params=params,
                params_active=params,
                flops=flops,
                flops_needed=flops,
                flops_elementwise=hidden * (1 + 2 * (n_up - 1))
                + (hidden * n_up + ctx.tokens * D if self.bias else 0),
                bytes_moved=ctx.item_bytes * (params + 2 * ctx.tokens * D + (2 * n_up + 2) * hidden),
                activation_bytes=ctx.item_bytes * (ctx.tokens * D + kept * hidden),
                workspace_bytes=ctx.item_bytes * (n_up + 1) * hidden,
            )

        def capabilities(self) -> Capabilities:
            return Capabilities(causal="always", decode="constant", mixes_tokens=False)

    config: Config
    examples: ClassVar = (
        Config(),
        Config(ratio=1.5, activation="relu", bias=False),
        Config(d_ff=24, activation="gelu_tanh", bias=False, gated=True),
        Config(d_ff=33, activation="silu", gated=True),
    )

    def __init__(self, config: Config, site: Site):
        super().__init__(config, site)
        width = config.inner_width(site.d_model)
        self.up = nn.Linear(site.d_model, 2 * width if config.gated else width, bias=config.bias)
        self.down = nn.Linear(width, site.d_model, bias=config.bias)
        if config.bias:
            nn.init.zeros_(self.up.bias)
            nn.init.zeros_(self.down.bias)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        h = self.up(x)
        if self.config.gated:
            gate, value = h.chunk(2, dim=-1)
            return self.down(self._activate(gate) * value)
        return self.down(self._activate(h))

    def reference(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        width = self.down.in_features
        weight, bias = self.up.weight, self.up.bias
        first = x @ weight[:width].T + (bias[:width] if self.config.bias else 0)
        h = self._activate(first)
        if self.config.gated:
            h = h * (x @ weight[width:].T + (bias[width:] if self.config.bias else 0))
        return h @ self.down.weight.T + (self.down.bias if self.config.bias else 0)

    def init_state(self, batch_size: int, *, dtype: torch.dtype, device: torch.device | str) -> State:
        return {}

    def prefill(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        return self.forward(x), state

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        return self.forward(x), state

    def _activate(self, h: Tensor) -> Tensor:
        match self.config.activation:
            case "relu":
                return F.relu(h)
            case "gelu":
                return F.gelu(h)
            case "gelu_tanh":
                return F.gelu(h, approximate="tanh")
            case "silu":
                return F.silu(h)
