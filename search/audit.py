"""The sample that tests the rungs: feasible candidates, evenly over the quartiles of their size."""

from __future__ import annotations

import random

from search.genome import Genes, Genome
from search.proposers import Screen, Screened
from search.proxy_validity import quartiles

_N_DRAWN = 24  # for each member of the sample,
_N_ATTEMPTS = 40  # and how often to draw for each of these


def audit_sample(genome: Genome, screen: Screen, n: int, *, seed: int) -> list[Genes]:
    """``n`` distinct candidates within the closed-form budgets, or all that random draws have found."""
    rng = random.Random(seed)  # noqa: S311
    found: dict[str, Screened] = {}
    for _ in range(_N_ATTEMPTS * n):
        screened = screen(genome.sample(rng))
        if screened is not None:
            found.setdefault(screened.hash, screened)
        if len(found) == _N_DRAWN * n:
            break
    drawn = list(found.values())
    parts = quartiles([_size(screened) for screened in drawn])
    for part in parts:
        rng.shuffle(part)
    chosen: list[Genes] = []
    while len(chosen) < n and any(parts):
        chosen += [drawn[part.pop()].genes for part in parts if part]
    return chosen[:n]


def _size(screened: Screened) -> float:
    return screened.costs.get("flops", screened.costs.get("params", 0.0))
