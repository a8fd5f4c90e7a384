"""Optuna's tree-structured Parzen estimator, multivariate, on the static genome."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import optuna

from search.asking import ask
from search.proposers import Past, Proposer

_N_STARTUP = 10


class TpeProposer(Proposer):
    """Random for the first few, then a model of what the good ones share."""

    kind = "tpe"

    def propose(self, history: Sequence[Past], *, k: int, seed: int) -> list[dict[str, Any]]:
        sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, n_startup_trials=_N_STARTUP)
        return ask(sampler, self.problem, history, k=k)
