"""Random search under the same budgets: the baseline that every clever search has to beat.

Its candidates are drawn after the search, trained exactly alike, and never shown to a proposer. The draws
depend on the study's seed and budgets alone, not on what the search has found.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Collection, Iterator, Mapping

from archspec.quantities import Budget
from search.evaluate import Candidate, Evaluator, Unfit
from search.gates import refusal

RANDOM_SEARCH = "random search"  # who proposed the trial
_N_ATTEMPTS = 20_000


def draws(
    evaluator: Evaluator, budgets: Mapping[str, Budget], *, seed: int, known: Collection[str] = ()
) -> Iterator[Candidate]:
    """Distinct candidates within the closed-form budgets, each filling equally likely; ``known`` are hashes.

    Those that are known are left out, which is to go on with the same sequence.
    """
    rng = random.Random(f"{seed} {RANDOM_SEARCH}")  # noqa: S311 (reproducible, not secret)
    seen = set(known)
    for _ in itertools.repeat(None, _N_ATTEMPTS):
        try:
            candidate = evaluator.candidate(evaluator.genome.sample(rng))
        except Unfit:
            continue
        if candidate.hash not in seen and refusal(candidate, budgets) is None:
            seen.add(candidate.hash)
            yield candidate
