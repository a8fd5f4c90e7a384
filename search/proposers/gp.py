"""Optuna's Gaussian process on the static genome: for few numeric genes and few evaluations.

Seconds a proposal, growing with the cube of the history; expect no more of it than of random search on a
space of many choices.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import optuna

from search.asking import ask
from search.proposers import Past, Proposer

_N_STARTUP = 10


class GpProposer(Proposer):
    """Expected hypervolume improvement under one process per objective and constraint."""

    kind = "gp"

    def propose(self, history: Sequence[Past], *, k: int, seed: int) -> list[dict[str, Any]]:
        sampler = optuna.samplers.GPSampler(
            seed=seed, n_startup_trials=_N_STARTUP, deterministic_objective=False
        )
        return ask(sampler, self.problem, history, k=k)
