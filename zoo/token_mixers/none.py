"""No token mixer: the layer is its channel mixer alone, as the "-" of a Megatron pattern.

It contributes nothing: the compiler drops it together with its norm and residual. On its own it returns its
input.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from archspec import Capabilities, Cost, CostContext, MixerConfig
from zoo.contract import Mixer, State


class NoTokenMixer(Mixer):
    class Config(MixerConfig):
        kind: Literal["none"] = "none"

        def cost(self, ctx: CostContext) -> Cost:
            return Cost()

        def capabilities(self) -> Capabilities:
            return Capabilities(causal="always", decode="constant", mixes_tokens=False, complexity="1")

    examples: ClassVar = (Config(),)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return x

    def reference(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return x

    def init_state(self, batch_size: int, *, dtype: torch.dtype, device: torch.device | str) -> State:
        return {}

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        return x, state
