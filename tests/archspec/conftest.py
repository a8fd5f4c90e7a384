"""A small table of components, so that tests of the language need no zoo and no torch."""

from __future__ import annotations

from typing import Literal

import pytest
from pydantic import Field, PositiveInt

from archspec import Capabilities, ComponentConfig, Cost, CostContext, MixerConfig, NormConfig
from archspec.components import Components


class _Mixer(MixerConfig):
    def cost(self, ctx: CostContext) -> Cost:
        return Cost()

    def capabilities(self) -> Capabilities:
        return Capabilities(causal="switch")


class _Other(ComponentConfig):
    def cost(self, ctx: CostContext) -> Cost:
        return Cost()

    def capabilities(self) -> Capabilities:
        return Capabilities(causal="always")


class Attention(_Mixer):
    kind: Literal["attention"] = "attention"
    n_heads: PositiveInt = 4
    window: PositiveInt | None = Field(None, description="how far back it reads")
    dropout: float = Field(0.0, ge=0, lt=1)


class Mamba2(_Mixer):
    kind: Literal["mamba2"] = "mamba2"
    d_state: PositiveInt = 64


class NoMixer(_Mixer):
    kind: Literal["none"] = "none"


class Mlp(_Mixer):
    kind: Literal["mlp"] = "mlp"
    d_ff: PositiveInt | None = None


class SwiGlu(_Mixer):
    kind: Literal["swiglu"] = "swiglu"
    d_ff: PositiveInt = Field(128, multiple_of=2)
    bias: bool = False


class _Norm(NormConfig):
    def cost(self, ctx: CostContext) -> Cost:
        return Cost()


class RmsNorm(_Norm):
    kind: Literal["rmsnorm"] = "rmsnorm"
    eps: float = 1e-5


class LayerNorm(_Norm):
    kind: Literal["layernorm"] = "layernorm"


class Embedding(_Other):
    kind: Literal["embedding"] = "embedding"
    positions: Literal["none", "learned"] = "none"


class Patch(_Other):
    kind: Literal["patch"] = "patch"
    patch_size: PositiveInt  # needed, so a bare kind will not do


class Lm(_Other):
    kind: Literal["lm"] = "lm"
    tied: bool = False


class Read(_Other):
    kind: Literal["read"] = "read"
    n_heads: PositiveInt = 4


class Write(_Other):
    kind: Literal["write"] = "write"


@pytest.fixture(scope="session")
def components() -> Components:
    """The table that specs are validated against."""
    return Components(
        {
            "token_mixer": {"attention": Attention, "mamba2": Mamba2, "none": NoMixer},
            "channel_mixer": {"mlp": Mlp, "swiglu": SwiGlu, "none": NoMixer},
            "norm": {"rmsnorm": RmsNorm, "layernorm": LayerNorm},
            "stem": {"embedding": Embedding, "patch": Patch},
            "head": {"lm": Lm},
            "transfer": {"read": Read, "write": Write},
        }
    )
