"""What a component is: a nested ``Config``, a fast ``forward``, an obvious ``reference``, and a step form if it decodes.

Shapes: B batch, L length of the stream, D its width. A mask is boolean (B, L), True where a position holds a real
token; with a mask, padded positions may come out as anything, real ones exactly as without the padding.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from archspec import ComponentConfig, MixerConfig, NormConfig, Site

State = dict[str, Tensor]  # one layer's decode state; every tensor has the batch first


class MixerOutput(NamedTuple):
    """What a mixer with side products returns instead of a tensor.

    ``aux_loss`` is a scalar to be added to the training loss as it is (already weighted). ``statistics`` is what
    ``apply_statistics`` needs after the optimizer step; it carries no gradient.
    """

    y: Tensor
    aux_loss: Tensor
    statistics: Tensor


@dataclass(frozen=True)
class ParamHint:
    """How the optimizer should treat one parameter, by its name in the component."""

    no_weight_decay: bool = False
    lr_scale: float = 1.0


class Component(nn.Module):
    """A configured part of a model; it owns its initialisation, and says how its parameters want to be trained."""

    Config: ClassVar[type[ComponentConfig]]
    examples: ClassVar[tuple[ComponentConfig, ...]] = ()

    def param_hints(self) -> dict[str, ParamHint]:
        """Hints by parameter name relative to this module; a parameter without a hint is treated by default rules."""
        return {}


class Mixer(Component):
    """(B, L, D) -> (B, L, D): a token mixer or a channel mixer.

    ``forward`` is the fast path, plain PyTorch, trainable on every device. ``reference`` is the definition, dense or
    as a loop, and equals it. Unless its capability is ``decode: none``, feeding tokens one by one through ``step``
    (after ``init_state``, or after ``prefill`` of a prefix) gives what ``forward`` gives.
    """

    Config: ClassVar[type[MixerConfig]]

    def __init__(self, config: MixerConfig, site: Site):
        super().__init__()
        self.config = config
        self.site = site

    @abstractmethod
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor | MixerOutput:
        """(B, L, D), (B, L) -> (B, L, D)."""

    @abstractmethod
    def reference(self, x: Tensor, mask: Tensor | None = None) -> Tensor | MixerOutput:
        """The same function, obviously right."""

    def init_state(self, batch_size: int, *, dtype: torch.dtype, device: torch.device | str) -> State:
        """The decode state before the first token."""
        raise NotImplementedError(f"{self.config.kind} has decode: none")

    def prefill(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """(B, L, D) from a fresh state -> the outputs of all L tokens and the state after them."""
        ys = []
        for token in x.unbind(1):
            y, state = self.step(token, state)
            ys.append(y)
        return torch.stack(ys, dim=1), state

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """(B, D) and the state -> the next token's output (B, D) and the next state."""
        raise NotImplementedError(f"{self.config.kind} has decode: none")

    def apply_statistics(self, statistics: Tensor) -> None:
        """Update buffers from what ``forward`` returned; called once, after the optimizer step."""
        raise NotImplementedError(f"{self.config.kind} has no buffers to update")


class Norm(Component):
    """(..., D) -> (..., D): a normalisation over the last dimension, computed in fp32."""

    Config: ClassVar[type[NormConfig]]

    def __init__(self, config: NormConfig, d_model: int):
        super().__init__()
        self.config = config

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""


class Stem(Component):
    """Raw input -> (B, L, D). ``step`` embeds one position during decoding."""

    Config: ClassVar[type[ComponentConfig]]

    @abstractmethod
    def forward(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """Token ids (B, L), features (B, L, C) or images -> (B, L, D)."""

    def step(self, inputs: Tensor, position: Tensor) -> Tensor:
        """One position's raw input (B, ...) and its index (a 0-d long tensor) -> (B, D)."""
        raise NotImplementedError("this stem does not decode")


class Head(Component):
    """(B, L, D) -> task outputs, (B, L, V) per position or (B, V) per sequence."""

    Config: ClassVar[type[ComponentConfig]]

    @abstractmethod
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, L, D), (B, L) -> (B, L, V) or (B, V)."""


class Transfer(Component):
    """Two streams -> an update of the first: queries (B, Lq, Dq) read from a source (B, Ls, Ds) -> (B, Lq, Dq)."""

    Config: ClassVar[type[ComponentConfig]]

    @abstractmethod
    def forward(self, queries: Tensor, source: Tensor, mask: Tensor | None = None) -> Tensor:
        """``mask`` (B, Ls) says which source positions hold real tokens."""
