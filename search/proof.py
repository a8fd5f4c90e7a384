"""What can never be, told before a search begins: budgets that no candidate keeps, options that none has.

Bounds of the closed form over a whole space prove it for spaces of specs; a look at every filling proves it
for small spaces of any kind. A sample proves nothing, and is never taken for a proof.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol, runtime_checkable

from archspec.quantities import Budget
from search.genome import Gene, Genome


@dataclass(frozen=True)
class NeverOption:
    """A value of a gene that no candidate within the budgets has; known by bounds, or by enumeration."""

    gene: str
    value: Any
    why: str
    how: str

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.gene}={self.value} can never fit ({self.how}): {self.why}"


@dataclass(frozen=True)
class Impossible:
    """A budget that no candidate keeps; empty ``quantity``: several together. ``why`` is for people."""

    quantity: str
    why: str


@dataclass(frozen=True)
class Proof:
    """``method`` says where the rest comes from, or why nothing is proved."""

    method: str = "none: this space has no bounds"
    impossible: Impossible | None = None
    never: tuple[NeverOption, ...] = ()


@runtime_checkable
class Bounded(Protocol):
    """An evaluator that can prove something of its whole space."""

    def prove(self, budgets: Mapping[str, Budget]) -> Proof:
        """What the closed-form ``budgets`` rule out."""


def pruned(genome: Genome, never: Iterable[NeverOption]) -> Genome:
    """The genome without options that can never fit; what is ruled out in the middle of a range stays."""
    out = {(option.gene, repr(option.value)) for option in never}
    return Genome(tuple(_pruned(gene, out) for gene in genome.genes)) if out else genome


def _pruned(gene: Gene, never: set[tuple[str, str]]) -> Gene:
    def fits(value: Any) -> bool:
        return (gene.name, repr(value)) not in never

    if gene.kind == "choice":
        left: Sequence[Any] = [value for value in gene.options if fits(value)]
        return replace(gene, options=tuple(left)) if left else gene  # it stands in a branch that never fits
    if gene.kind == "int":
        step = int(gene.step or 1)
        low, high = int(gene.low), int(gene.high)
        while low <= high and not fits(low):
            low += step
        while high >= low and not fits(high):
            high -= step
        return replace(gene, low=low, high=high) if low <= high else gene
    return gene
