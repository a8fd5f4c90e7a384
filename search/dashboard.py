"""optuna-dashboard over a search: on its mirror, or on a mirror in memory that is built from the ledger."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.exceptions import ExperimentalWarning
from optuna.trial import TrialState, create_trial
from sqlalchemy.exc import SQLAlchemyError

from archspec.errors import SpecError
from search.front import Row, SearchResult
from search.mirror import quiet_optuna
from search.solve import load_result
from search.storage import parse_storage

_PORT = 8080


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *arguments: Any) -> None:
        """Requests are not told."""


def serve(folder: Path | None, storage: str | None, *, say: Callable[[str], None]) -> None:
    """Serve on this machine alone until Ctrl-C."""
    server = make_dashboard(folder, storage)
    what = parse_storage(storage).shown if storage is not None else f"{folder}, as it is now"
    say(f"{what}: http://127.0.0.1:{server.server_port}/dashboard/ (Ctrl-C ends)")
    with server:
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            say("ended")


def make_dashboard(folder: Path | None, storage: str | None, *, port: int = _PORT) -> WSGIServer:
    """A server on 127.0.0.1, on a free port where ``port`` is taken."""
    try:
        wsgi = importlib.import_module("optuna_dashboard").wsgi
    except ImportError:
        raise SpecError(
            "--dashboard needs optuna-dashboard, which is not installed",
            hint='pip install "archspec-compiler[dashboard]"',
        ) from None
    if storage is None:
        assert folder is not None
        app = wsgi(memory_mirror(load_result(folder)))
    else:
        app = wsgi(_mirrored(storage))
    try:
        return make_server("127.0.0.1", port, app, handler_class=_Quiet)
    except OSError:
        return make_server("127.0.0.1", 0, app, handler_class=_Quiet)


@quiet_optuna()
def memory_mirror(result: SearchResult) -> optuna.storages.BaseStorage:
    """The trials of ``result`` as a study in memory; budgets are under the key that the dashboard reads."""
    storage = optuna.storages.InMemoryStorage()
    directions = [objective.direction for objective in result.objectives]
    study = optuna.create_study(storage=storage, study_name=result.study, directions=directions)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        study.set_metric_names([objective.quantity for objective in result.objectives])
    rows = [row for row in result.rows if row.status in ("done", "failed")]
    spans = _distributions(rows)
    for row in rows:
        done = row.status == "done"
        study.add_trial(
            create_trial(
                state=TrialState.COMPLETE if done else TrialState.FAIL,
                values=[row.objectives[o.quantity] for o in result.objectives] if done else None,
                params=dict(row.genes),
                distributions={name: spans[name] for name in row.genes},
                user_attrs={"trial": row.trial, "spec": row.hash, "reason": row.reason},
                system_attrs={"constraints": [float(not row.feasible)]} if done else {},
            )
        )
    return storage


def _distributions(rows: list[Row]) -> dict[str, BaseDistribution]:
    """From the values that were tried, since a ledger's rows do not hold the space."""
    values: dict[str, list[Any]] = {}
    for row in rows:
        for name, value in row.genes.items():
            values.setdefault(name, []).append(value)
    return {name: _distribution(found) for name, found in values.items()}


def _distribution(values: list[Any]) -> BaseDistribution:
    kinds = {type(value) for value in values}
    if kinds == {int}:
        return IntDistribution(min(values), max(values))
    if kinds <= {int, float}:
        return FloatDistribution(min(values), max(values))
    return CategoricalDistribution(tuple(dict.fromkeys(values)))


@quiet_optuna()
def _mirrored(url: str) -> optuna.storages.BaseStorage:
    try:
        storage = optuna.storages.get_storage(parse_storage(url).for_optuna)
        n_studies = len(storage.get_all_studies())
    except (SQLAlchemyError, ValueError, ImportError) as error:
        raise SpecError(
            f"--storage {parse_storage(url).shown} cannot be read: {type(error).__name__}",
            hint="without --storage the dashboard shows the search's folder",
        ) from None
    if n_studies == 0:
        raise SpecError(
            f"--storage {parse_storage(url).shown} holds no study",
            hint="a search with the same --storage is mirrored there",
        )
    return storage
