"""For every position as many numbers as it was made of: a patch's pixels, or the noise in them.

    y_t = W x_t + b

FIT's denoiser ends so (Chen & Li 2023, arXiv:2305.12689; the authors' code), after the model's norm. With a
patch stem ``size`` is that stem's; ``zoo/ops/patches.py`` makes an image of the patches. The matrix starts
normal with deviation 0.02.

Shapes: B batch, L length, D d_model, V values per position.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from archspec import Cost, CostContext, FeatureInput, ImageInput, Input, Site
from zoo.contract import Head, HeadConfig, StemConfig


class Denoiser(Head):
    class Config(HeadConfig):
        paper: ClassVar[str] = "Chen & Li 2023, arXiv:2305.12689"
        kind: Literal["denoiser"] = "denoiser"
        size: int = Field(1, ge=1, le=4096, description="the stem's: side of a patch, or length of a run")
        bias: bool = Field(True, description="one bias per value")

        def output_width(self, input: Input) -> int:
            if isinstance(input, ImageInput):
                return self.size**2 * input.n_channels
            assert isinstance(input, FeatureInput)
            return self.size * input.d_input

        def input_misfit(self, input: Input) -> str | None:
            if not isinstance(input, (ImageInput, FeatureInput)):
                return f"head 'denoiser' needs input of kind 'image' or 'features', not '{input.kind}'"
            return None

        def stem_misfit(self, stem: StemConfig, d_model: int) -> str | None:
            if stem.has_cls:
                return (
                    "head 'denoiser' gives one output per patch, but the stem's 'cls_token' adds a position"
                )
            if (size := stem.patch_size) != self.size:
                return f"head 'denoiser' has 'size' {self.size}, but the stem's positions are of size {size}"
            return None

        def cost(self, ctx: CostContext) -> Cost:
            assert ctx.input is not None, "the cost of a head needs the input"
            D, V = ctx.d_model, self.output_width(ctx.input)
            params = D * V + (V if self.bias else 0)
            flops = 2 * ctx.tokens * D * V
            return Cost(
                params=params,
                params_active=params,
                flops=flops,
                flops_needed=flops,
                flops_elementwise=ctx.tokens * V if self.bias else 0,
                bytes_moved=ctx.item_bytes * (params + ctx.tokens * (D + V)),
                activation_bytes=ctx.item_bytes * ctx.tokens * D,
            )

    config: Config
    examples: ClassVar = (Config(), Config(size=2, bias=False))

    def __init__(self, config: Config, site: Site, input: Input):
        super().__init__()
        self.values = nn.Linear(site.d_model, config.output_width(input), bias=config.bias)
        nn.init.normal_(self.values.weight, std=0.02)
        if config.bias:
            nn.init.zeros_(self.values.bias)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        y: Tensor = self.values(x)
        return y

    def reference(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        y = torch.einsum("...d,vd->...v", x, self.values.weight)
        return y if self.values.bias is None else y + self.values.bias
