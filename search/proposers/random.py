"""Every gene uniform and independent: the baseline that a cleverer proposer has to beat."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from search.proposers import Past, Proposer


class RandomProposer(Proposer):
    """Ignores what it has seen."""

    kind = "random"

    def propose(self, history: Sequence[Past], *, k: int, seed: int) -> list[dict[str, Any]]:
        rng = random.Random(seed)  # noqa: S311
        return [self.genome.sample(rng) for _ in range(k)]
