"""What proposers make of a history: who is on its front, and children of those who are.

All values are turned so that smaller is better. A candidate within every budget stands before any that is
not; among the others the smaller total excess stands first (Deb's constrained domination).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from search.front import Direction
from search.genome import Gene, Genes, Genome
from search.pareto import Point, ranks
from search.proposers import Past, Problem

_P_CROSSOVER = 0.3
_P_NEIGHBOUR = 0.7  # of a range: a step to the side rather than a new draw


def smaller_is_better(values: Sequence[float], directions: Sequence[Direction]) -> Point:
    """Values with the sign turned where larger is better."""
    return tuple(-v if d == "maximize" else v for v, d in zip(values, directions, strict=True))


def excess(past: Past) -> float:
    """How far a finished candidate is beyond its budgets in total; 0 within all of them."""
    return sum(max(0.0, value) for value in (past.constraints or {}).values())


def parents(history: Sequence[Past], directions: Sequence[Direction], *, n: int) -> list[Past]:
    """The best ``n`` finished candidates, front by front."""
    done = [past for past in history if past.state == "done"]
    within = [past for past in done if excess(past) == 0]
    beyond = sorted((past for past in done if excess(past) > 0), key=excess)
    rank = ranks([smaller_is_better(past.values, directions) for past in within])
    order = sorted(range(len(within)), key=lambda index: rank[index])
    return [*(within[index] for index in order), *beyond][:n]


def mutated(genome: Genome, genes: Genes, rng: random.Random, *, n: int) -> dict[str, Any]:
    """``genes`` with ``n`` of them changed."""
    child = dict(genes)
    movable = [gene for gene in genome.genes if gene.low != gene.high or len(gene.options) > 1]
    for gene in rng.sample(movable, min(n, len(movable))):
        child[gene.name] = _other(gene, child[gene.name], rng)
    return child


def child(genome: Genome, pool: Sequence[Past], rng: random.Random) -> dict[str, Any]:
    """A mutation of one of ``pool``, sometimes of a cross of two; the better stand first and are likelier."""

    def pick() -> Genes:
        return pool[min(rng.randrange(len(pool)), rng.randrange(len(pool)))].genes

    genes = dict(pick())
    if len(pool) > 1 and rng.random() < _P_CROSSOVER:
        other = pick()
        genes = {name: (other if rng.random() < 0.5 else genes)[name] for name in genes}
    return mutated(genome, genes, rng, n=1 + min(int(rng.expovariate(1.0)), len(genome.genes) - 1))


def seen_hashes(problem: Problem, history: Sequence[Past]) -> set[str]:
    """The architectures that a history holds."""
    found = (problem.screen(past.genes) for past in history)
    return {screened.hash for screened in found if screened is not None}


def _other(gene: Gene, value: Any, rng: random.Random) -> Any:
    """Another value than ``value``."""
    neighbours = list(gene.neighbours(value))
    if gene.kind != "choice" and rng.random() > _P_NEIGHBOUR and (drawn := gene.sample(rng)) != value:
        return drawn
    return rng.choice(neighbours)
