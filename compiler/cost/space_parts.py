"""The parts of a search space, each built alone: what each filling adds to a model without layers.

Costs add up over layers, and layers are chosen apart from each other. So what stands outside the layers (and
every shared hole) is enumerated whole, one frame each; inside a frame, each half of each layer is enumerated
alone in a model of its own, inside the blocks that hold it: 3 slots of 20 options are 60 models, not 8,000.
What is invalid alone is invalid in company, since the compiler judges every component at its place.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from archspec import DTYPE_BYTES, ModelSpec, SpecError
from archspec.holes import Hole, below, is_hole
from archspec.nodes import Node, plain
from archspec.source import Source
from archspec.space import Space
from archspec.validate import validate
from compiler.cost.asking import Asking, quantities
from compiler.cost.space_sums import Extremes, added, best, nothing
from compiler.profiling import Profile
from zoo import Zoo

Genes = dict[str, Any]
MAX_MODELS = 20_000  # built on the way
_MAX_VALUES = 256  # of one int hole
TRAIN_SAVED, TRAIN_UPDATE = "train: weights, states, saved", "train: weights, gradients, states"
NOT_DECODING = "parts that do not decode"
MAX_JOINED = 1_000  # members of a space that is built whole
_PEAKS = ("train_peak", "inference_peak")
_JOINS = {"encoder", "condition"}  # what layers read beside their own stream


@dataclass(frozen=True)
class Frame:
    """One filling of what is outside the layers, and what a model without layers costs in it."""

    index: int
    outside: Node
    genes: Genes
    layers: Node
    base: dict[str, int]
    extra: int  # bytes alive in its forward pass beyond the weights


@dataclass(frozen=True)
class _Place:
    """Where a part stands: in which frame, under which genes, and inside which blocks, innermost first."""

    frame: Frame
    fixed: Genes
    around: tuple[tuple[Node, str, Node], ...] = ()  # a block, the key of its count, the count

    def within(self, block: Node, key: str, count: Node) -> _Place:
        return _Place(self.frame, self.fixed, ((block, key, count), *self.around))

    def wrapped(self, entry: Node) -> Node:
        """``entry`` alone in its blocks."""
        for block, key, count in self.around:
            layers = Node([entry], block.entries["layers"].place)
            entry = block.with_entries({key: count, "layers": layers}, block.keys)
        return entry


class Parts:
    """A space with every part of it that was built; a SpecError if too many would have to be."""

    def __init__(self, space: Space, asking: Asking, *, zoo: Zoo):
        self.space, self.asking, self.zoo = space, asking, zoo
        self.assumed: set[str] = set()  # genes of whose range only the ends were looked at
        self.n_models = 0
        self.reason: SpecError | None = None  # why the first part that is not valid is not
        self._sums: dict[tuple[int, str], tuple[dict[str, int], int] | None] = {}
        self._frames: list[Frame] | None = None
        self._members: list[tuple[Genes, tuple[dict[str, int], int] | None]] | None = None

    def extremes(self, fixed: Mapping[str, Any]) -> Iterator[Extremes]:
        """For every frame that agrees with ``fixed`` and has valid members: the extremes of their sums.

        Layers that read an encoder or a condition cannot stand alone, nor these without a reader: then every
        member is a frame of its own.
        """
        if not _JOINS.isdisjoint(self.space.source.root.entries):
            for genes, found in self._all_members():
                if found is not None and all(genes.get(gene) == value for gene, value in fixed.items()):
                    yield Extremes.of(found[0], genes, found[1])
            return
        for frame in self._all_frames():
            if any(frame.genes.get(gene, value) != value for gene, value in fixed.items()):
                continue
            layers = self._list(frame.layers, "layers", _Place(frame, dict(fixed) | frame.genes))
            whole = added([Extremes.of(frame.base, frame.genes, frame.extra), layers])
            if whole is not None:
                yield whole

    def _all_members(self) -> list[tuple[Genes, tuple[dict[str, int], int] | None]]:
        """Active genes and sums of every filling; None where it is not valid."""
        if self._members is None:
            n_fillings, _ = self.space.count()
            if n_fillings > MAX_JOINED:
                raise SpecError(
                    "a space with an encoder or a condition is built whole, "
                    f"and has more than {MAX_JOINED:,} fillings",
                    file=self.space.source.file,
                )
            self._members = []
            for genes in self.space.enumerate():
                active = {gene: genes[gene] for gene in self.space.active(genes)}
                self._members.append((active, self._member(genes)))
        return self._members

    def _member(self, genes: Genes) -> tuple[dict[str, int], int] | None:
        self.n_models += 1
        try:
            profile = self.asking.profile(self.space.spec(genes, self.zoo.components), self.zoo)
        except SpecError as error:
            self.reason = self.reason or error
            return None
        return self._of(profile), _extra(profile)

    def _all_frames(self) -> list[Frame]:
        """Every filling of what is outside the layers, and of shared holes."""
        if self._frames is None:
            root = self.space.source.root
            outside = root.with_entries({k: v for k, v in root.entries.items() if k != "layers"}, root.keys)
            shared = {hole.gene: hole for hole in self.space.holes if hole.share}
            self._frames = []
            for values in itertools.product(*(self._values(hole) for hole in shared.values())):
                chosen = dict(zip(shared, values, strict=True))
                for filled, genes in self._fillings(outside, "", chosen):
                    layers = root.entries.get("layers")
                    if layers is None:
                        raise self.space.source.error((), "missing field 'layers'")
                    frame = self._frame(len(self._frames), filled, chosen | genes, layers)
                    self._frames += [] if frame is None else [frame]
        return self._frames

    def _frame(self, index: int, outside: Node, genes: Genes, layers: Node) -> Frame | None:
        """None where even a model without layers is not valid."""
        none = {role: Node("none", layers.place) for role in ("token_mixer", "channel_mixer")}
        bare = Frame(index, outside, genes, layers, {}, 0)
        profile = self._profile(bare, Node(none, layers.place))
        if profile is None:
            return None
        return replace(bare, base=self._of(profile), extra=_extra(profile))

    def _list(self, node: Node, gene: str, place: _Place) -> Extremes | None:
        """Of all entries of a list of layers; a choice between lists is their best."""
        if is_hole(node):
            return self._alternatives(node, gene, place, self._list)
        return added([self._entry(child, f"{gene}[{i}]", place) for i, child in enumerate(node.items)])

    def _entry(self, node: Node, gene: str, place: _Place) -> Extremes | None:
        if is_hole(node):
            return self._alternatives(node, gene, place, self._entry)
        entries = node.entries
        if "layers" in entries and len(entries) == 2:
            (count,) = (key for key in entries if key != "layers")
            found = nothing()
            for filled, genes in self._fillings(entries[count], f"{gene}.{count}", place.fixed):
                inside = self._list(entries["layers"], f"{gene}.layers", place.within(node, count, filled))
                found = best([found, None if inside is None else inside.beside(genes)])
            return found
        roles = [role for role in ("token_mixer", "channel_mixer") if role in entries]
        if roles:
            around = node.with_entries({k: v for k, v in entries.items() if k not in roles}, node.keys)
            found = nothing()
            for filled, genes in self._fillings(around, gene, place.fixed):
                halves = [self._leaf(entries[role], f"{gene}.{role}", place, filled, role) for role in roles]
                whole = added(halves)
                found = best([found, None if whole is None else whole.beside(genes)])
            return found
        return self._leaf(node, gene, place)

    def _leaf(
        self, node: Node, gene: str, place: _Place, around: Node | None = None, role: str = ""
    ) -> Extremes | None:
        """Every filling of a part, each in a model that holds nothing else."""
        found = nothing()
        for filled, genes in self._fillings(node, gene, place.fixed):
            entry = filled
            if around is not None:
                entry = around.with_entries({**around.entries, role: filled}, around.keys)
            adds = self._adds(place.frame, place.wrapped(entry))
            if adds is not None:
                found = best([found, Extremes.of(adds[0], genes, adds[1])])
        return found

    def _alternatives(
        self, node: Node, gene: str, place: _Place, explore: Callable[[Node, str, _Place], Extremes | None]
    ) -> Extremes | None:
        hole = self.space.hole_at(gene)
        found = nothing()
        for value in [place.fixed[hole.gene]] if hole.gene in place.fixed else self._values(hole):
            branch = hole.branch(value)
            if branch is None:
                continue
            inside = explore(branch, f"{gene}<{value}>", place)
            found = best([found, None if inside is None else inside.beside({hole.gene: value})])
        return found

    def _fillings(self, node: Node, gene: str, fixed: Mapping[str, Any]) -> Iterator[tuple[Node, Genes]]:
        """Every filling of ``node`` that agrees with ``fixed``, with its genes."""
        if is_hole(node):
            hole = self.space.hole_at(gene)
            for value in [fixed[hole.gene]] if hole.gene in fixed else self._values(hole):
                if hole.kind != "choice":
                    yield Node(value, node.place), {hole.gene: value}
                elif (branch := hole.branch(value)) is not None:
                    inside = (
                        [(branch, Genes())]
                        if hole.share
                        else self._fillings(branch, f"{gene}<{value}>", fixed)
                    )
                    for filled, genes in inside:
                        yield filled, {hole.gene: value, **genes}
            return
        children = [list(self._fillings(child, name, fixed)) for name, child in below(node, gene)]
        for chosen in itertools.product(*children):
            nodes = [filled for filled, _ in chosen]
            merged = {gene: value for _, genes in chosen for gene, value in genes.items()}
            if isinstance(node.value, dict):
                yield node.with_entries(dict(zip(node.entries, nodes, strict=True)), node.keys), merged
            else:
                yield (Node(nodes, node.place) if isinstance(node.value, list) else node), merged

    def _values(self, hole: Hole) -> Sequence[Any]:
        values, is_whole = values_of(hole)
        if not is_whole:
            self.assumed.add(hole.gene)
        return values

    def _adds(self, frame: Frame, entry: Node) -> tuple[dict[str, int], int] | None:
        """What ``entry`` adds to a model without layers, and what is alive then; None if it is not valid."""
        key = (frame.index, json.dumps(plain(entry), sort_keys=True))
        if key not in self._sums:
            profile = self._profile(frame, entry)
            if profile is None:
                self._sums[key] = None
            else:
                found = self._of(profile)
                self._sums[key] = {name: found[name] - frame.base[name] for name in found}, _extra(profile)
        return self._sums[key]

    def _profile(self, frame: Frame, entry: Node) -> Profile | None:
        self.n_models += 1
        if self.n_models > MAX_MODELS:
            raise SpecError(
                f"the costs of this space need more than {MAX_MODELS:,} models to be built",
                hint="a layer or what is outside the layers has too many combinations",
                file=self.space.source.file,
            )
        entries = {**frame.outside.entries, "layers": Node([entry], frame.layers.place)}
        source = Source(frame.outside.with_entries(entries, frame.outside.keys), self.space.source.file)
        try:
            spec = validate(ModelSpec, source, self.zoo.components).read_from(source)
            return self.asking.profile(spec, self.zoo)
        except SpecError as error:
            self.reason = self.reason or error
            return None

    def _of(self, profile: Profile) -> dict[str, int]:
        """The quantities that add up."""
        found = quantities(profile)
        item = DTYPE_BYTES[self.asking.dtype]
        found[TRAIN_SAVED] = found["weights"] + 2 * item * found["params"] + found["activations"]
        found[TRAIN_UPDATE] = found["weights"] + 3 * item * found["params"]
        found[NOT_DECODING] = int(profile.flops["decode"] is None)
        return {name: value for name, value in found.items() if name not in _PEAKS}


def values_of(hole: Hole) -> tuple[Sequence[Any], bool]:
    """The values to look at, and whether these are all: of a float and a long range the ends alone."""
    if hole.kind == "float":
        return (hole.low, hole.high), hole.low == hole.high
    if hole.kind == "int" and len(hole.values) > _MAX_VALUES:
        return (int(hole.low), int(hole.high)), False
    return hole.values, True


def _extra(profile: Profile) -> int:
    """Bytes alive in a forward pass beyond the weights."""
    return profile.memory.inference_peak - profile.memory.weights
