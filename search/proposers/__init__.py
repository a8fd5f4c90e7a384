"""Ways to choose what to try next, one strategy per file; the file's name is its ``kind``.

A proposer is a function of the history alone: it keeps nothing between calls, so that a search that was
killed goes on as if it had not been.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from search.front import Direction
from search.genome import Genes, Genome
from search.one_per_file import class_in, file_names


@dataclass(frozen=True)
class Past:
    """One earlier candidate as a proposer sees it.

    ``values`` are in the order of the objectives, there when ``state`` is ``done`` or ``dropped``: those of
    a dropped candidate are of the rung at which it stayed behind, not comparable with others.
    ``constraints`` has every key for every ``done`` candidate; zero or less is within the budget.
    """

    genes: Genes
    state: Literal["done", "dropped", "failed", "refused", "pending"]
    values: tuple[float, ...] = ()
    constraints: Mapping[str, float] | None = None
    fidelity: str = "full"  # the rung that ``values`` are of


@dataclass(frozen=True)
class Screened:
    """What is known of a candidate that can be built and keeps every closed-form budget.

    ``genes`` are the evaluator's own spelling: where several spell one architecture, it may always give one.
    ``features``, where there are any, are what a regression is to see in place of genes and layers.
    """

    hash: str
    genes: Genes
    costs: Mapping[str, float]
    strip: tuple[tuple[str, str], ...]
    active: frozenset[str] | None = None  # the genes that shape it; None: all of them
    features: Mapping[str, float] | None = None


Screen = Callable[[Genes], Screened | None]


@dataclass(frozen=True)
class Problem:
    """What is searched, for what, and a quick test that tells which genes need no evaluation (None)."""

    genome: Genome
    objectives: Mapping[str, Direction]
    screen: Screen


class Proposer(ABC):
    """History -> candidates worth trying."""

    kind: ClassVar[str]

    def __init__(self, problem: Problem):
        self.problem = problem
        self.genome = problem.genome
        self.directions = tuple(problem.objectives.values())

    @abstractmethod
    def propose(self, history: Sequence[Past], *, k: int, seed: int) -> list[dict[str, Any]]:
        """``k`` proposals, the best first; deterministic in its arguments. Some may have been seen before."""


def kinds() -> tuple[str, ...]:
    """Every proposer there is."""
    return file_names(__path__)


def proposer_class(kind: str) -> type[Proposer]:
    """The proposer in the file ``kind``."""
    return class_in(__name__, kind, Proposer)  # type: ignore[type-abstract]
