"""A latency table refuses what is too slow before anything of it runs, and only beyond its stated error."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_study_errors import STUDY, changed, write

from archspec.errors import SpecError
from archspec.quantities import Budget
from compiler.device.block_table import BlockTable, Entry
from compiler.device.calibrate import conditions, needs_of, shape_of
from compiler.device.runs import Shape
from search.candidates import SpecEvaluator
from search.evaluate import Predicted
from search.gates import refusal
from search.load import LoadedStudy, load_study
from search.start import make_evaluator

STUDY_WITH = changed("{device: cpu}", "{device: cpu, latency_table: table.sqlite}").replace(
    '{params: "<= 20k"}', '{latency_ms: "<= 2.5"}'
)


def filled(folder: Path, *, threads: int = 1) -> LoadedStudy:
    """The study beside a table in which every block takes 1 ms and everything else 0.5 ms, to 1 %."""
    (folder / "table.sqlite").touch()
    loaded = load_study(write(folder, study=STUDY_WITH))
    (folder / "table.sqlite").unlink()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    shape = Shape(1, 0, "float32", "prefill")
    here = conditions(
        torch.device("cpu"), shape=shape, backend="eager", clock="wall", statistic="median", plugins=()
    )
    torch.set_num_threads(before)
    needs = needs_of(loaded.space, shape_of(shape, None), zoo=loaded.zoo)
    times = {key: 0.5 if key.kind == "base" else 1.0 for key in needs.asked}
    table = BlockTable(folder / "table.sqlite", here)
    table.add(Entry(key, "", ms, 0.99 * ms, 1.01 * ms, 30, 1, 1, 1) for key, ms in times.items())
    return loaded


def evaluator(loaded: LoadedStudy, folder: Path) -> SpecEvaluator:
    return make_evaluator(loaded, loaded.study, folder, n_workers=1)


def test_what_is_predicted_too_slow_is_refused_with_its_interval(tmp_path: Path) -> None:
    loaded = filled(tmp_path)
    of = evaluator(loaded, tmp_path)
    told = {}
    for genes in of.enumerate():
        candidate = of.candidate(genes)
        n_blocks = round(candidate.predicted["latency_ms"].value - 0.5)
        told[n_blocks] = refusal(candidate, loaded.study.budgets)
    assert told.keys() == {1, 2, 3}
    assert told[1] is None
    assert told[2] is None, "2.5 ms is the budget"
    assert told[3] is not None
    code, reason = told[3]
    assert code == "predicted"
    assert reason.startswith("latency_ms is predicted 3.5 ms (2.6")
    assert reason.endswith("which is not <= 2.5")


def test_within_the_stated_error_it_is_measured_first(tmp_path: Path) -> None:
    of = evaluator(filled(tmp_path), tmp_path)
    slow = of.candidate(
        next(g for g in of.enumerate() if round(of.candidate(g).predicted["latency_ms"].value) >= 3)
    )
    budget = {"latency_ms": Budget(quantity="latency_ms", op="<=", value=2.5)}
    for low, refused in ((2.6, True), (2.4, False)):
        near = replace(slow, predicted={"latency_ms": Predicted(3.0, low, 3.4)})
        assert (refusal(near, budget) is not None) is refused


def test_a_table_of_another_machine_is_told_with_the_command_that_fills_it(tmp_path: Path) -> None:
    loaded = filled(tmp_path, threads=2)
    with pytest.raises(SpecError, match="holds nothing for this device") as caught:
        evaluator(loaded, tmp_path)
    (problem,) = caught.value.problems
    assert (problem.path, problem.line) == ("target.latency_table", 7)
    assert "archspec device calibrate" in str(problem.hint)
    assert "--threads 1" in str(problem.hint)


def test_a_table_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no such file: 'table.sqlite'") as caught:
        load_study(write(tmp_path, study=STUDY_WITH))
    assert caught.value.problems[0].line == 7


def test_the_table_is_no_part_of_what_a_measurement_depends_on(tmp_path: Path) -> None:
    loaded = filled(tmp_path)
    of = evaluator(loaded, tmp_path)
    plain = load_study(write(tmp_path, study=STUDY))
    without = make_evaluator(plain, plain.study, tmp_path, n_workers=1)
    genes = next(of.enumerate())
    keys = []
    for one in (of, without):
        need = one.measurement(one.candidate(genes), final=False)
        assert need is not None
        keys.append(need.key)
    assert keys[0] == keys[1]
