"""The random search that a study is compared with: as many candidates, the same budgets, seen by nobody."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

from table_study import InlineExecutor, TableEvaluator, make_study

from archspec.quantities import Budget
from search.driver import search
from search.front import SearchResult
from search.ledger import FILE_NAME, Ledger
from search.random_search import draws
from search.rounds import Rounds

BUDGETS = {"params": Budget(quantity="params", text="<= 900")}  # type: ignore[call-arg]


def run(out: Path, **changes: Any) -> SearchResult:
    study = make_study(search_baselines=["random"], **changes)
    return search(study, TableEvaluator(), out, make_executor=lambda folder: InlineExecutor())


def test_draws_are_distinct_feasible_and_go_on_where_they_were() -> None:
    whole = [c.hash for c in islice(draws(TableEvaluator(), BUDGETS, seed=3), 20)]
    assert len(set(whole)) == 20
    assert all(c.costs["params"] <= 900 for c in islice(draws(TableEvaluator(), BUDGETS, seed=3), 20))
    rest = [c.hash for c in islice(draws(TableEvaluator(), BUDGETS, seed=3, known=whole[:8]), 12)]
    assert rest == whole[8:]
    assert whole != [c.hash for c in islice(draws(TableEvaluator(), BUDGETS, seed=4), 20)]


def test_as_many_random_candidates_as_trials_are_trained_and_counted_apart(tmp_path: Path) -> None:
    result = run(tmp_path, trials=12)
    assert sum(row.random for row in result.rows) == 12
    assert len(result.hypervolume_random) == len(result.hypervolume_search) == 12
    chosen = [row for row in result.trained if not row.random and row.baseline is None]
    assert len(chosen) == 12
    assert result.verdict.hypervolume == result.hypervolume[-1].value
    values = [point.value for point in result.hypervolume_random]
    assert values == sorted(values)
    assert values[-1] > 0


def test_what_the_search_has_trained_is_not_trained_again(tmp_path: Path) -> None:
    result = run(tmp_path, trials=60, budgets={})
    again = [row for row in result.rows if row.random and row.status == "duplicate"]
    assert again
    assert all(row.of is not None and result.row(row.of).hash == row.hash for row in again)
    assert len(result.hypervolume_random) == 60
    assert {row.baseline for row in result.rows} == {None, "all_attention"}


def test_no_proposer_hears_of_a_random_candidate(tmp_path: Path) -> None:
    result = run(tmp_path, trials=8)
    rounds = Rounds(make_study(), TableEvaluator())
    ledger = Ledger(tmp_path / FILE_NAME, writable=False)
    rounds.hear(ledger.trials())
    ledger.close()
    heard = {number for number, _, _ in rounds.history()}
    assert len(heard) >= 8
    assert not heard & {row.trial for row in result.rows if row.random}


def test_a_search_with_more_trials_goes_on_and_so_does_its_baseline(tmp_path: Path) -> None:
    first = run(tmp_path, trials=8)
    second = run(tmp_path, trials=16)
    assert second.rows[: len(first.rows)] == first.rows
    assert len(second.hypervolume_random) == len(second.hypervolume_search) == second.n_wanted == 16
