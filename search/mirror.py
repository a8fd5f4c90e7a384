"""The ledger as an Optuna study: for samplers, for dashboards, for plots. The ledger stays the truth."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.exc import SQLAlchemyError

from archspec.errors import SpecError
from archspec.quantities import Budget
from search.front import Direction
from search.genome import Genome
from search.proposers import Past

_TRIAL = "archspec:trial"


def constraints(budgets: Mapping[str, Budget], quantities: Mapping[str, float]) -> dict[str, float]:
    """Every budget's excess under its name, sorted: samplers need the same keys, in one order, everywhere."""
    return {name: budgets[name].excess(quantities[name]) for name in sorted(budgets)}


def frozen_trial(
    genome: Genome,
    past: Past,
    attrs: Mapping[str, Any] | None = None,
    *,
    system_attrs: Mapping[str, Any] | None = None,
) -> FrozenTrial:
    """One finished candidate as a trial of Optuna."""
    done = past.state == "done"
    return create_trial(
        state=TrialState.COMPLETE if done else TrialState.FAIL,
        values=list(past.values) if done else None,
        params=dict(past.genes),
        distributions=genome.distributions,
        user_attrs=dict(attrs or {}),
        system_attrs=dict(system_attrs or {}),
        constraints=dict(past.constraints) if done and past.constraints is not None else None,
    )


_UNUSABLE = (SQLAlchemyError, optuna.exceptions.OptunaError, ValueError, ImportError)


@contextlib.contextmanager
def quiet_optuna() -> Iterator[None]:
    """Optuna says nothing on standard error meanwhile, warnings excepted."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


@quiet_optuna()
def mirror(
    url: str,
    name: str,
    genome: Genome,
    directions: Sequence[Direction],
    history: Sequence[tuple[int, str, Past]],
) -> int:
    """Add to the study ``name`` at ``url`` the trials that it lacks; returns how many were added."""
    shown = hide_password(url)
    try:
        study = optuna.create_study(
            storage=url, study_name=name, directions=list(directions), load_if_exists=True
        )
        known = {trial.user_attrs.get(_TRIAL) for trial in study.get_trials(deepcopy=False)}
        fresh = [
            frozen_trial(genome, past, {_TRIAL: number, "archspec:spec": spec})
            for number, spec, past in history
            if number not in known and past.state != "pending"
        ]
        study.add_trials(fresh)
    except _UNUSABLE as error:
        raise _unusable(shown, error, "the search itself is safe in its folder") from None
    return len(fresh)


@quiet_optuna()
def check_storage(url: str) -> None:
    """SpecError if there is no storage at ``url``: told before a search, not at its end."""
    try:
        optuna.storages.get_storage(url)
    except _UNUSABLE as error:
        raise _unusable(hide_password(url), error, "nothing was run") from None


def _unusable(shown: str, error: Exception, state: str) -> SpecError:
    return SpecError(
        f"--storage {shown} cannot be used: {type(error).__name__}",
        hint=f"give an SQLAlchemy URL such as sqlite:///study.db; {state}",
    )


def hide_password(url: str) -> str:
    """A storage URL as it may be shown."""
    from sqlalchemy.engine import make_url

    try:
        return make_url(url).render_as_string(hide_password=True)
    except SQLAlchemyError:
        return "(a URL that cannot be read)"
