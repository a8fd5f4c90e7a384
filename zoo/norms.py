"""Normalisations over the last dimension, computed in fp32 or wider whatever the input's type.

RMSNorm: x / sqrt(mean(x^2) + eps) * weight (Zhang & Sennrich 2019, arXiv:1910.07467).
LayerNorm: (x - mean(x)) / sqrt(var(x) + eps) * weight + bias (Ba et al. 2016, arXiv:1607.06450).
eps defaults to 1e-5 for both. The output has the input's type.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import BeforeValidator, Field, model_validator
from torch import Tensor, nn

from archspec import Cost, CostContext, NormConfig
from archspec.components import spec_problem
from zoo.contract import Norm, ParamHint

Epsilon = Annotated[float, Field(gt=0, le=1)]


class RMSNorm(Norm):
    class Config(NormConfig):
        paper: ClassVar[str] = "Zhang & Sennrich 2019, arXiv:1910.07467"
        kind: Literal["rmsnorm"] = "rmsnorm"
        eps: Epsilon = Field(1e-5, description="added to the mean square")

        def cost(self, ctx: CostContext) -> Cost:
            return _norm_cost(ctx, n_vectors=1, n_kept=2, n_statistics=1, operations=4)

    config: Config
    examples: ClassVar = (Config(), Config(eps=0.25))

    def __init__(self, config: Config, d_model: int):
        super().__init__(config, d_model)
        self.weight = nn.Parameter(torch.ones(d_model))

    def forward(self, x: Tensor) -> Tensor:
        wide = _widen(x)
        y = F.rms_norm(wide, (x.shape[-1],), self.weight.to(wide.dtype), self.config.eps)
        return y.to(x.dtype)

    def reference(self, x: Tensor) -> Tensor:
        wide = _widen(x)
        y = wide / (wide.square().mean(-1, keepdim=True) + self.config.eps).sqrt()
        return (y * self.weight).to(x.dtype)

    def param_hints(self) -> dict[str, ParamHint]:
        return {name: ParamHint(no_weight_decay=True) for name, _ in self.named_parameters()}


class LayerNorm(Norm):
    class Config(NormConfig):
        paper: ClassVar[str] = "Ba et al. 2016, arXiv:1607.06450"
        kind: Literal["layernorm"] = "layernorm"
        eps: Epsilon = Field(1e-5, description="added to the variance")
        affine: bool = Field(True, description="a learned scale per channel")
        bias: bool = Field(True, description="a learned shift per channel (needs affine)")

        @model_validator(mode="before")
        @classmethod
        def _no_bias_without_affine(cls, value: Any) -> Any:
            if isinstance(value, dict) and value.get("affine") is False:
                if value.get("bias") is True:
                    raise spec_problem("'bias' is true but 'affine' is false: a shift alone is not offered")
                return {**value, "bias": False}
            return value

        def cost(self, ctx: CostContext) -> Cost:
            return _norm_cost(ctx, n_vectors=self.affine + self.bias, n_kept=1, n_statistics=2, operations=6)

    config: Config
    examples: ClassVar = (Config(), Config(eps=1e-12, bias=False), Config(eps=0.25, affine=False))

    def __init__(self, config: Config, d_model: int):
        super().__init__(config, d_model)
        self.weight = nn.Parameter(torch.ones(d_model)) if config.affine else None
        self.bias = nn.Parameter(torch.zeros(d_model)) if config.bias else None

    def forward(self, x: Tensor) -> Tensor:
        wide = _widen(x)
        weight = None if self.weight is None else self.weight.to(wide.dtype)
        bias = None if self.bias is None else self.bias.to(wide.dtype)
        return F.layer_norm(wide, (x.shape[-1],), weight, bias, self.config.eps).to(x.dtype)

    def reference(self, x: Tensor) -> Tensor:
        wide = _widen(x)
        centred = wide - wide.mean(-1, keepdim=True)
        y = centred / (centred.square().mean(-1, keepdim=True) + self.config.eps).sqrt()
        if self.weight is not None:
            y = y * self.weight
        if self.bias is not None:
            y = y + self.bias
        return y.to(x.dtype)

    def param_hints(self) -> dict[str, ParamHint]:
        return {name: ParamHint(no_weight_decay=True) for name, _ in self.named_parameters()}


def _bare_kind(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


# A norm inside another component's configuration: a kind or a mapping, as everywhere in the language.
InnerNorm = Annotated[
    RMSNorm.Config | LayerNorm.Config,
    Field(discriminator="kind"),
    BeforeValidator(
        _bare_kind, json_schema_input_type=Literal["rmsnorm", "layernorm"] | RMSNorm.Config | LayerNorm.Config
    ),
]


def build_norm(config: RMSNorm.Config | LayerNorm.Config, d_model: int) -> Norm:
    """The norm that an ``InnerNorm`` field configures."""
    return RMSNorm(config, d_model) if isinstance(config, RMSNorm.Config) else LayerNorm(config, d_model)


def _widen(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _norm_cost(ctx: CostContext, *, n_vectors: int, n_kept: int, n_statistics: int, operations: int) -> Cost:
    """``n_kept`` tensors of the input's size are kept for the backward pass.

    On the CPU torch keeps an RMSNorm's input and its normalised form; the fused CUDA kernel keeps the input
    alone.
    """
    params = n_vectors * ctx.d_model
    elements = ctx.tokens * ctx.d_model
    wide_bytes = max(4, ctx.item_bytes)
    return Cost(
        params=params,
        params_active=params,
        flops_elementwise=operations * elements,
        bytes_moved=2 * ctx.item_bytes * elements + 4 * params,
        activation_bytes=wide_bytes * (n_kept * elements + n_statistics * ctx.tokens),
        workspace_bytes=0 if wide_bytes == ctx.item_bytes else 2 * wide_bytes * elements,
    )
