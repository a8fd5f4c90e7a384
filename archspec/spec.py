"""The grammar of a model: input, stem, layers and blocks of layers, head; perhaps an encoder.

A spec is what a user wrote with every default spelt out. ``Repeat``, ``Loop`` and ``Pattern`` are still in
it; the compiler's ``expand`` unrolls them.
"""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Discriminator,
    Field,
    PrivateAttr,
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
from archspec.condition import Condition
from archspec.document import Version, Written
from archspec.errors import Problem, shown
from archspec.inputs import Input, Width
from archspec.nodes import Path, path_text
from archspec.schedule import parse_schedule

if TYPE_CHECKING:
    from archspec.source import Source

Residual = Literal["pre", "post", "none"]
Count = Annotated[int, Field(ge=1, le=10_000)]
MAX_LAYERS = 10_000


class Layer(Closed):
    """A token mixer, then a channel mixer, each with its norm and residual; either may be ``none``.

    Between the two, ``cross`` reads what the model's encoder makes.
    """

    token_mixer: TokenMixerSlot
    cross: TransferSlot | None = Field(None, description="reads the encoder's output, between the two mixers")
    channel_mixer: ChannelMixerSlot
    norm: NormSlot | None = Field(None, description="overrides the model's norm")
    residual: Residual | None = Field(None, description="overrides the model's residual")

    @model_validator(mode="before")
    @classmethod
    def _absent_mixer_is_none(cls, value: Any) -> Any:
        """A layer names at least one mixer, or ``cross``; what is not named defaults to ``none``."""
        if value == {}:
            raise spec_problem("a layer needs a token_mixer or a channel_mixer")
        if isinstance(value, str):
            raise spec_problem(
                f"a layer is a mapping, got {shown(value)}",
                f"write {{token_mixer: {value}}} or channel_mixer",
            )
        if isinstance(value, dict):
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
    """FIT: local layers on groups of tokens, global layers on latents that read from and write to them."""

    n_groups: Count = Field(description="contiguous groups the sequence is cut into; divides seq_len")
    n_latents: Count = Field(description="latents of each group")
    d_latent: Width = Field(description="width of the latent stream")
    schedule: Annotated[str, Field(max_length=200)] = Field(
        description="'(2)4(2)': two local layers, four global ones, two local ones"
    )
    local: Layer = Field(description="a layer on the tokens inside each group")
    global_: Layer = Field(alias="global", description="a layer on the latents of all groups")
    positions: Literal["none", "learned", "sin_cos", "sin_cos_2d"] = Field(
        "none", description="of tokens inside a group, shared by the groups; 2d: groups are square pieces"
    )
    latent_positions: Literal["learned", "sin_cos"] = Field(
        "learned", description="initial values of the latents: learned, or codes of group and place"
    )
    read: TransferSlot = Field(
        "read", validate_default=True, description="latents attend to their group's tokens"
    )
    write: TransferSlot = Field("write", validate_default=True, description="tokens attend to latents")
    exchange_mixer: ChannelMixerSlot = Field(
        "none", validate_default=True, description="after each read (on latents) and write (on tokens)"
    )
    condition_read: TransferSlot | None = Field(
        None, description="latents attend to the model's condition tokens before each run of global layers"
    )
    self_conditioning: bool = Field(
        False, description="an earlier pass's latents are a further input, the last latents an output"
    )

    @field_validator("schedule")
    @classmethod
    def _parses(cls, value: str) -> str:
        parse_schedule(value)
        return value

    @model_validator(mode="after")
    def _latents_are_used(self) -> Fit:
        """A last block's global layers count where the next pass begins with their latents."""
        *exchanges, (_, n_last) = parse_schedule(self.schedule)
        if not exchanges and not (self.self_conditioning and n_last):
            for field in ("condition_read", "self_conditioning"):
                if getattr(self, field):
                    raise spec_problem(
                        f"'{field}' has no effect: schedule '{self.schedule}' writes no latents"
                    )
        return self


class FitBlock(Closed):
    """A FIT block among the layers; its latents live inside it."""

    fit: Fit


_BLOCKS = ("repeat", "loop", "pattern", "fit")


def _entry_kind(value: Any) -> str:
    """The tag of an entry, in brackets so that no field is called so."""
    if isinstance(value, dict):
        return next((f"<{key}>" for key in _BLOCKS if key in value), "<layer>")
    kinds: dict[type, str] = {Repeat: "<repeat>", Loop: "<loop>", Pattern: "<pattern>", FitBlock: "<fit>"}
    return kinds.get(type(value), "<layer>")


Entry = Annotated[
    Annotated[Layer, Tag("<layer>")]
    | Annotated[Repeat, Tag("<repeat>")]
    | Annotated[Loop, Tag("<loop>")]
    | Annotated[Pattern, Tag("<pattern>")]
    | Annotated[FitBlock, Tag("<fit>")],
    Discriminator(_entry_kind),
]
Layers = Annotated[tuple[Entry, ...], Field(min_length=1)]


def n_expanded(entries: Layers) -> int:
    """How many layers ``entries`` come to once repeats, loops, patterns and FIT schedules are written out."""
    total = 0
    for entry in entries:
        match entry:
            case Repeat():
                total += entry.repeat * n_expanded(entry.layers)
            case Loop():
                total += entry.loop * n_expanded(entry.layers)
            case Pattern():
                total += len(entry.pattern)
            case FitBlock():
                total += sum(n_local + n_global for n_local, n_global in parse_schedule(entry.fit.schedule))
            case Layer():
                total += 1
    return total


def _few_enough(entries: Layers) -> Layers:
    if (n := n_expanded(entries)) > MAX_LAYERS:
        raise spec_problem(f"{n:,} layers once written out; at most {MAX_LAYERS:,} are allowed")
    return entries


TopLayers = Annotated[Layers, AfterValidator(_few_enough)]


class Encoder(Closed):
    """Layers over a source of its own, read both ways; ``cross`` in the model's layers reads their output."""

    input: Input
    d_model: Width | None = Field(None, description="width of the source's stream; default the model's")
    norm: NormSlot | None = Field(None, description="overrides the model's norm")
    residual: Residual | None = Field(None, description="overrides the model's residual")
    stem: StemSlot
    layers: TopLayers


class ModelSpec(Closed):
    """A whole model. Frozen; ``archspec.identity.spec_hash`` is its identity."""

    archspec: Version
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]{0,99}$")] = "model"
    description: Annotated[str, Field(max_length=2_000)] = ""
    input: Input
    condition: Condition | None = Field(None, description="further inputs, for denoisers")
    causal: bool = Field(
        description="a promise: output t depends on inputs up to t only; the compiler tests it (an encoder "
        "reads both ways, and all of it may be read)"
    )
    d_model: Width
    encoder: Encoder | None = Field(
        None, description="a second stream; then `input` is the target and the model takes (source, target)"
    )
    norm: NormSlot = Field("rmsnorm", validate_default=True)
    residual: Residual = "pre"
    stem: StemSlot
    layers: TopLayers
    head: HeadSlot

    _written: Written = PrivateAttr(default_factory=Written)

    def read_from(self, source: Source) -> ModelSpec:
        """The same spec, whose problems are shown with their places in ``source``."""
        copy = self.model_copy()
        copy._written = Written(source)
        return copy

    def _repr_html_(self) -> str:
        """What a notebook shows: the spec as YAML."""
        from archspec.dump import dump_spec
        from archspec.strip import strip

        text = dump_spec(self, comment=strip(self)).split("\n", 1)[1]  # without the editor's modeline
        return f"<pre>{html.escape(text)}</pre>"

    def problem(self, path: Path, message: str, hint: str | None = None) -> Problem:
        """A problem at ``path``; a spec that was built in Python has no place in a text."""
        if (source := self._written.source) is not None:
            return source.problem(path, message, hint)
        return Problem(message, path_text(path), hint=hint)


Repeat.model_rebuild()
Loop.model_rebuild()
