"""Optuna's tree-structured Parzen estimator, multivariate, on the static genome.

The study lives in memory and is built from the history at every call. Refused and failed candidates are told
as ``FAIL``: told as pruned, they would fill TPE's good set. Candidates that are being evaluated are told as
running, so that TPE keeps away from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import optuna
from optuna.trial import TrialState

from search.mirror import frozen_trial, quiet_optuna
from search.proposers import Past, Proposer

_N_STARTUP = 10


class TpeProposer(Proposer):
    """Random for the first few, then a model of what the good ones share."""

    kind = "tpe"

    @quiet_optuna()
    def propose(self, history: Sequence[Past], *, k: int, seed: int) -> list[dict[str, Any]]:
        sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, n_startup_trials=_N_STARTUP)
        study = optuna.create_study(directions=list(self.directions), sampler=sampler)
        study.add_trials(frozen_trial(self.genome, past) for past in history if past.state != "pending")
        for past in history:
            if past.state == "pending":
                study.enqueue_trial(dict(past.genes))
                study.ask(self.genome.distributions)
        proposals = []
        for _ in range(k):
            trial = study.ask(self.genome.distributions)
            proposals.append(dict(trial.params))
        assert all(t.state != TrialState.WAITING for t in study.get_trials(deepcopy=False))
        return proposals
