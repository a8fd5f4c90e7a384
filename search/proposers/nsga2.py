"""Optuna's NSGA-II on the static genome, in generations of ``POPULATION`` finished candidates.

NSGA-II takes for parents only trials that carry the number of their generation, which candidates added to a
study lack; here every finished candidate gets the one that its place in the history gives it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import optuna

from search.asking import ask
from search.proposers import Past, Proposer

POPULATION = 20


class Nsga2Proposer(Proposer):
    """Random in the first generation, then tournaments, uniform crossover and mutation."""

    kind = "nsga2"

    def propose(self, history: Sequence[Past], *, k: int, seed: int) -> list[dict[str, Any]]:
        sampler = optuna.samplers.NSGAIISampler(seed=seed, population_size=POPULATION)
        key = sampler._get_generation_key()
        return ask(sampler, self.problem, history, k=k, attrs=lambda index: {key: index // POPULATION})
