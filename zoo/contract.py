"""What a component is: ``Config``, fast ``forward``, obvious ``reference``, and a step form if it decodes.

Shapes: B batch, L length of the stream, D its width. A mask is boolean (B, L), True where a position holds
a real token; with a mask, padded positions may come out as anything, real ones exactly as without the
padding. A row is one sequence: what packed sequences would be told apart by is refused (``zoo/masks.py``).

Constructors: mixers ``cls(config, site)``, norms ``cls(config, d_model)``, stems and heads ``cls(config,
site, input)``, transfers ``cls(config, site, d_source)``. For a stem, ``site`` is the stream it makes; for
a transfer, its queries.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from archspec import Capabilities, ComponentConfig, Input, MixerConfig, NormConfig, Site
from zoo.masks import check_mixer_mask, check_source_mask

OpFlops = Callable[[Sequence[Any], Mapping[str, Any], Any], int]  # args, kwargs, result
State = dict[str, Tensor]  # one layer's decode state; every tensor has the batch first


class MixerOutput(NamedTuple):
    """What a mixer or transfer with side products returns instead of a tensor.

    ``aux_loss`` is a scalar to be added to the training loss as it is (already weighted). ``statistics`` is
    what ``apply_statistics`` needs after the optimizer step; it carries no gradient.
    """

    y: Tensor
    aux_loss: Tensor
    statistics: Tensor


def only_output(out: Tensor | MixerOutput) -> Tensor:
    """Without side products."""
    return out.y if isinstance(out, MixerOutput) else out


@dataclass(frozen=True)
class ParamHint:
    """How the optimizer should treat one parameter, by its name in the component."""

    no_weight_decay: bool = False
    lr_scale: float = 1.0


class StemConfig(ComponentConfig):
    """Configuration of a stem; ``seq_len`` and ``max_len`` of its ``CostContext`` are its output's."""

    @property
    def gives_positions(self) -> bool:
        """Whether the stream knows where each token stands, for mixers that are blind to order."""
        return False

    @property
    def has_cls(self) -> bool:
        """Whether the stream begins with a position of its own that stands for the whole sequence."""
        return False

    @property
    def tile_side(self) -> int | None:
        """Where the stream goes through an image by square pieces, how many positions a side each has."""
        return None

    @property
    def patch_size(self) -> int:
        """Side of the image's squares, or number of vectors, that one position is made of."""
        return 1

    @abstractmethod
    def out_length(self, input: Input) -> int:
        """Length of the stream made of an input of full length."""

    def table_width(self, d_model: int) -> int | None:
        """Width of the token table that a head may share, or None where there is no table."""
        return None

    def input_misfit(self, input: Input) -> str | None:
        """Why this stem cannot take ``input``, or None if it can."""
        return None


class HeadConfig(ComponentConfig):
    """Configuration of a head."""

    @property
    def per_position(self) -> bool:
        """Whether there is an output for every position, (B, L, V), or one for the sequence, (B, V)."""
        return True

    @property
    def is_tied(self) -> bool:
        """Whether the output matrix is the stem's table; its parameters are then counted there."""
        return False

    @abstractmethod
    def output_width(self, input: Input) -> int:
        """V, the width of one output."""

    def input_misfit(self, input: Input) -> str | None:
        """Why this head cannot stand in a model of ``input``, or None if it can."""
        return None

    def stem_misfit(self, stem: StemConfig, d_model: int) -> str | None:
        """Why this head cannot stand in one model with ``stem`` (tying, cls token), or None if it can."""
        return None

    def capabilities(self) -> Capabilities:
        return Capabilities(causal="always", mixes_tokens=False, decode="constant")


class TransferConfig(ComponentConfig):
    """Configuration of a transfer; the ``CostContext`` has ``d_source`` and ``source_len`` too."""

    def source_misfit(self, d_model: int, d_source: int) -> str | None:
        """Why queries of width ``d_model`` cannot read from a source of ``d_source``, or None if they can."""
        return None

    def capabilities(self) -> Capabilities:
        return Capabilities(causal="never", cross=True)


class Component(nn.Module):
    """A configured part of a model; it owns its initialisation and says how to train its parameters."""

    Config: ClassVar[type[ComponentConfig]]
    examples: ClassVar[tuple[ComponentConfig, ...]] = ()
    # FLOPs of the component's own torch operations, by the dispatcher's name ("my_ops::scan"), from an
    # operation's arguments and its result; 0 for one without matmul-class work. Counters refuse what they
    # find neither here nor in their tables.
    op_flops: ClassVar[Mapping[str, OpFlops]] = {}

    def param_hints(self) -> dict[str, ParamHint]:
        """Hints by parameter name relative to this module; the rest is treated by default rules."""
        return {}


class Mixer(Component):
    """(B, L, D) -> (B, L, D): a token mixer or a channel mixer.

    ``forward`` is the fast path, plain PyTorch, trainable on every device. ``reference`` is the definition,
    dense or as a loop, and equals it. Unless its capability is ``decode: none``, feeding tokens one by one
    through ``step`` (after ``init_state``, or after ``prefill`` of a prefix) gives what ``forward`` gives.
    """

    Config: ClassVar[type[MixerConfig]]

    def __init__(self, config: MixerConfig, site: Site):
        super().__init__()
        self.config = config
        self.site = site
        self.register_forward_pre_hook(check_mixer_mask, with_kwargs=True)

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

    def step_block(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """(B, n, D), the next block of a site that is causal by blocks of n -> its outputs, the next state.

        Token by token, unless the mixer makes use of the whole block: then it has a form of its own, and
        its configuration a ``block_cost``.
        """
        if not state:  # it remembers nothing, so all positions may come at once
            return self.prefill(x, state)
        ys = []
        for token in x.unbind(1):
            y, state = self.step(token, state)
            ys.append(y)
        return torch.stack(ys, dim=1), state

    def apply_statistics(self, statistics: Tensor) -> None:
        """Update buffers from what ``forward`` returned; called once, after the optimizer step."""
        raise NotImplementedError(f"{self.config.kind} has no buffers to update")


class Norm(Component):
    """(..., D) -> (..., D): a normalisation over the last dimension, computed in fp32 or wider."""

    Config: ClassVar[type[NormConfig]]

    def __init__(self, config: NormConfig, d_model: int):
        super().__init__()
        self.config = config

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""

    @abstractmethod
    def reference(self, x: Tensor) -> Tensor:
        """The same function, obviously right."""


class Stem(Component):
    """Raw input -> (B, L, D). ``step`` embeds one position of a decoding, unless there is a cls token."""

    Config: ClassVar[type[StemConfig]]

    @abstractmethod
    def forward(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """Token ids (B, L), features (B, L, C) or images (B, C, H, W) -> (B, L, D)."""

    @abstractmethod
    def reference(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """The same function, obviously right."""

    def out_mask(self, mask: Tensor) -> Tensor:
        """The mask of the input (B, L_in) -> the mask of the stream (B, L)."""
        return mask

    def table(self) -> nn.Parameter:
        """The token table (V, table_width) that a tied head shares."""
        raise NotImplementedError("this stem has no token table")

    def step(self, inputs: Tensor, position: Tensor) -> Tensor:
        """One position's raw input (B, ...) and its index (a 0-d long tensor) -> (B, D)."""
        raise NotImplementedError("this stem does not decode")


class Head(Component):
    """(B, L, D) -> task outputs, (B, L, V) per position or (B, V) per sequence."""

    Config: ClassVar[type[HeadConfig]]

    @abstractmethod
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, L, D), (B, L) -> (B, L, V) or (B, V); per position, (B, D) -> (B, V) too."""

    @abstractmethod
    def reference(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The same function, obviously right."""

    def tie(self, stem: Stem) -> None:
        """Share the stem's table; called once, before the first forward, when ``config.is_tied``."""
        raise NotImplementedError("this head has nothing to tie")


class Transfer(Component):
    """Queries (B, Lq, Dq) read from a source (B, Ls, Ds) -> an update of the queries (B, Lq, Dq)."""

    Config: ClassVar[type[TransferConfig]]

    def __init__(self, config: TransferConfig, site: Site, d_source: int):
        super().__init__()
        self.register_forward_pre_hook(check_source_mask, with_kwargs=True)

    @abstractmethod
    def forward(self, queries: Tensor, source: Tensor, mask: Tensor | None = None) -> Tensor | MixerOutput:
        """``mask`` (B, Ls) says which source positions hold real tokens."""

    @abstractmethod
    def reference(self, queries: Tensor, source: Tensor, mask: Tensor | None = None) -> Tensor | MixerOutput:
        """The same function, obviously right."""

    def apply_statistics(self, statistics: Tensor) -> None:
        """Update buffers from what ``forward`` returned; called once, after the optimizer step."""
        raise NotImplementedError(f"{type(self).__name__} has no buffers to update")

    def remember(self, source: Tensor) -> State:
        """(B, Ls, Ds) -> what ``recall`` needs of it: tensors with batch and position first.

        What is remembered of a longer source is that of its parts, joined. An override changes
        ``kv_bytes_per_token`` of the cost too, which are the bytes of one position.
        """
        return {"source": source}

    def recall(self, queries: Tensor, state: State, *, first: int = 0) -> Tensor:
        """What ``forward`` gives for the source that is remembered, of which ``mask`` may be a part.

        ``first`` is the first query's place in its stream, for what pairs it with the source's places.
        """
        return only_output(self(queries, state["source"], state.get("mask")))
