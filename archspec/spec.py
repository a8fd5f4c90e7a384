"""The grammar of a model: input, stem, layers and blocks of layers, head.

A spec is what a user wrote with every default spelt out. ``Repeat``, ``Loop`` and ``Pattern`` are still in it;
the compiler's ``expand`` unrolls them.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    Discriminator,
    Field,
    PositiveInt,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

from archspec.closed import Closed
from archspec.components import (
    ChannelMixerSlot,
    HeadSlot,
    NormSlot,
    StemSlot,
    TokenMixerSlot,
    TransferSlot,
    spec_problem,
)
from archspec.inputs import Input, Width

Residual = Literal["pre", "post", "none"]
Count = Annotated[int, Field(ge=1, le=10_000)]


class Layer(Closed):
    """A token mixer, then a channel mixer, each with its norm and residual; either may be ``none``."""

    token_mixer: TokenMixerSlot
    channel_mixer: ChannelMixerSlot
    norm: NormSlot | None = Field(None, description="overrides the model's norm")
    residual: Residual | None = Field(None, description="overrides the model's residual")

    @model_validator(mode="before")
    @classmethod
    def _absent_mixer_is_none(cls, value: Any) -> Any:
        """A layer names at least one mixer; the other one defaults to ``none``."""
        if isinstance(value, dict) and ("token_mixer" in value or "channel_mixer" in value):
            return {"token_mixer": "none", "channel_mixer": "none"} | value
        return value


class Repeat(Closed):
    """Untied copies of a list of layers, one after the other."""

    repeat: Count
    layers: Layers


class Loop(Closed):
    """The same weights applied several times; each turn keeps its own state."""

    loop: Count
    layers: Layers


class Pattern(Closed):
    """Layers written as a string, one symbol per layer, as Megatron and Nemotron write hybrids."""

    pattern: Annotated[str, Field(min_length=1, max_length=10_000)]
    symbols: dict[Annotated[str, Field(min_length=1, max_length=1)], Layer]

    @field_validator("symbols", mode="before")
    @classmethod
    def _bare_kinds(cls, value: Any, info: ValidationInfo) -> Any:
        """A bare kind or a mapping with ``kind`` is a layer of that mixer alone."""
        if not isinstance(value, dict):
            return value
        return {symbol: _as_layer(layer, info) for symbol, layer in value.items()}

    @model_validator(mode="after")
    def _symbols_known(self) -> Pattern:
        for symbol in self.pattern:
            if symbol not in self.symbols:
                raise spec_problem(
                    f"pattern symbol '{symbol}' is not among the symbols",
                    f"symbols here: {', '.join(sorted(self.symbols))}",
                )
        return self


def _as_layer(value: Any, info: ValidationInfo) -> Any:
    kind = value.get("kind") if isinstance(value, dict) else value
    if not isinstance(kind, str):
        return value
    table = info.context
    is_channel = (
        table is not None and kind in table.of("channel_mixer") and kind not in table.of("token_mixer")
    )
    return {"channel_mixer" if is_channel else "token_mixer": value}


class Fit(Closed):
    """FIT: local layers on groups of tokens, global layers on latents, latents read from and write to their group."""

    n_groups: Count = Field(description="contiguous groups the sequence is cut into; divides seq_len")
    n_latents: Count = Field(description="latents of each group")
    d_latent: Width = Field(description="width of the latent stream")
    schedule: str = Field(description="'(2)4(2)': two local layers, four global ones, two local ones")
    local: Layer = Field(description="a layer on the tokens inside each group")
    global_: Layer = Field(alias="global", description="a layer on the latents of all groups")
    positions: Literal["none", "learned"] = Field(
        "none", description="learned: one vector per position inside a group, shared by the groups"
    )
    read: TransferSlot = Field(
        "read", validate_default=True, description="latents attend to their group's tokens"
    )
    write: TransferSlot = Field("write", validate_default=True, description="tokens attend to latents")

    @field_validator("schedule")
    @classmethod
    def _parses(cls, value: str) -> str:
        parse_schedule(value)
        return value


def parse_schedule(schedule: str) -> tuple[tuple[int, int], ...]:
    """``"(2)4(2)"`` -> ((2, 4), (2, 0)): local and global layers of each block; only the last may have no globals."""
    text = schedule.replace(" ", "")
    if not re.fullmatch(r"(\(\d+\)\d+)*\(\d+\)\d*", text):
        raise spec_problem(f"schedule '{schedule}' is not of the form '(2)4(2)' or '(1)2(1)2'")
    pairs = tuple((int(a), int(b or 0)) for a, b in re.findall(r"\((\d+)\)(\d*)", text))
    if any(n_global == 0 for _, n_global in pairs[:-1]):
        raise spec_problem(f"schedule '{schedule}': only the last block may have no global layers")
    return pairs


class FitBlock(Closed):
    """A FIT block among the layers; its latents live inside it."""

    fit: Fit


_BLOCKS = ("repeat", "loop", "pattern", "fit")


def _entry_kind(value: Any) -> str:
    if isinstance(value, dict):
        return next((key for key in _BLOCKS if key in value), "layer")
    kinds: dict[type, str] = {Repeat: "repeat", Loop: "loop", Pattern: "pattern", FitBlock: "fit"}
    return kinds.get(type(value), "layer")


Entry = Annotated[
    Annotated[Layer, Tag("layer")]
    | Annotated[Repeat, Tag("repeat")]
    | Annotated[Loop, Tag("loop")]
    | Annotated[Pattern, Tag("pattern")]
    | Annotated[FitBlock, Tag("fit")],
    Discriminator(_entry_kind),
]
Layers = Annotated[tuple[Entry, ...], Field(min_length=1)]


class ModelSpec(Closed):
    """A whole model. Frozen; ``archspec.identity.spec_hash`` is its identity."""

    archspec: Literal[1] = Field(description="version of the language")
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]{0,99}$")] = "model"
    description: Annotated[str, Field(max_length=2_000)] = ""
    input: Input
    causal: bool = Field(
        description="a promise: output t depends on inputs up to t only; the compiler tests it"
    )
    d_model: Width
    norm: NormSlot = Field("rmsnorm", validate_default=True)
    residual: Residual = "pre"
    stem: StemSlot
    layers: Layers
    head: HeadSlot


Repeat.model_rebuild()
Loop.model_rebuild()
