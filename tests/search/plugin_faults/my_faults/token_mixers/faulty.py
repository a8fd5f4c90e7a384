"""A linear map of each token that fails in training as its ``fault`` says. Paper: none (arXiv: none)."""

from __future__ import annotations

import ctypes
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from archspec import Capabilities, Cost, CostContext, MixerConfig, Site
from zoo.contract import Mixer


class Faulty(Mixer):
    """Sound in evaluation."""

    class Config(MixerConfig):
        kind: Literal["faulty"] = "faulty"
        fault: Literal["nan", "segfault"] = "nan"

        def cost(self, ctx: CostContext) -> Cost:
            flops = 2 * ctx.tokens * ctx.d_model * ctx.d_model
            return Cost(params=ctx.d_model**2, params_active=ctx.d_model**2, flops=flops, flops_needed=flops)

        def capabilities(self) -> Capabilities:
            return Capabilities(causal="switch", decode="constant")

    config: Config
    examples: ClassVar = (Config(), Config(fault="segfault"))

    def __init__(self, config: Config, site: Site):
        super().__init__(config, site)
        self.out = nn.Linear(site.d_model, site.d_model, bias=False)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if self.training and torch.is_grad_enabled() and x.requires_grad:
            if self.config.fault == "segfault":
                ctypes.string_at(0)
            return self.out(x) * float("nan")
        return self.out(x)

    def reference(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.out(x)

    def init_state(
        self, batch_size: int, *, dtype: torch.dtype, device: torch.device | str
    ) -> dict[str, Tensor]:
        return {}

    def step(self, x: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        return self.out(x), state
