"""SwiGLU: a gated MLP with SiLU (Shazeer 2020, arXiv:2002.05202).

    y = W2 (silu(Wg x) * (Wu x))

The inner width defaults to 8/3 d_model rounded up to a multiple of 32, which gives the three matrices the
size of the two of an ungated MLP of width 4 d_model. No biases by default, as in Llama. Gate and value are
one matrix, the gate's rows first.

Shapes: D d_model, F d_ff.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from archspec import Capabilities, Cost, CostContext, MixerConfig, Site
from archspec.inputs import Width
from zoo.contract import Mixer, State


class SwiGLU(Mixer):
    class Config(MixerConfig):
        paper: ClassVar[str] = "Shazeer 2020, arXiv:2002.05202"
        kind: Literal["swiglu"] = "swiglu"
        d_ff: Width | None = Field(
            None, description="inner width; default 8/3 d_model rounded up to multiple_of"
        )
        multiple_of: PositiveInt = Field(32, description="what the default inner width is a multiple of")
        bias: bool = Field(False, description="biases on all linear maps")

        def canonical_at(self, d_model: int) -> SwiGLU.Config:
            inner, usual = self.inner_width(d_model), SwiGLU.Config().inner_width(d_model)
            return SwiGLU.Config(d_ff=None if inner == usual else inner, bias=self.bias)

        def inner_width(self, d_model: int) -> int:
            """F."""
            return self.d_ff or -(-8 * d_model // (3 * self.multiple_of)) * self.multiple_of

        def cost(self, ctx: CostContext) -> Cost:
            D, F_ = ctx.d_model, self.inner_width(ctx.d_model)
            params = 3 * D * F_ + (2 * F_ + D if self.bias else 0)
            hidden = ctx.tokens * F_
            flops = 2 * ctx.tokens * 3 * D * F_
            return Cost(
                params=params,
                params_active=params,
                flops=flops,
                flops_needed=flops,
                flops_elementwise=3 * hidden + (2 * hidden + ctx.tokens * D if self.bias else 0),
                bytes_moved=ctx.item_bytes * (params + 2 * ctx.tokens * D + 6 * hidden),
                activation_bytes=ctx.item_bytes
                * (ctx.tokens * D + 4 * hidden),  # x, both halves, silu, W2's input
                workspace_bytes=ctx.item_bytes * 4 * hidden,
            )

        def capabilities(self) -> Capabilities:
            return Capabilities(causal="always", decode="constant", mixes_tokens=False)

    config: Config
    examples: ClassVar = (Config(), Config(d_ff=20), Config(multiple_of=7, bias=True))

    def __init__(self, config: Config, site: Site):
        super().__init__(config, site)
        width = config.inner_width(site.d_model)
        self.up = nn.Linear(site.d_model, 2 * width, bias=config.bias)
        self.down = nn.Linear(width, site.d_model, bias=config.bias)
        if config.bias:
            nn.init.zeros_(self.up.bias)
            nn.init.zeros_(self.down.bias)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        gate, value = self.up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * value)

    def reference(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        width = self.down.in_features
        gate = x @ self.up.weight[:width].T
        value = x @ self.up.weight[width:].T
        if self.config.bias:
            gate, value = gate + self.up.bias[:width], value + self.up.bias[width:]
        y = (gate * torch.sigmoid(gate) * value) @ self.down.weight.T
        return y + self.down.bias if self.config.bias else y

    def init_state(self, batch_size: int, *, dtype: torch.dtype, device: torch.device | str) -> State:
        return {}

    def prefill(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        return self.forward(x), state

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        return self.forward(x), state
