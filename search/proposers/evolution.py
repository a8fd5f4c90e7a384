"""Mutation and crossover of the candidates on the current front; what cannot be evaluated is not proposed.

As in regularised and Pareto-archive evolution, without generations: every finished candidate is a possible
parent at once. Until there are a few, candidates are random.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from search.population import child, parents, seen_hashes
from search.proposers import Past, Proposer

N_STARTUP = 10
_N_PARENTS = 10
_N_ATTEMPTS = 400  # children in all that may turn out to be known or too large


class EvolutionProposer(Proposer):
    """Children of the front, each one new and within the closed-form budgets."""

    kind = "evolution"

    def propose(self, history: Sequence[Past], *, k: int, seed: int) -> list[dict[str, Any]]:
        rng = random.Random(seed)  # noqa: S311
        pool = parents(history, self.directions, n=_N_PARENTS)
        seen = seen_hashes(self.problem, history)
        return list(islice(self._fresh(pool, seen, rng), k))

    def _fresh(self, pool: Sequence[Past], seen: set[str], rng: random.Random) -> Iterator[dict[str, Any]]:
        for _ in range(_N_ATTEMPTS):
            young = len(pool) < N_STARTUP
            genes = self.genome.sample(rng) if young else child(self.genome, pool, rng)
            screened = self.problem.screen(genes)
            if screened is not None and screened.hash not in seen:
                seen.add(screened.hash)
                yield genes
