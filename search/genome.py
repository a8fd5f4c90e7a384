"""What a proposer sees of a space: one flat set of genes, the same for every candidate.

Every hole of every branch is a gene and is always given a value, since samplers only model parameter names
that every trial has. Genes of branches that were not taken do not change the spec, nor its hash.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

Genes = Mapping[str, Any]


@dataclass(frozen=True)
class Gene:
    """One place where candidates differ: a choice among ``options``, or a range."""

    name: str
    kind: Literal["choice", "int", "float"]
    options: tuple[Any, ...] = ()
    low: float = 0
    high: float = 0
    step: float | None = None
    log: bool = False

    @property
    def first(self) -> Any:
        """The value that a baseline takes where its author named none."""
        return self.options[0] if self.kind == "choice" else self.low

    @property
    def distribution(self) -> BaseDistribution:
        """The same, as Optuna knows it."""
        if self.kind == "choice":
            return CategoricalDistribution(self.options)
        if self.kind == "int":
            return IntDistribution(int(self.low), int(self.high), log=self.log, step=int(self.step or 1))
        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)

    def sample(self, rng: random.Random) -> Any:
        """A value, uniform over the options or the (logarithmic) range."""
        if self.kind == "choice":
            return rng.choice(self.options)
        low, high = self.low, self.high
        if self.kind == "int":
            if self.log:
                return min(int(high), int(math.exp(rng.uniform(math.log(low), math.log(high + 1)))))
            return int(low) + int(self.step or 1) * rng.randint(0, int((high - low) // (self.step or 1)))
        if self.log:
            return math.exp(rng.uniform(math.log(low), math.log(high)))
        if self.step is None:
            return rng.uniform(low, high)
        return low + self.step * rng.randint(0, int((high - low) / self.step + 1e-9))

    def holds(self, value: Any) -> bool:
        """Whether ``value`` is one that this gene can take."""
        if self.kind == "choice":
            return any(value == option and type(value) is type(option) for option in self.options)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        return self.low <= value <= self.high and (self.kind == "float" or float(value).is_integer())

    def neighbours(self, value: Any) -> Iterator[Any]:
        """Every other option; of a range, the values one step away and the ends."""
        if self.kind == "choice":
            yield from (option for option in self.options if option != value)
            return
        step = self.step or (1 if self.kind == "int" else (self.high - self.low) / 10)
        for other in (value - step, value + step, self.low, self.high):
            if other != value and self.low <= other <= self.high:
                yield other


@dataclass(frozen=True)
class Genome:
    """All genes of a space, in the order of the text."""

    genes: tuple[Gene, ...]

    @cached_property
    def by_name(self) -> dict[str, Gene]:
        """Genes by their names."""
        return {gene.name: gene for gene in self.genes}

    @cached_property
    def distributions(self) -> dict[str, BaseDistribution]:
        """Every gene as an Optuna distribution; the same for every trial."""
        return {gene.name: gene.distribution for gene in self.genes}

    def sample(self, rng: random.Random) -> dict[str, Any]:
        """Genes at random, each uniform."""
        return {gene.name: gene.sample(rng) for gene in self.genes}

    def complete(self, genes: Genes) -> dict[str, Any]:
        """``genes`` with the first value for every gene that they leave out."""
        return {gene.name: genes.get(gene.name, gene.first) for gene in self.genes}

    def key(self, genes: Genes) -> tuple[Any, ...]:
        """Genes as something that can stand in a set."""
        return tuple(genes[gene.name] for gene in self.genes)
