"""Pareto ranks, hypervolume, and the files of a result folder."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from table_study import InlineExecutor, TableEvaluator, make_study

from search.driver import search
from search.front import Objective, SearchResult
from search.output import front_csv, front_json, trials_csv, write_result
from search.pareto import hypervolume, ranks
from search.solve import load_result

coordinate = st.integers(0, 6).map(lambda n: n / 2)


def points(dimension: int) -> st.SearchStrategy[list[tuple[float, ...]]]:
    return st.lists(st.tuples(*[coordinate] * dimension), min_size=0, max_size=14)


def ranks_by_definition(some: list[tuple[float, ...]]) -> list[int]:
    rank = [-1] * len(some)
    level = 0
    while -1 in rank:
        left = [i for i, r in enumerate(rank) if r == -1]

        def dominates(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
            return a != b and all(x <= y for x, y in zip(a, b, strict=True))

        front = [i for i in left if not any(dominates(some[j], some[i]) for j in left)]
        for i in front:
            rank[i] = level
        level += 1
    return rank


@pytest.mark.parametrize("dimension", [1, 2, 3])
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_ranks_are_those_of_the_definition(dimension: int, data: st.DataObject) -> None:
    some = data.draw(points(dimension))
    assert ranks(some) == ranks_by_definition(some)


def test_one_dimension_in_a_case_that_is_easy_to_get_wrong() -> None:
    assert ranks([(3.0,), (2.0,), (4.0,), (1.0,)]) == [2, 1, 3, 0]


@pytest.mark.parametrize("dimension", [2, 3])
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_hypervolume_is_optuna_s(dimension: int, data: st.DataObject) -> None:
    import numpy as np
    from optuna._hypervolume import compute_hypervolume

    some = data.draw(points(dimension).filter(bool))
    reference = (2.5,) * dimension
    inside = [p for p in some if all(x <= 2.5 for x in p)]
    theirs = compute_hypervolume(np.array(inside), np.array(reference)) if inside else 0.0
    assert hypervolume(some, reference) == pytest.approx(theirs, abs=1e-12)


def test_hypervolume_of_one_dimension_is_a_length() -> None:
    assert hypervolume([(3.0,), (1.0,), (9.0,)], (5.0,)) == 4.0


@settings(max_examples=60, deadline=None)
@given(some=points(3), more=st.tuples(coordinate, coordinate, coordinate))
def test_another_point_never_lowers_the_hypervolume(
    some: list[tuple[float, ...]], more: tuple[float, ...]
) -> None:
    reference = (2.6, 2.6, 2.6)
    assert hypervolume([*some, more], reference) >= hypervolume(some, reference) - 1e-12


def test_a_share_of_the_box_is_zero_at_the_ideal_and_one_at_the_reference() -> None:
    score = Objective("score", "maximize", "", ideal=1.0, reference=0.5)
    assert (score.share(1.0), score.share(0.75), score.share(0.5), score.share(0.0)) == (0, 0.5, 1, 2)
    latency = Objective("latency_ms", "minimize", "ms", ideal=0.0, reference=8.0)
    assert (latency.share(0.0), latency.share(2.0), latency.share(16.0)) == (0, 0.25, 2)
    flat = Objective("params", "minimize", "count", ideal=0.0, reference=0.0)
    assert (flat.share(0.0), flat.share(1.0)) == (0, 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("search")
    search(
        make_study(trials=40, budgets={"params": "<= 1200", "latency_ms": "<= 7"}, aggregate="min"),
        TableEvaluator(),
        out,
        make_executor=lambda path: InlineExecutor(),
    )
    return out


@pytest.fixture
def result(folder: Path) -> SearchResult:
    return load_result(folder)


def test_every_member_has_its_file_and_nothing_else_lies_there(folder: Path, result: SearchResult) -> None:
    names = {row["spec"] for row in front_json(result)}
    assert names == {f"front/{file.name}" for file in (folder / "front").iterdir()}
    assert len(names) == len(result.front) > 1
    text = (folder / front_json(result)[0]["spec"]).read_text()
    assert text.startswith("# On the front of study table, trial ")


def test_front_json_has_the_stable_keys_in_order_of_the_first_objective(result: SearchResult) -> None:
    rows = front_json(result)
    assert {"spec", "hash", "objectives", "measured", "trial"} <= rows[0].keys()
    scores = [row["objectives"]["score"] for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert list(rows[0]["objectives"]) == ["score", "latency_ms"], "the study's order"
    assert rows[0]["measured"]["latency_ms"]["source"] == "measured"


def test_the_files_say_what_the_result_says(folder: Path, result: SearchResult) -> None:
    assert json.loads((folder / "front.json").read_text()) == front_json(result)
    assert (folder / "front.csv").read_text() == front_csv(result)
    rows = list(csv.DictReader((folder / "trials.csv").read_text().splitlines()))
    assert [int(row["trial"]) for row in rows] == [row.trial for row in result.rows]
    assert {row["status"] for row in rows} >= {"done", "refused"}


def test_text_that_a_spreadsheet_would_execute_is_made_harmless(result: SearchResult) -> None:
    evil = '=HYPERLINK("http://evil")'
    rows = tuple(replace(row, reason=evil, name=f"@{row.name}") for row in result.rows)
    cells = list(csv.reader(trials_csv(replace(result, rows=rows)).splitlines()))
    words = [cell for line in cells[1:] for cell in line]
    assert f"'{evil}" in words
    assert not any(word.startswith(("=", "@", "+")) for word in words)


def test_a_spec_that_left_the_front_leaves_the_folder(result: SearchResult, tmp_path: Path) -> None:
    def dump(trial: int, comment: str) -> str:
        return f"# {comment}\n"

    write_result(result, tmp_path, dump=dump)
    assert len(list((tmp_path / "front").iterdir())) == len(result.front)
    gone = result.front[0].trial
    rows = tuple(replace(row, on_front=False) if row.trial == gone else row for row in result.rows)
    write_result(replace(result, rows=rows), tmp_path, dump=dump)
    assert len(list((tmp_path / "front").iterdir())) == len(result.front) - 1


def test_hypervolume_grows_with_the_trials_and_is_the_verdict_s_in_the_end(result: SearchResult) -> None:
    values = [point.value for point in result.hypervolume]
    assert values == sorted(values)
    assert values[-1] == result.verdict.hypervolume > result.verdict.hypervolume_baselines > 0
    assert [point.n_trained for point in result.hypervolume] == list(range(1, len(values) + 1))
    assert result.hypervolume[-1].seconds == pytest.approx(sum(row.seconds for row in result.rows))


def test_budgets_span_the_box_where_there_are_some(result: SearchResult) -> None:
    score, latency = result.objectives
    assert (score.ideal, score.reference) == (1.0, 0.0)
    assert (latency.ideal, latency.reference) == (0.0, 7.0)
    limits = {limit.quantity: limit for limit in result.budgets}
    assert limits["params"].closed_form
    assert not limits["latency_ms"].closed_form
    assert limits["params"].n_refused == result.refusals["params"]


def test_the_aggregate_is_the_worse_task_and_both_fronts_are_told(result: SearchResult) -> None:
    for row in result.trained:
        assert row.objectives["score"] == min(row.scores.values())
    assert set(result.fronts_by_aggregate) == {"mean", "min"}
    assert set(result.fronts_by_aggregate["min"]) == {row.trial for row in result.front}


@pytest.mark.parametrize(
    ("aggregate", "weight", "expected"), [("mean", 1.0, 0.5), ("mean", 3.0, 0.75), ("min", 3.0, 0.0)]
)
def test_scores_are_combined_by_weight_or_by_the_least(
    aggregate: str, weight: float, expected: float
) -> None:
    from search.figures import figures

    document: dict[str, Any] = {"costs": {}, "scores": {"a": [1.0, 1.0], "b": [0.0, 0.0]}}
    assert figures(document, {"a": weight, "b": 1.0}, aggregate)["score"] == expected


def test_seeds_are_averaged_and_their_spread_is_kept(folder: Path) -> None:
    from search.figures import figures

    document: dict[str, Any] = {"costs": {}, "scores": {"a": [0.2, 0.6]}, "losses": {"a": [1.0, 2.0]}}
    found = figures(document, {"a": 1.0}, "mean")
    assert found["score"] == pytest.approx(0.4)
    assert (found["score.a"], found["loss"], found["loss.a"]) == (pytest.approx(0.4), 1.5, 1.5)


def test_a_task_that_is_not_trained_yet_leaves_the_score_open() -> None:
    from search.figures import figures

    found = figures({"costs": {}, "scores": {"a": [0.2]}}, {"a": 1.0, "b": 1.0}, "mean")
    assert "score" not in found
    assert found["score.a"] == 0.2


def test_optuna_is_not_asked_to_be_quiet_for_good() -> None:
    from search.mirror import quiet_optuna

    before = optuna.logging.get_verbosity()
    with quiet_optuna():
        assert optuna.logging.get_verbosity() == optuna.logging.WARNING
    assert optuna.logging.get_verbosity() == before
