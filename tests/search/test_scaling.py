"""What a search spends on itself does not grow with its history, counted in calls and in steps of SQLite."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from table_study import InlineExecutor, TableEvaluator, make_study

from search.driver import Event, search
from search.evaluate import Candidate
from search.genome import Genes
from search.ledger import FILE_NAME, Asked, EvidenceKey, Ledger, Trial
from search.ledgers import sqlite

SHORT, LONG = 100, 1_000


class CountingEvaluator(TableEvaluator):
    """Writes down which genes it is asked about."""

    def __init__(self) -> None:
        super().__init__(baselines={})
        self.asked: list[tuple[Any, ...]] = []

    def candidate(self, genes: Genes) -> Candidate:
        self.asked.append(self.genome.key(genes))
        return super().candidate(genes)


@pytest.mark.parametrize("kind", ["predictor", "evolution", "random"])
def test_a_resumed_search_builds_nothing_of_its_history_again(kind: str, tmp_path: Path) -> None:
    evaluator = CountingEvaluator()

    def go_on(trials: int, listen: Callable[[Event], None] = lambda event: None) -> None:
        study = make_study(proposer=kind, trials=trials, search_baselines=[])
        search(study, evaluator, tmp_path, make_executor=lambda folder: InlineExecutor(), listen=listen)

    def forget(event: Event) -> None:
        if event.kind == "resumed":  # the survey of the space is over
            evaluator.asked.clear()

    go_on(20)
    before = {evaluator.genome.key(trial.document["genes"]) for trial in _trials(tmp_path)}
    assert len(before) >= 20
    go_on(24, forget)
    assert len(evaluator.asked) > 0
    assert before.isdisjoint(evaluator.asked)


def _trials(folder: Path) -> list[Trial]:
    ledger = Ledger(folder / FILE_NAME, writable=False)
    found = ledger.trials()
    ledger.close()
    return found


def test_a_round_costs_as_many_statements_late_as_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    statements: list[str] = []
    opened = sqlite._open

    def traced(path: Path, *, writable: bool) -> Any:
        db = opened(path, writable=writable)
        db.set_trace_callback(statements.append)
        return db

    monkeypatch.setattr(sqlite, "_open", traced)
    spent: list[int] = []  # by round, from its row to that of its last trial

    def count(event: Event) -> None:
        if event.kind == "round":
            statements.clear()
            spent.append(0)
        elif event.kind == "trial" and event.trial is not None and event.trial.status == "done":
            spent[-1] = len(statements)

    study = make_study(trials=60, budgets={}, objectives={"score": "maximize"}, search_baselines=[])
    evaluator = TableEvaluator(baselines={})
    search(study, evaluator, tmp_path, make_executor=lambda folder: InlineExecutor(n_workers=1), listen=count)
    assert len(spent) >= 60 // study.batch
    assert set(spent[: 60 // study.batch]) == {spent[0]}


CALLS: dict[str, Callable[[Ledger, int], object]] = {
    "add_trial": lambda ledger, n: ledger.add_trial(_trial(n), study="s"),
    "add_evidence": lambda ledger, n: ledger.add_evidence(_key(n), {}),
    "evidence": lambda ledger, n: ledger.evidence(_key(n // 2)),
    "deaths": lambda ledger, n: ledger.deaths(f"{n // 2}"),
    "next_number": lambda ledger, n: ledger.next_number(),
    "next_round": lambda ledger, n: ledger.next_round(),
    "pending, but for the first time": lambda ledger, n: ledger.pending(),
    "round_of": lambda ledger, n: ledger.round_of(n // 16),
}


@pytest.fixture(scope="module")
def ledgers(tmp_path_factory: pytest.TempPathFactory) -> Any:
    opened = [(_filled(tmp_path_factory.mktemp("ledger") / FILE_NAME, n), n) for n in (SHORT, LONG)]
    yield opened
    for ledger, _ in opened:
        ledger.close()


@pytest.mark.parametrize("name", CALLS)
def test_a_call_of_the_ledger_reads_no_history(ledgers: list[tuple[Ledger, int]], name: str) -> None:
    short, long = (_steps(ledger, lambda ledger=ledger, n=n: CALLS[name](ledger, n)) for ledger, n in ledgers)
    assert long < 1.5 * short + 50, "steps of SQLite's machine"


def _steps(ledger: Ledger, call: Callable[[], object]) -> int:
    n = 0

    def tick() -> int:
        nonlocal n
        n += 1
        return 0

    ledger._db._db.set_progress_handler(tick, 1)  # type: ignore[attr-defined]
    call()
    ledger._db._db.set_progress_handler(None, 1)  # type: ignore[attr-defined]
    assert n > 0
    return n


def _filled(path: Path, n: int) -> Ledger:
    ledger = Ledger(path)
    asked = [Asked(number, number // 8, f"{number}", None, {}) for number in range(n)]
    ledger.add_round(asked, map(_trial, range(n - 4)), study="s")
    for number in range(0, n, 10):
        ledger.add_evidence(_key(number), {})
        ledger.add_death(f"{number}", "copy", "it ran out of memory")
    ledger.pending()
    return ledger


def _trial(number: int) -> Trial:
    return Trial(number, f"{number}", "done", {})


def _key(number: int) -> EvidenceKey:
    return EvidenceKey("training", f"{number}", "copy", "recipe")
