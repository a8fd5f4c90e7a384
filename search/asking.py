"""Ask a sampler of Optuna what it would try after a given history.

The study lives in memory and is built anew at every call. Refused and failed candidates are told as ``FAIL``:
told as pruned, they would fill TPE's good set. Candidates that are being evaluated are told as running, so
that the samplers which can keep away from them do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.trial import TrialState

from search.mirror import frozen_trial, quiet_optuna
from search.proposers import Past, Problem


def _none(index: int) -> Mapping[str, Any]:
    return {}


@quiet_optuna()
def ask(
    sampler: BaseSampler,
    problem: Problem,
    history: Sequence[Past],
    *,
    k: int,
    attrs: Callable[[int], Mapping[str, Any]] = _none,
) -> list[dict[str, Any]]:
    """``k`` proposals; ``attrs`` gives system attributes to the n-th finished candidate."""
    genome, distributions = problem.genome, problem.genome.distributions
    study = optuna.create_study(directions=list(problem.objectives.values()), sampler=sampler)
    n_done = 0
    for past in history:
        if past.state == "pending":
            continue
        study.add_trial(frozen_trial(genome, past, system_attrs=attrs(n_done)))
        n_done += past.state == "done"
    for past in history:
        if past.state == "pending":
            study.enqueue_trial(dict(past.genes))
            study.ask(distributions)
    proposals = [dict(study.ask(distributions).params) for _ in range(k)]
    assert all(t.state != TrialState.WAITING for t in study.get_trials(deepcopy=False))
    return proposals
