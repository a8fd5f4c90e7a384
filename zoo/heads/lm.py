"""A score for every word at every position, by the stem's table (tied) or by a matrix of its own.

    logits_t = W x_t + bias            with d_embed:  logits_t = W (project x_t) + bias

``d_embed`` narrows the stream first, by a linear map with bias; a tied head must have the stem's width
there. A matrix of its own starts normal with standard deviation 0.02; the bias is off by default.

Shapes: B batch, L length, D d_model, E d_embed (or D), V vocab_size.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from archspec import Cost, CostContext, Input, Site, TokenInput
from archspec.inputs import Width
from zoo.contract import Head, HeadConfig, Stem, StemConfig
from zoo.token_head import token_head_misfit


class LMHead(Head):
    class Config(HeadConfig):
        kind: Literal["lm"] = "lm"
        tied: bool = Field(False, description="share the matrix of the stem's token table")
        bias: bool = Field(False, description="one bias per word")
        d_embed: Width | None = Field(
            None, description="project to this width first (a factorised stem's d_embed)"
        )

        @property
        def is_tied(self) -> bool:
            return self.tied

        def output_width(self, input: Input) -> int:
            assert isinstance(input, TokenInput)
            return input.vocab_size

        def input_misfit(self, input: Input) -> str | None:
            if not isinstance(input, TokenInput):
                return f"head 'lm' needs input of kind 'tokens', not '{input.kind}'"
            return None

        def stem_misfit(self, stem: StemConfig, d_model: int) -> str | None:
            return token_head_misfit(self, stem, self.d_embed or d_model, d_model)

        def cost(self, ctx: CostContext) -> Cost:
            assert ctx.input is not None, "the cost of a head needs the input"
            D, E, V = ctx.d_model, self.d_embed or ctx.d_model, self.output_width(ctx.input)
            project = D * E if self.d_embed else 0
            params = (
                (0 if self.tied else V * E) + (V if self.bias else 0) + (project + E if self.d_embed else 0)
            )
            flops = 2 * ctx.tokens * (project + E * V)
            return Cost(
                params=params,
                params_active=params,
                flops=flops,
                flops_needed=flops,
                flops_elementwise=ctx.tokens * ((V if self.bias else 0) + (E if self.d_embed else 0)),
                bytes_moved=ctx.item_bytes
                * (V * E + project + ctx.tokens * (D + V + (2 * E if self.d_embed else 0))),
                activation_bytes=ctx.item_bytes * ctx.tokens * (D + (E if self.d_embed else 0)),
                workspace_bytes=ctx.item_bytes * ctx.tokens * E if self.d_embed else 0,
            )

    config: Config
    examples: ClassVar = (Config(), Config(tied=True, bias=True), Config(d_embed=12, bias=True))

    def __init__(self, config: Config, site: Site, input: Input):
        super().__init__()
        self.config = config
        n_words, width = config.output_width(input), config.d_embed or site.d_model
        self.project = nn.Linear(site.d_model, width) if config.d_embed else None
        self.weight = None if config.tied else nn.Parameter(torch.empty(n_words, width))
        self.bias = nn.Parameter(torch.zeros(n_words)) if config.bias else None
        if self.weight is not None:
            nn.init.normal_(self.weight, std=0.02)
        if self.project is not None:
            nn.init.zeros_(self.project.bias)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        assert self.weight is not None, "a tied head is used before tie()"
        if self.project is not None:
            x = self.project(x)
        return F.linear(x, self.weight, self.bias)

    def reference(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        assert self.weight is not None
        if self.project is not None:
            x = x @ self.project.weight.T + self.project.bias
        logits = torch.einsum("...e,ve->...v", x, self.weight)
        return logits if self.bias is None else logits + self.bias

    def tie(self, stem: Stem) -> None:
        self.weight = stem.table()
