"""One score per class for the whole sequence, from the mean, the last real or the first (cls) position.

    scores = W pool(x) + b

The mean leaves padded positions out; ``last`` takes the last position that holds a real token; ``cls``
takes position 0, which the stem's ``cls_token`` provides. The matrix starts normal with standard deviation
0.02.

Shapes: B batch, L length, D d_model, V n_classes.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from archspec import Capabilities, Cost, CostContext, Input, Site
from archspec.inputs import Width
from zoo.contract import Head, HeadConfig, StemConfig


class Classifier(Head):
    class Config(HeadConfig):
        kind: Literal["classifier"] = "classifier"
        n_classes: Width = Field(description="number of classes, or of regression targets")
        pool: Literal["mean", "last", "cls"] = Field("mean", description="what stands for the sequence")
        bias: bool = Field(True, description="one bias per class")

        @property
        def per_position(self) -> bool:
            return False

        def output_width(self, input: Input) -> int:
            return self.n_classes

        def stem_misfit(self, stem: StemConfig, d_model: int) -> str | None:
            if self.pool == "cls" and not stem.has_cls:
                return "'pool' is 'cls', but the stem has no cls position ('cls_token: true' adds one)"
            return None

        def misfit(self, site: Site) -> str | None:
            if self.pool == "cls" and site.causal:
                return "'pool' is 'cls', but in a causal model the first position sees no other token"
            return None

        def capabilities(self) -> Capabilities:
            decode: Literal["none", "constant"] = "constant" if self.pool == "last" else "none"
            return Capabilities(causal="always", decode=decode)

        def cost(self, ctx: CostContext) -> Cost:
            D, V = ctx.d_model, self.n_classes
            params = D * V + (V if self.bias else 0)
            flops = 2 * ctx.batch_size * D * V
            pooled = ctx.tokens * D if self.pool == "mean" else 0
            return Cost(
                params=params,
                params_active=params,
                flops=flops,
                flops_needed=flops,
                flops_elementwise=2 * pooled + (ctx.batch_size * V if self.bias else 0),
                bytes_moved=ctx.item_bytes * (pooled + params + ctx.batch_size * (D + V)),
                # The mean makes a vector of its own; the others keep the stream that they point into.
                activation_bytes=ctx.item_bytes * D * (ctx.batch_size if self.pool == "mean" else ctx.tokens),
            )

    config: Config
    examples: ClassVar = (
        Config(n_classes=10),
        Config(n_classes=3, pool="last", bias=False),
        Config(n_classes=1, pool="cls"),
    )

    def __init__(self, config: Config, site: Site, input: Input):
        super().__init__()
        self.config = config
        self.scores = nn.Linear(site.d_model, config.n_classes, bias=config.bias)
        nn.init.normal_(self.scores.weight, std=0.02)
        if config.bias:
            nn.init.zeros_(self.scores.bias)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.scores(x if x.ndim == 2 else self._pool(x, mask))

    def reference(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        pooled = []
        for b, row in enumerate(x):
            real = row if mask is None or self.config.pool == "cls" else row[mask[b]]
            match self.config.pool:
                case "mean":
                    pooled.append(real.mean(0))
                case "last":
                    pooled.append(real[-1])
                case "cls":
                    pooled.append(real[0])
        y = torch.stack(pooled) @ self.scores.weight.T
        return y + self.scores.bias if self.config.bias else y

    def _pool(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, L, D) -> (B, D)."""
        if self.config.pool == "cls":
            return x[:, 0]
        if mask is None:
            return x[:, -1] if self.config.pool == "last" else x.mean(1)
        if self.config.pool == "last":
            last = torch.where(mask, torch.arange(x.shape[1], device=x.device), 0).amax(1)  # (B,)
            return x.gather(1, last[:, None, None].expand(-1, 1, x.shape[-1]))[:, 0]
        return x.masked_fill(~mask[..., None], 0).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
