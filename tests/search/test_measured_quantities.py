"""Any measured figure is an objective or a hard budget, in its own direction, and only if the study names it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from table_study import InlineExecutor, TableEvaluator, make_study

from archspec.errors import SpecError
from archspec.quantities import show
from search.driver import search
from search.evaluate import Candidate, Need
from search.executors import Completion, Job
from search.front import SearchResult
from search.measuring import check_reported
from search.output import front_json

_OF_WIDTH = {
    "latency_ms": lambda width: float(width),
    "decode_ms": lambda width: 9.0 - width,
    "throughput": lambda width: 1_000.0 * width,
    "peak_memory": lambda width: 100.0 * width,
    "energy_j": lambda width: 0.5 * width,
}


class MeteredEvaluator(TableEvaluator):
    """Measures what it is told to."""

    def __init__(self, *figures: str):
        super().__init__()
        self._figures = figures

    def measurement(self, candidate: Candidate, *, final: bool) -> Need | None:
        need = super().measurement(candidate, final=final)
        assert need is not None
        payload = {**candidate.payload, "figures": self._figures}
        key = replace(need.key, subject=f"target {self._figures}")
        return Need(key, Job("measure", "all", payload)) if self._figures else None


def metered(job: Job) -> Completion | None:
    if job.do != "measure":
        return None
    width = job.payload["genes"]["width"]
    values = {name: _OF_WIDTH[name](width) for name in job.payload["figures"]}
    figures = {name: {"value": v, "low": 0.9 * v, "high": 1.1 * v, "n": 3} for name, v in values.items()}
    return Completion(job, "done", {"figures": figures, "tier": "eager"}, seconds=0.1)


def run(out: Path, *figures: str, executor: InlineExecutor | None = None, **changes: Any) -> SearchResult:
    executor = executor or InlineExecutor(break_=metered)
    study = make_study(**changes)
    return search(study, MeteredEvaluator(*figures), out, make_executor=lambda folder: executor)


def test_throughput_is_made_larger_and_memory_smaller(tmp_path: Path) -> None:
    objectives = {"throughput": "maximize", "peak_memory": "minimize"}
    result = run(tmp_path, "throughput", "peak_memory", objectives=objectives, trials=30, budgets={})
    rows = result.trained
    for row in result.front:
        better = [o for o in rows if o.objectives["throughput"] > row.objectives["throughput"]]
        assert all(o.objectives["peak_memory"] > row.objectives["peak_memory"] for o in better)
    assert len({row.genes["width"] for row in result.front}) == len({row.genes["width"] for row in rows})
    assert all(0 <= point.value <= 1 for point in result.hypervolume)
    measured = front_json(result)[0]["measured"]
    assert measured["throughput"]["value"] == 1_000.0 * result.front[0].genes["width"]
    assert measured["peak_memory"]["tier"] == "eager"


def test_a_measured_budget_of_any_kind_refuses_before_training(tmp_path: Path) -> None:
    executor = InlineExecutor(break_=metered)
    budgets = {"throughput": ">= 3k tokens/s", "energy_j": "<= 2.5 J"}
    result = run(
        tmp_path, "latency_ms", "throughput", "energy_j", executor=executor, budgets=budgets, trials=20
    )
    trained = {job.payload["genes"]["width"] for job in executor.jobs if job.do == "train"}
    assert trained == {3, 4, 5}
    assert result.refusals["throughput"] > 0
    assert result.refusals["energy_j"] > 0
    reasons = {row.reason for row in result.rows if row.status == "refused"}
    assert "measured throughput 2k tokens/s is not >= 3k tokens/s" in reasons
    assert any(reason.startswith("measured energy_j ") for reason in reasons)


def test_a_figure_asked_for_later_is_measured_of_the_finished_and_nothing_is_trained_again(
    tmp_path: Path,
) -> None:
    run(tmp_path, "latency_ms", trials=8, budgets={})
    executor = InlineExecutor(break_=metered)
    objectives = {"score": "maximize", "decode_ms": "minimize"}
    result = run(tmp_path, "decode_ms", executor=executor, objectives=objectives, trials=8, budgets={})
    assert {job.do for job in executor.jobs} <= {"measure", "final"}
    assert len(result.trained) == 9
    assert all(row.objectives["decode_ms"] == 9.0 - row.genes["width"] for row in result.trained)
    again = InlineExecutor(break_=metered)
    run(tmp_path, "decode_ms", executor=again, objectives=objectives, trials=8, budgets={})
    assert again.jobs == []


def test_a_study_that_names_nothing_measured_measures_nothing(tmp_path: Path) -> None:
    executor = InlineExecutor(break_=metered)
    result = run(tmp_path, executor=executor, objectives={"score": "maximize", "params": "minimize"})
    assert not [job for job in executor.jobs if job.do == "measure"]
    assert all(row.measured == {} for row in result.rows)
    json.dumps(front_json(result))


@pytest.mark.parametrize("name", ["energy_j", "peak_memory"])
def test_what_the_device_does_not_report_is_an_error_and_no_zero(name: str) -> None:
    def locate(path: tuple[str | int, ...], message: str, hint: str | None) -> SpecError:
        return SpecError(message, path=".".join(map(str, path)))

    study = make_study(objectives={"score": "maximize", name: "minimize"})
    with pytest.raises(SpecError, match=f"'{name}' cannot be measured here") as caught:
        check_reported(study, torch.device("cpu"), locate)
    assert caught.value.path == f"objectives.{name}"


def test_figures_are_shown_with_their_units() -> None:
    assert show("throughput", 12_345.0) == "12.3k tokens/s"
    assert show("energy_j", 0.0345) == "34.5 mJ"
    assert show("energy_j", 2.5) == "2.5 J"
    assert show("peak_memory", 3 * 2**20) == "3 MiB"
