"""A model as blocks whose times add up: every mixer with its norm and residual, loops, FIT blocks, the rest.

A block is timed in place, inside small models that hold nothing but copies of it between a cheap stem and a
cheap head. What a block is called (``hash``) covers all that its time depends on beside the shape: its
configuration, norm and residual, the stream's width and greatest length, causality, component versions. The
rest of the model is its ``base``: stem, final norm and head, a model without layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from archspec import ModelSpec, SpecError, TokenInput
from archspec.components import Parallel
from archspec.identity import spec_hash
from archspec.spec import FitBlock, Layer, Layers, Loop, Pattern, Repeat
from compiler.build import build_graph
from compiler.cost.closed_form import CostPlan
from zoo import Zoo

_N_WORDS = 32  # of the small models' vocabulary


@dataclass(frozen=True, eq=False)
class Block:
    """``copies(n)`` is a model of n distinct copies; ``copies(0)`` the small model without any."""

    what: str  # for people
    layers: Layers  # one copy
    frame: ModelSpec  # a model whose layers are replaced

    def copies(self, n: int) -> ModelSpec:
        """The block n times, one after the other, each with weights of its own."""
        if n == 0:
            return self.frame
        layers = self.layers if n == 1 else (Repeat(repeat=n, layers=self.layers),)
        return self.frame.model_copy(update={"layers": layers})

    @cached_property
    def hash(self) -> str:
        """What the time depends on, beside shape, dtype, device and versions."""
        return spec_hash(self.copies(1))


@dataclass(frozen=True)
class Decomposition:
    """``blocks`` are the blocks in order, with the path of each; equal ones are one object."""

    base: Block
    blocks: tuple[tuple[str, Block], ...]
    length: int  # positions of the stream, where the input has ``seq_len``

    @property
    def unique(self) -> list[Block]:
        """Each block once."""
        return list({block.hash: block for _, block in self.blocks}.values())


def decompose(spec: ModelSpec, zoo: Zoo, *, seq_len: int | None = None) -> Decomposition:
    """The blocks of a model whose input has ``seq_len`` positions (by default all it takes).

    SpecError for a model with an encoder or a condition: what reads these depends on two lengths.
    """
    if spec.condition is not None:
        raise SpecError(
            "the latency of a model with a condition is not predicted from blocks",
            path="condition",
            hint="measure it: archspec profile SPEC --measure",
        )
    if spec.encoder is not None:
        raise SpecError(
            "the latency of a model with an encoder is not predicted from blocks",
            path="encoder",
            hint="measure it: archspec profile SPEC --measure",
        )
    graph = build_graph(spec, zoo=zoo)
    greatest = CostPlan(graph).extents["stem"].length
    length = CostPlan(graph, seq_len).extents["stem"].length
    none = _Nothing(zoo)
    bare = spec.model_copy(update={"layers": (none.layer,), "name": "base"})
    frame = bare.model_copy(
        update={
            "name": "block",
            "input": TokenInput(kind="tokens", vocab_size=_N_WORDS, seq_len=greatest),
            "stem": zoo.classes["stem"]["embedding"].Config.model_validate({"kind": "embedding"}),
            "head": zoo.classes["head"]["lm"].Config.model_validate({"kind": "lm"}),
        }
    )
    found: dict[str, Block] = {}
    blocks = []
    for path, what, layers in _parts(spec.layers, "layers", none):
        block = Block(what, layers, frame)
        blocks.append((path, found.setdefault(block.hash, block)))
    base = Block(f"stem {spec.stem.kind}, head {spec.head.kind}", bare.layers, bare)
    return Decomposition(base, tuple(blocks), length)


class _Nothing:
    """The mixers that are not there."""

    def __init__(self, zoo: Zoo):
        mixers = {
            role: zoo.classes[role]["none"].Config.model_validate({"kind": "none"})
            for role in ("token_mixer", "channel_mixer")
        }
        self.layer = Layer.model_validate(mixers)  # a graph has no node for it
        self._mixers = mixers

    def beside(self, layer: Layer, role: Literal["token_mixer", "channel_mixer"]) -> Layer:
        """The half of ``layer`` that has ``role``."""
        return layer.model_copy(update=self._mixers | {role: getattr(layer, role)})


def _parts(entries: Layers, path: str, none: _Nothing) -> Iterator[tuple[str, str, Layers]]:
    """Path, words and layers of every block, repeats and patterns written out."""
    for i, entry in enumerate(entries):
        here = f"{path}[{i}]"
        match entry:
            case Layer():
                yield from _halves(entry, here, none)
            case Repeat():
                inner = list(_parts(entry.layers, f"{here}.layers", none))
                for _ in range(entry.repeat):
                    yield from inner
            case Pattern():
                for symbol in entry.pattern:
                    yield from _halves(entry.symbols[symbol], f"{here}.symbols.{symbol}", none)
            case Loop():
                yield here, f"loop of {entry.loop} turns", (entry,)
            case FitBlock():
                yield here, f"fit {entry.fit.schedule}", (entry,)


def _halves(layer: Layer, path: str, none: _Nothing) -> Iterator[tuple[str, str, Layers]]:
    token, channel = layer.token_mixer, layer.channel_mixer
    if isinstance(token, Parallel):
        kinds = " and ".join(branch.kind for branch in token.parallel)
        yield f"{path}.token_mixer", f"{kinds} in parallel", (none.beside(layer, "token_mixer"),)
    elif token.kind != "none":
        yield f"{path}.token_mixer", token.kind, (none.beside(layer, "token_mixer"),)
    if channel.kind != "none":
        yield f"{path}.channel_mixer", channel.kind, (none.beside(layer, "channel_mixer"),)
