"""The Optuna study is written behind: whatever becomes of it, the search neither waits nor stops."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial
from sqlalchemy.exc import OperationalError
from table_study import InlineExecutor, TableEvaluator, make_study

from search import mirror
from search.driver import Event, search
from search.front import SearchResult


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'mirror.db'}"


def run(
    url: str, out: Path, *, listen: Callable[[Event], None] = lambda event: None, trials: int = 6
) -> SearchResult:
    return search(
        make_study(trials=trials),
        TableEvaluator(),
        out,
        make_executor=lambda folder: InlineExecutor(),
        storage=url,
        listen=listen,
    )


def mirrored(url: str) -> list[FrozenTrial]:
    storage = RDBStorage(url)
    try:
        (study,) = storage.get_all_studies()
        return storage.get_all_trials(study._study_id)
    finally:
        storage.remove_session()
        storage.engine.dispose()


def wanted(result: SearchResult) -> list[int]:
    return [row.trial for row in result.rows if row.status != "duplicate"]


def numbers(url: str) -> list[int]:
    return sorted(trial.user_attrs["archspec:trial"] for trial in mirrored(url))


class Gate:
    """Stands in the way of every trial that is written to a study."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, before: Callable[[], None]):
        self.n_calls = 0
        add = optuna.Study.add_trial

        def guarded(study: optuna.Study, trial: Any) -> None:
            self.n_calls += 1
            before()
            add(study, trial)

        monkeypatch.setattr(optuna.Study, "add_trial", guarded)


def test_a_study_that_is_slow_is_not_waited_for_and_catches_up_at_the_end(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first trial is written only when the search is through with its last."""
    is_over = threading.Event()
    Gate(monkeypatch, lambda: is_over.wait(60) or pytest.fail("the search waited for its mirror"))
    n_trials = []

    def listen(event: Event) -> None:
        if event.trial is not None:
            n_trials.append(event.trial.number)
        if event.kind == "finals":
            is_over.set()

    result = run(url, tmp_path / "out", listen=listen)
    assert sorted(n_trials) == [row.trial for row in result.rows]
    assert numbers(url) == wanted(result)


def test_a_study_that_fails_for_a_while_is_warned_of_once_and_complete_in_the_end(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = iter(range(3))

    def fail() -> None:
        if next(failures, None) is not None:
            raise OperationalError("INSERT", {}, Exception("the server is away"))

    monkeypatch.setattr(mirror, "_PAUSE_S", 0.01)
    Gate(monkeypatch, fail)
    said: list[Event] = []
    result = run(url, tmp_path / "out", listen=said.append)
    warnings = [event.text for event in said if event.kind == "warning"]
    assert len(warnings) == 1
    assert "lags behind (OperationalError); the search goes on" in warnings[0]
    assert numbers(url) == wanted(result)


def test_a_study_that_stays_broken_costs_nothing_and_the_next_run_fills_the_gaps(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[Event] = []
    with monkeypatch.context() as patch:
        Gate(patch, lambda: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        first = run(url, tmp_path / "out", listen=said.append)
    assert first.complete
    warnings = [event.text for event in said if event.kind == "warning"]
    assert len(warnings) == 2
    assert "lacks trials; the next run adds them" in warnings[1]
    assert mirrored(url) == []
    result = run(url, tmp_path / "out", trials=8)
    assert numbers(url) == wanted(result)


def test_a_study_that_hangs_is_left_behind(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    let_go = threading.Event()
    Gate(monkeypatch, lambda: let_go.wait(60))  # type: ignore[arg-type, return-value]
    monkeypatch.setattr(mirror, "_CLOSING_S", 0.1)
    said: list[Event] = []
    assert run(url, tmp_path / "out", listen=said.append).complete
    assert "lacks trials; the next run adds them" in said[-2].text
    let_go.set()
    for thread in threading.enumerate():
        if thread.name == "optuna-mirror":
            thread.join(20)


def test_the_dashboard_s_own_reading_finds_the_constraints(url: str, tmp_path: Path) -> None:
    serializer = pytest.importorskip("optuna_dashboard._serializer")
    search(
        make_study(trials=6, budgets={"params": "<= 900", "score": ">= 0.5"}),
        TableEvaluator(),
        tmp_path / "out",
        make_executor=lambda folder: InlineExecutor(),
        storage=url,
    )
    complete = [trial for trial in mirrored(url) if trial.state == optuna.trial.TrialState.COMPLETE]
    shown = [serializer.serialize_frozen_trial(0, trial, {})["constraints"] for trial in complete]
    assert all(len(constraints) == 2 for constraints in shown)
    broken = {any(value > 0 for value in constraints) for constraints in shown}
    assert broken == {True, False}
