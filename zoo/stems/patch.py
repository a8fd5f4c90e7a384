"""Patches to tokens: squares of an image (Dosovitskiy et al. 2020, arXiv:2010.11929) or runs of vectors.

    x_j = norm(W patch_j + b) + positions[j]

An image (B, C, H, W) gives its ``size`` x ``size`` squares row by row; features (B, L, C) give ceil(L /
size) runs of ``size`` vectors, the last one filled with zeros, as are padded positions. A run is real where
any of its vectors is. Output j sees its own patch alone, so causality counts in patches. A cls token is a
learned vector put first. With ``tile`` the squares go tile by tile, row by row inside each, so that a run of
``tile``^2 of them is a square piece of the image, as a group of FIT may be.

Shapes: B batch, P size, D d_model; N patches of P^2 C or P C values.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from archspec import Capabilities, Cost, CostContext, FeatureInput, ImageInput, Input, Site
from zoo.contract import ParamHint, Stem, StemConfig
from zoo.norms import InnerNorm, LayerNorm, RMSNorm, build_norm
from zoo.ops.patches import patches_of
from zoo.ops.positions import AbsolutePositions, Positions


class Patch(Stem):
    class Config(StemConfig):
        paper: ClassVar[str] = "Dosovitskiy et al. 2020, arXiv:2010.11929"
        kind: Literal["patch"] = "patch"
        size: int = Field(16, ge=1, le=4096, description="side of an image patch, or vectors in a run")
        positions: Positions = Field("none", description="absolute positions; learned: one vector per patch")
        tile: int | None = Field(
            None, ge=1, le=4096, description="of an image: squares of so many patches a side go one by one"
        )
        norm: InnerNorm | None = Field(None, description="normalises the projected patches")
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

        @property
        def tile_side(self) -> int | None:
            return self.tile

        @property
        def patch_size(self) -> int:
            return self.size

        def patch_width(self, input: Input) -> int:
            """Values in one patch."""
            if isinstance(input, ImageInput):
                return self.size**2 * input.n_channels
            assert isinstance(input, FeatureInput)
            return self.size * input.d_input

        def out_length(self, input: Input) -> int:
            if isinstance(input, ImageInput):
                return (input.height // self.size) * (input.width // self.size) + self.cls_token
            return -(-input.seq_len // self.size) + self.cls_token

        def input_misfit(self, input: Input) -> str | None:
            if isinstance(input, ImageInput) and (input.height % self.size or input.width % self.size):
                sides = f"{input.height} x {input.width}"
                return f"'size' ({self.size}) must divide the image's height and width ({sides})"
            side = self.size * (self.tile or 1)
            if isinstance(input, ImageInput) and (input.height % side or input.width % side):
                sides = f"{input.height} x {input.width}"
                return f"'tile' ({self.tile}) * 'size' ({self.size}) must divide the image's sides ({sides})"
            if self.tile is not None and isinstance(input, FeatureInput):
                return f"'tile' ({self.tile}) is for images, not for input of kind '{input.kind}'"
            if not isinstance(input, (ImageInput, FeatureInput)):
                return f"stem 'patch' takes input of kind 'image' or 'features', not '{input.kind}'"
            return None

        def capabilities(self) -> Capabilities:
            return Capabilities(causal="always", mixes_tokens=self.size > 1)

        def cost(self, ctx: CostContext) -> Cost:
            assert ctx.input is not None, "the cost of a patch stem needs the input"
            P, D = self.patch_width(ctx.input), ctx.d_model
            n_rows = (ctx.max_len or self.out_length(ctx.input)) if self.positions == "learned" else 0
            n_patches = ctx.tokens - (ctx.batch_size if self.cls_token else 0)
            params = P * D + D * (self.bias + self.cls_token + n_rows)
            cost = Cost(
                params=params,
                params_active=params,
                params_embedding=D * n_rows,
                flops=2 * n_patches * P * D,
                flops_needed=2 * n_patches * P * D,
                flops_elementwise=D * (self.bias * n_patches + self.gives_positions * ctx.tokens),
                bytes_moved=ctx.item_bytes
                * (P * D + n_patches * (3 * P + D) + 3 * self.gives_positions * ctx.tokens * D),
                activation_bytes=ctx.item_bytes * n_patches * P + 8 * ctx.seq_len * (n_rows > 0),
                workspace_bytes=ctx.item_bytes * n_patches * P,
            )
            return (
                cost
                if self.norm is None
                else cost + self.norm.cost(replace(ctx, batch_size=1, seq_len=n_patches))
            )

        def backward_flops(self, ctx: CostContext, forward: Cost) -> tuple[int, int]:
            """Of the weights' gradient alone: nothing asks for that of the raw input."""
            return forward.flops, forward.flops_needed

    config: Config
    examples: ClassVar = (
        Config(size=2),
        Config(size=4, norm=LayerNorm.Config(eps=1e-6), positions="learned", cls_token=True, init_std=1.0),
        Config(size=1, positions="sinusoidal", bias=False, norm=RMSNorm.Config()),
        Config(size=2, tile=2, positions="learned"),
    )

    def __init__(self, config: Config, site: Site, input: Input):
        super().__init__()
        self.config = config
        D, std = site.d_model, config.init_std
        self._image = isinstance(input, ImageInput)
        self.project = nn.Linear(config.patch_width(input), D, bias=config.bias)
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
        x = self.project(self._cut(inputs) if self._image else self._runs(inputs, mask))  # (B, N, D)
        if self.norm is not None:
            x = self.norm(x)
        if self.cls is not None:
            x = torch.cat([self.cls.expand(x.shape[0], 1, -1), x], dim=1)
        return x if self.positions is None else self.positions(x)

    def reference(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        P = self.config.size
        if self._image:
            _, _, H, W = inputs.shape
            side = P * (self.config.tile or max(H, W))
            corners = [
                (i, j)
                for top, left in itertools.product(range(0, H, side), range(0, W, side))
                for i in range(top, min(top + side, H), P)
                for j in range(left, min(left + side, W), P)
            ]
            patches = [inputs[:, :, i : i + P, j : j + P].flatten(1) for i, j in corners]
        else:
            real = inputs if mask is None else torch.where(mask[..., None], inputs, 0.0)
            width = self.project.in_features
            runs = [real[:, i : i + P].flatten(1) for i in range(0, inputs.shape[1], P)]
            patches = [F.pad(run, (0, width - run.shape[1])) for run in runs]
        x = torch.stack([patch @ self.project.weight.T for patch in patches], dim=1)
        if self.config.bias:
            x = x + self.project.bias
        if self.norm is not None:
            x = self.norm.reference(x)
        if self.cls is not None:
            x = torch.stack([torch.cat([self.cls[None], row]) for row in x])
        return x if self.positions is None else self.positions.reference(x)

    def out_mask(self, mask: Tensor) -> Tensor:
        P = self.config.size
        padded = F.pad(mask, (0, -mask.shape[1] % P), value=False)
        runs = padded.view(mask.shape[0], -1, P).any(-1)
        return F.pad(runs, (1, 0), value=True) if self.config.cls_token else runs

    def param_hints(self) -> dict[str, ParamHint]:
        return {
            n: ParamHint(no_weight_decay=True) for n, _ in self.named_parameters() if n != "project.weight"
        }

    def _cut(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, N, C P P)."""
        return patches_of(images, size=self.config.size, tile=self.config.tile)

    def _runs(self, features: Tensor, mask: Tensor | None) -> Tensor:
        """(B, L, C) -> (B, N, P C)."""
        P = self.config.size
        B, L, C = features.shape
        if mask is not None:
            features = features.masked_fill(~mask[..., None], 0)
        return F.pad(features, (0, 0, 0, -L % P)).reshape(B, -1, P * C)
