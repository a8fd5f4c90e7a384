"""A search space is a spec with holes. Filling them gives a spec; the fillings can be sampled and counted."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

from archspec.components import Components
from archspec.counting import count_fillings
from archspec.errors import Problem, SpecError, shown
from archspec.holes import Hole, below, has_hole, is_hole, parse_hole
from archspec.nodes import Node
from archspec.source import Source
from archspec.spec import ModelSpec
from archspec.validate import validate

MAX_HOLES = 1_000
Requires = tuple[tuple[str, Any], ...]


class Space:
    """The holes of a source, as a static genome: every hole of every branch is a gene, active or not."""

    def __init__(self, source: Source):
        self.source = source
        self._at: dict[str, Hole] = {}  # by the path of every hole, references to a share included
        self._references: list[tuple[str, str, Node]] = []
        problems: list[Problem] = []
        self._scan(source.root, "", (), problems)
        self._settle_shares(problems)
        if problems:
            raise SpecError(problems=problems)
        self.holes = tuple(hole for gene, hole in self._at.items() if hole.gene == gene)
        if len(self.holes) > MAX_HOLES:
            raise SpecError.at(self.holes[MAX_HOLES].place, f"more than {MAX_HOLES:,} holes")

    @cached_property
    def by_gene(self) -> Mapping[str, Hole]:
        """Holes by their gene."""
        return {hole.gene: hole for hole in self.holes}

    def hole_at(self, path: str) -> Hole:
        """The hole that stands at ``path``; where a share is referred to, the one that spells it out."""
        return self._at[path]

    def fill(self, genes: Mapping[str, Any]) -> Source:
        """The source without holes; values keep the places of the options they came from."""
        for gene in genes:
            if gene not in self.by_gene:
                raise SpecError(f"this space has no gene {shown(gene)}", file=self.source.file)
        return Source(self._fill(_Chosen(genes)), self.source.file)

    def active(self, genes: Mapping[str, Any]) -> frozenset[str]:
        """The genes that matter: those outside branches that ``genes`` do not take."""
        chosen = _Chosen(genes)
        self._fill(chosen)
        return frozenset(chosen.asked)

    def spec(self, genes: Mapping[str, Any], components: Components) -> ModelSpec:
        """The filled space as a checked spec."""
        source = self.fill(genes)
        return validate(ModelSpec, source, components).read_from(source)

    def sample(self, rng: random.Random) -> dict[str, Any]:
        """A value for every gene, the inactive ones too."""
        return {hole.gene: hole.sample(rng) for hole in self.holes}

    def enumerate(self) -> Iterator[dict[str, Any]]:
        """Genes of every filling, once each; inactive genes have their first value."""
        for hole in self.holes:
            if hole.kind == "float":
                raise SpecError.at(
                    hole.place, "a space with a float hole cannot be enumerated", path=hole.gene
                )
        first = {hole.gene: hole.values[0] for hole in self.holes}
        partial: list[dict[str, Any]] = [{}]
        while partial:
            decided = partial.pop()
            try:
                self._filled(self.source.root, "", _Chosen(decided))
            except _Undecided as undecided:
                values = undecided.hole.values
                partial += [{**decided, undecided.hole.gene: value} for value in reversed(values)]
            else:
                yield first | decided

    def count(self) -> tuple[float, bool]:
        """How many fillings (inf with a float hole), and whether that is exact or only an upper bound."""
        return count_fillings(self.source.root, self._at)

    def _scan(self, node: Node, gene: str, requires: Requires, problems: list[Problem]) -> None:
        if not is_hole(node):
            for name, child in below(node, gene):
                self._scan(child, name, requires, problems)
            return
        try:
            hole = parse_hole(node, gene, requires)
        except SpecError as error:
            problems += error.problems
            return
        if gene in self._at or any(gene == other for other, _, _ in self._references):
            problems.append(Problem.at(node.place, "two holes have this same path", path=gene))
            return
        if isinstance(hole, str):
            self._references.append((gene, hole, node))
            return
        self._at[gene] = hole
        for option, branch in zip(hole.options, hole.branches, strict=True):
            if hole.share and has_hole(branch):
                message = f"an option of a shared hole has no holes of its own (share: {hole.share})"
                problems.append(Problem.at(branch.place, message, path=gene))
            else:
                self._scan(branch, f"{gene}<{option}>", (*requires, (gene, option)), problems)

    def _settle_shares(self, problems: list[Problem]) -> None:
        """Every hole of a share becomes the first one that spells it out."""
        first: dict[str, Hole] = {}
        for gene, hole in self._at.items():
            if hole.share is None:
                continue
            defining = first.setdefault(hole.share, hole)
            if not hole.same_as(defining):
                where = f"line {defining.place.line}"
                message = (
                    f"share '{hole.share}' has other values in {where}; write {{share: {hole.share}}} here"
                )
                problems.append(Problem.at(hole.place, message, path=gene))
            self._at[gene] = defining
        for gene, name, node in self._references:
            if name in first:
                self._at[gene] = first[name]
            else:
                hint = f"give one of its holes values: {{choice: [...], share: {name}}}"
                problems.append(Problem.at(node.place, f"share '{name}' has no values", path=gene, hint=hint))

    def _fill(self, choose: _Chosen) -> Node:
        try:
            return self._filled(self.source.root, "", choose)
        except _Undecided as undecided:
            raise SpecError.at(
                undecided.hole.place, "no value for this hole", path=undecided.hole.gene
            ) from None

    def _filled(self, node: Node, gene: str, choose: _Chosen) -> Node:
        if is_hole(node):
            hole = self._at[gene]
            value = choose(hole)
            if hole.kind != "choice":
                return Node(value, node.place)
            branch = hole.branch(value)
            assert branch is not None
            return branch if hole.share else self._filled(branch, f"{gene}<{value}>", choose)
        if isinstance(node.value, dict):
            filled = {
                key: self._filled(child, f"{gene}.{key}" if gene else key, choose)
                for key, child in node.value.items()
            }
            return node.with_entries(filled, node.keys)
        if isinstance(node.value, list):
            items = [self._filled(child, f"{gene}[{i}]", choose) for i, child in enumerate(node.value)]
            return Node(items, node.place)
        return node


class _Chosen:
    """Genes that remember which of them were asked for."""

    def __init__(self, genes: Mapping[str, Any]):
        self.genes = genes
        self.asked: set[str] = set()

    def __call__(self, hole: Hole) -> Any:
        self.asked.add(hole.gene)
        if hole.gene not in self.genes:
            raise _Undecided(hole)
        value = self.genes[hole.gene]
        if not hole.holds(value):
            raise SpecError.at(hole.place, f"{shown(value)} is no value of this hole", path=hole.gene)
        return value


class _Undecided(Exception):
    """A hole that must be filled has no gene."""

    def __init__(self, hole: Hole):
        super().__init__(hole.gene)
        self.hole = hole
