"""A score for every word at the masked positions (BERT; Devlin et al. 2018, arXiv:1810.04805).

    logits_t = W norm(gelu(dense x_t)) + bias

It scores every position; the task says which ones count. The transform before the matrix can be left out.
The matrix is the stem's table by default (``tied``); with ``d_embed`` the dense map narrows the stream to a
factorised stem's width. A matrix of its own starts normal with standard deviation 0.02.

Shapes: B batch, L length, D d_model, E d_embed (or D), V vocab_size.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from archspec import Cost, CostContext, Input, Site, TokenInput
from archspec.components import spec_problem
from archspec.inputs import Width
from zoo.contract import Head, HeadConfig, ParamHint, Stem, StemConfig
from zoo.norms import InnerNorm, LayerNorm, RMSNorm, build_norm
from zoo.token_head import token_head_misfit


class MaskedLMHead(Head):
    class Config(HeadConfig):
        paper: ClassVar[str] = "Devlin et al. 2018, arXiv:1810.04805"
        kind: Literal["masked_lm"] = "masked_lm"
        tied: bool = Field(True, description="share the matrix of the stem's token table")
        bias: bool = Field(True, description="one bias per word")
        transform: bool = Field(True, description="dense map, gelu and norm before the matrix")
        norm: InnerNorm = Field(LayerNorm.Config(eps=1e-12), description="the norm of the transform")
        d_embed: Width | None = Field(
            None, description="width after the transform (a factorised stem's d_embed)"
        )

        @model_validator(mode="after")
        def _norm_needs_transform(self) -> MaskedLMHead.Config:
            if not self.transform and self.norm != LayerNorm.Config(eps=1e-12):
                raise spec_problem("'norm' is that of the transform, but 'transform' is false")
            return self

        @property
        def is_tied(self) -> bool:
            return self.tied

        def output_width(self, input: Input) -> int:
            assert isinstance(input, TokenInput)
            return input.vocab_size

        def input_misfit(self, input: Input) -> str | None:
            if not isinstance(input, TokenInput):
                return f"head 'masked_lm' needs input of kind 'tokens', not '{input.kind}'"
            return None

        def stem_misfit(self, stem: StemConfig, d_model: int) -> str | None:
            return token_head_misfit(self, stem, self.d_embed or d_model, d_model)

        def smells(self, site: Site) -> list[str]:
            return [
                "head 'masked_lm' in a causal model: masked words are guessed from the left alone"
            ] * site.causal

        def cost(self, ctx: CostContext) -> Cost:
            assert ctx.input is not None, "the cost of a head needs the input"
            D, E, V = ctx.d_model, self.d_embed or ctx.d_model, self.output_width(ctx.input)
            has_dense = self.transform or self.d_embed is not None
            dense = D * E if has_dense else 0
            params = (0 if self.tied else V * E) + (V if self.bias else 0) + (dense + E if has_dense else 0)
            flops = 2 * ctx.tokens * (dense + E * V)
            n_between = has_dense + 2 * self.transform  # tensors of width E between dense map, gelu and norm
            cost = Cost(
                params=params,
                params_active=params,
                flops=flops,
                flops_needed=flops,
                flops_elementwise=ctx.tokens * ((V if self.bias else 0) + n_between * E),
                bytes_moved=ctx.item_bytes * (V * E + dense + ctx.tokens * (D + V + 2 * n_between * E)),
                activation_bytes=ctx.item_bytes * ctx.tokens * (D + (has_dense + self.transform) * E),
                workspace_bytes=ctx.item_bytes * ctx.tokens * min(n_between, 2) * E,
            )
            return cost + self.norm.cost(replace(ctx, d_model=E)) if self.transform else cost

    config: Config
    examples: ClassVar = (
        Config(),
        Config(tied=False, bias=False, norm=RMSNorm.Config()),
        Config(tied=False, transform=False),
        Config(tied=False, d_embed=12),
    )

    def __init__(self, config: Config, site: Site, input: Input):
        super().__init__()
        self.config = config
        n_words, width = config.output_width(input), config.d_embed or site.d_model
        has_dense = config.transform or config.d_embed is not None
        self.dense = nn.Linear(site.d_model, width) if has_dense else None
        self.norm = build_norm(config.norm, width) if config.transform else None
        self.weight = None if config.tied else nn.Parameter(0.02 * torch.randn(n_words, width))
        self.bias = nn.Parameter(torch.zeros(n_words)) if config.bias else None
        if self.dense is not None:
            nn.init.zeros_(self.dense.bias)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        assert self.weight is not None, "a tied head is used before tie()"
        if self.dense is not None:
            x = self.dense(x)
        if self.norm is not None:
            x = self.norm(F.gelu(x))
        return F.linear(x, self.weight, self.bias)

    def reference(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        assert self.weight is not None
        if self.dense is not None:
            x = torch.einsum("...d,ed->...e", x, self.dense.weight) + self.dense.bias
        if self.norm is not None:
            x = self.norm.reference(x * 0.5 * (1 + torch.erf(x / 2**0.5)))
        logits = torch.einsum("...e,ve->...v", x, self.weight)
        return logits if self.bias is None else logits + self.bias

    def tie(self, stem: Stem) -> None:
        self.weight = stem.table()

    def param_hints(self) -> dict[str, ParamHint]:
        names = (n for n, _ in self.named_parameters() if n == "bias" or n.startswith("norm."))
        return {n: ParamHint(no_weight_decay=True) for n in names}
