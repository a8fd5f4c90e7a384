"""One component in one configuration at one site, and how to build it, feed it and read what it gives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from archspec import (
    Capabilities,
    ComponentConfig,
    Cost,
    CostContext,
    FeatureInput,
    ImageInput,
    Input,
    Role,
    Site,
    TokenInput,
)
from zoo.causality import randomised
from zoo.contract import Component, Head, HeadConfig, Mixer, Norm, Stem, StemConfig, Transfer, TransferConfig
from zoo.stems.embedding import Embedding

LENGTHS = (1, 2, 7, 16, 17, 33)
D_SOURCE = 24
_MAX_LEN = 48
_INPUTS: tuple[Input, ...] = (
    TokenInput(vocab_size=50, seq_len=_MAX_LEN),
    FeatureInput(d_input=6, seq_len=_MAX_LEN),
    ImageInput(height=12, width=8, n_channels=3),
)


class ContractError(AssertionError):
    """A component breaks a rule of the contract."""


def expect(condition: bool, message: str) -> None:
    if not condition:
        raise ContractError(message)


@dataclass(frozen=True)
class Case:
    """A component to check. ``input`` matters to stems and heads alone."""

    role: Role
    cls: type[Component]
    config: ComponentConfig
    number: int  # of the example
    d_model: int
    causal: bool
    input: Input = _INPUTS[0]

    @property
    def id(self) -> str:
        kind = self.input.kind if self.role == "stem" else ""
        parts = (self.role, self.config.kind, str(self.number), f"d{self.d_model}", kind)
        return "-".join(part for part in (*parts, "causal" if self.causal else "both ways") if part)

    @property
    def can(self) -> Capabilities:
        return self.config.capabilities()

    @property
    def promises_causality(self) -> bool:
        return self.can.causal == "always" or (self.can.causal == "switch" and self.causal)

    @property
    def decodes(self) -> bool:
        return self.can.decode != "none" and self.promises_causality

    @property
    def is_first_site(self) -> bool:
        """Whether there is no other case of the same example and input before this one."""
        return self.causal or self.can.causal == "never"

    @property
    def is_mixer(self) -> bool:
        return issubclass(self.cls, Mixer)

    @property
    def is_ordered(self) -> bool:
        """Whether outputs stand in the order of inputs; not so for images, pooling heads and transfers."""
        pools = isinstance(self.config, HeadConfig) and not self.config.per_position
        image = self.role == "stem" and isinstance(self.input, ImageInput)
        return not pools and not image and self.role != "transfer"

    @property
    def site(self) -> Site:
        length = self.config.out_length(self.input) if isinstance(self.config, StemConfig) else _MAX_LEN
        return Site(self.d_model, length, self.causal)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Legal input lengths, short ones among them, multiples of no block; an image has one size."""
        if self.role == "stem" and isinstance(self.input, ImageInput):
            return (1,)
        step, most = self.can.length_multiple_of, self.can.length_at_most or _MAX_LEN
        fitting = (-(-length // step) * step for length in LENGTHS)
        return tuple(dict.fromkeys(length for length in fitting if length <= most))

    def build(self, *, seed: int = 0) -> Component:
        """The component as it is initialised, in float32; a tied head is tied."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            site, config, cls = self.site, self.config, self.cls
            if issubclass(cls, Norm):
                return cls(config, self.d_model)  # type: ignore[arg-type]
            if issubclass(cls, Transfer):
                return cls(config, site, D_SOURCE)  # type: ignore[arg-type]
            if issubclass(cls, Mixer):
                return cls(config, site)  # type: ignore[arg-type]
            assert issubclass(cls, (Stem, Head)), f"{cls.__name__} has no role"
            built = cls(config, site, self.input)
            if isinstance(built, Head) and isinstance(config, HeadConfig) and config.is_tied:
                built.tie(Embedding(Embedding.Config(), site, self.input))
            return built

    def twin(self, *, seed: int = 0) -> Component:
        """In float64, all parameters and persistent buffers drawn at random, so that no gate is closed."""
        twin = randomised(self.build(), seed)
        assert isinstance(twin, Component)
        return twin

    def own_parameters(self, module: nn.Module) -> dict[str, nn.Parameter]:
        """Without the table that a tied head shares with its stem."""
        tied = isinstance(self.config, HeadConfig) and self.config.is_tied
        return {name: p for name, p in module.named_parameters() if not (tied and name == "weight")}

    def inputs(
        self, length: int, *, batch_size: int = 2, seed: int = 0, dtype: Any = torch.float64
    ) -> Tensor:
        """What the component reads first: raw input for a stem, else a stream (B, L, D)."""
        draw = torch.Generator().manual_seed(seed)
        if self.role != "stem":
            return torch.randn(batch_size, length, self.d_model, generator=draw, dtype=torch.float64).to(
                dtype
            )
        match self.input:
            case TokenInput(vocab_size=n_words):
                return torch.randint(n_words, (batch_size, length), generator=draw)
            case FeatureInput(d_input=width):
                shape: tuple[int, ...] = (batch_size, length, width)
            case ImageInput(n_channels=channels, height=height, width=width):
                shape = (batch_size, channels, height, width)
        return torch.randn(shape, generator=draw, dtype=torch.float64).to(dtype)

    def arguments(
        self, length: int, *, batch_size: int = 2, seed: int = 0, dtype: Any = torch.float64
    ) -> tuple[Tensor, ...]:
        """All stream arguments of ``forward``: a transfer also reads a source, of another length."""
        x = self.inputs(length, batch_size=batch_size, seed=seed, dtype=dtype)
        if self.role != "transfer":
            return (x,)
        draw = torch.Generator().manual_seed(100 + seed)
        source = torch.randn(
            batch_size, self.source_len(length), D_SOURCE, generator=draw, dtype=torch.float64
        )
        return x, source.to(dtype)

    def source_len(self, length: int) -> int:
        return length // 2 + 1

    def mask(self, length: int) -> Tensor:
        """For a batch of three: one row full, one half full, one with a single real position."""
        n = self.source_len(length) if self.role == "transfer" else length
        return torch.arange(n) < torch.tensor([[n], [(n + 1) // 2], [1]])

    @property
    def takes_mask(self) -> bool:
        image = self.role == "stem" and isinstance(self.input, ImageInput)
        return self.role != "norm" and self.can.padding and not image

    def call(
        self,
        module: nn.Module,
        arguments: tuple[Tensor, ...],
        mask: Tensor | None = None,
        *,
        reference: bool = False,
    ) -> tuple[Tensor, ...]:
        """``forward`` or ``reference``: the output, and of a ``MixerOutput`` also its loss and statistics."""
        run: Any = module.reference if reference else module
        output = run(*arguments) if self.role == "norm" else run(*arguments, mask=mask)
        return (output,) if isinstance(output, Tensor) else tuple(output)

    def real(self, module: nn.Module, output: Tensor, mask: Tensor | None) -> Tensor:
        """What the contract speaks of in an output: all of it, or with a mask its real positions."""
        if mask is None or self.role == "transfer":
            return output
        if isinstance(module, Stem):
            return output[module.out_mask(mask)]
        if isinstance(self.config, HeadConfig) and not self.config.per_position:
            return output
        return output[mask]

    def context(self, length: int, **changes: Any) -> CostContext:
        """The question of what ``forward`` on inputs of ``length`` costs; fp32 and batch 2 by default."""
        if isinstance(self.config, StemConfig):
            at = (
                _INPUTS[2]
                if isinstance(self.input, ImageInput)
                else self.input.model_copy(update={"seq_len": length})
            )
            stream = self.config.out_length(at)
        else:
            stream = length
        ctx = CostContext(
            self.d_model, stream, 2, causal=self.causal, max_len=self.site.seq_len, input=self.input,
            d_source=D_SOURCE, source_len=self.source_len(length),
        )  # fmt: skip
        return replace(ctx, **changes)

    def cost(self, length: int, **changes: Any) -> Cost:
        return self.config.cost(self.context(length, **changes))


def cases(role: Role, cls: type[Component], *, d_model: int) -> Iterator[Case]:
    """Every example of a component at every site that makes a difference.

    Only a mixer whose causality is a switch reads ``Site.causal``; the first example of other mixers is
    tried at both sites all the same.
    """
    for number, config in enumerate(cls.examples):
        sites = [causal for causal in (True, False) if _fits(config, d_model, causal)]
        switches = config.capabilities().causal == "switch" or (issubclass(cls, Mixer) and number == 0)
        for causal in sites if switches else sites[:1]:
            for input in _fitting_inputs(config):
                yield Case(role, cls, config, number, d_model, causal, input)


def _fitting_inputs(config: ComponentConfig) -> tuple[Input, ...]:
    """A stem is tried on every kind of input that it takes, a head on the first; to others it is one."""
    if not isinstance(config, (StemConfig, HeadConfig)):
        return _INPUTS[:1]
    fitting = tuple(input for input in _INPUTS if config.input_misfit(input) is None)
    return fitting if isinstance(config, StemConfig) else fitting[:1]


def _fits(config: ComponentConfig, d_model: int, causal: bool) -> bool:
    if isinstance(config, TransferConfig) and config.source_misfit(d_model, D_SOURCE) is not None:
        return False
    never = config.capabilities().causal == "never"
    return not (causal and never) and config.misfit(Site(d_model, _MAX_LEN, causal)) is None
