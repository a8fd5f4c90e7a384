"""The grammar of a study: units, places, and what cannot be meant."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from archspec.closed import Closed
from archspec.errors import SpecError
from archspec.quantities import Budget, find_quantity, show
from archspec.source import parse_source
from archspec.study import Study, StudyKinds, parse_memory
from archspec.validate import validate


class Copy(Closed):
    kind: Literal["copy"] = "copy"
    n_max: int = 8
    weight: float = 1.0


class Recipe(Closed):
    steps: int = 100


KINDS = StudyKinds({"copy": Copy}, ("predictor", "random", "tpe"), Recipe)
STUDY = """\
archspec: 1
study: example
space: space.yaml
tasks: [copy, {kind: copy, n_max: 20}]
objectives: {score: maximize, latency_ms: minimize}
budgets: {params: "<= 300k", latency_ms: "<= 6", inference_peak: "<= 256 MiB", score: ">= 0.5"}
"""


def read(text: str) -> Study:
    return validate(Study, parse_source(text, file="study.yaml"), KINDS)


def problems(text: str) -> list[str]:
    with pytest.raises(SpecError) as caught:
        read(text)
    return [f"{p.line}:{p.column} {p.path}: {p.message}" for p in caught.value.problems]


def test_a_study_with_every_default() -> None:
    study = read(STUDY)
    assert study.labels == ("copy", "copy_2")
    assert list(study.objectives) == ["score", "latency_ms"]
    assert {name: (b.op, b.value) for name, b in study.budgets.items()} == {
        "params": ("<=", 300_000.0),
        "latency_ms": ("<=", 6.0),
        "inference_peak": ("<=", 256.0 * 2**20),
        "score": (">=", 0.5),
    }
    assert (study.proposer, study.aggregate, study.proxy, study.fidelity.rungs) == (
        "predictor", "mean", "none", ("full",),
    )  # fmt: skip
    assert isinstance(study.recipe, Recipe)


@pytest.mark.parametrize(
    ("quantity", "text", "value"),
    [
        ("params", "<= 300k", 3e5),
        ("params", "<=1.5M", 1.5e6),
        ("params", "<= 8B", 8e9),
        ("params", "<= 300_000", 3e5),
        ("flops", "<= 2e9", 2e9),
        ("flops", "<= 2 G", 2e9),
        ("inference_peak", "<= 256 MiB", 2.0**28),
        ("inference_peak", "<= 4 GB", 4e9),
        ("kv_bytes_per_token", "<= 512", 512.0),
        ("latency_ms", "<= 6", 6.0),
        ("latency_ms", "<= 1.5 s", 1_500.0),
        ("latency_ms", "<= 250 us", 0.25),
        ("score.copy", ">= .5", 0.5),
        ("loss", "<= 2.2", 2.2),
    ],
)
def test_budgets_are_read_with_their_units(quantity: str, text: str, value: float) -> None:
    budget = Budget.model_validate({"quantity": quantity, "text": text})
    assert budget.value == pytest.approx(value)
    assert budget.op == text[:2]


def test_a_budget_includes_its_bound() -> None:
    most = Budget(quantity="params", op="<=", value=10)
    least = Budget(quantity="score", op=">=", value=0.5)
    assert (most.allows(10), most.allows(11), least.allows(0.5), least.allows(0.4)) == (
        True, False, True, False,
    )  # fmt: skip
    assert (most.excess(12), most.excess(10), least.excess(0.75)) == (2, 0, -0.25)


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ('params: "< 3"', "6:19 budgets.params: a budget is '<= number' or '>= number', got '< 3'"),
        ("params: 300", "6:19 budgets.params: a budget is '<= number' or '>= number', got 300"),
        ('parms: "<= 3"', "6:18 budgets.parms: unknown quantity 'parms'"),
        ('params: "<= 3 MiB"', "6:19 budgets.params: params has no unit 'MiB'"),
        ('latency_ms: "<= 3 MiB"', "6:23 budgets.latency_ms: latency_ms has no unit 'MiB'"),
        (
            'score: ">= 1.5"',
            "6:18 budgets.score: no candidate can have score >= 1.5: it is never above 1",
        ),
        ('params.copy: "<= 3"', "6:24 budgets.params.copy: unknown quantity 'params.copy'"),
    ],
)
def test_a_budget_that_cannot_be_meant(wrong: str, expected: str) -> None:
    text = "\n".join(STUDY.splitlines()[:5]) + "\nbudgets: {" + wrong + "}\n"
    assert problems(text) == [expected]


@pytest.mark.parametrize(
    ("line", "wrong", "expected"),
    [
        (3, "tasks: [cpy]", "tasks[0]: unknown task 'cpy'"),
        (3, "tasks: [{n_max: 3}]", "tasks[0]: a task is a kind or a mapping with 'kind'"),
        (3, "tasks: [{kind: copy, n_mx: 3}]", "tasks[0].n_mx: unknown field 'n_mx'"),
        (3, "tasks: []", "tasks: must not be empty"),
        (4, "objectives: {}", "objectives"),
        (4, "objectives: {score: minimize}", "score is better when larger"),
        (4, "objectives: {params: maximize}", "params is better when smaller"),
        (4, "objectives: {score.parity: maximize}", "no task 'parity'"),
        (4, "objectives: {score: max}", "objectives.score: must be one of maximize, minimize, got 'max'"),
        (5, "proposer: bayes", "proposer: unknown proposer 'bayes'"),
        (5, "fidelity: {rungs: [small, full]}", "fidelity.rungs"),
        (5, "proxy: {shrink: {d_model: 1/8}}", "proxy: must be none"),
        (5, "trials: 0", "trials: must be at least 1, got 0"),
        (5, "target: {devise: cpu}", "target.devise: unknown field 'devise'"),
        (5, "recipe: {stepz: 3}", "recipe.stepz: unknown field 'stepz'"),
        (5, "limits: {memory: 4 MB/s}", "memory"),
        (5, "limits: {memory: 130%}", "a share of memory is between 0% and 100%"),
        (5, "hypervolume: 3", "hypervolume: unknown field 'hypervolume'"),
    ],
)
def test_a_study_that_is_wrong_is_told_with_its_place(line: int, wrong: str, expected: str) -> None:
    lines = STUDY.splitlines()
    lines[line] = wrong
    found = problems("\n".join(lines) + "\n")
    assert len(found) == 1
    assert expected in found[0]
    assert found[0].startswith(f"{line + 1}:") or found[0].startswith("1:"), found[0]


def test_all_errors_are_told_at_once() -> None:
    text = STUDY.replace("300k", "300 kg").replace("[copy,", "[cpy,").replace("example", "'bad name'")
    assert len(problems(text)) == 3


@pytest.mark.parametrize(
    ("value", "expected"), [("4 GiB", 4 << 30), ("50%", 8 << 30), (1024, 1024), ("100%", 16 << 30)]
)
def test_memory_is_a_size_or_a_share(value: str | int, expected: int) -> None:
    assert parse_memory(value, total=16 << 30) == expected


@pytest.mark.parametrize(
    ("quantity", "value", "expected"),
    [
        ("params", 1_210_000, "1.21M"),
        ("params", 312, "312"),
        ("inference_peak", 3.5 * 2**20, "3.5 MiB"),
        ("state_bytes", 12, "12 B"),
        ("latency_ms", 5.3111, "5.31 ms"),
        ("score.copy", 0.91234, "0.912"),
    ],
)
def test_figures_are_shown_with_their_units(quantity: str, value: float, expected: str) -> None:
    assert show(quantity, value) == expected


def test_only_scores_and_losses_belong_to_one_task() -> None:
    assert find_quantity("loss.copy").name == "loss"
    for name in ("latency_ms.copy", "score."):
        with pytest.raises(ValueError, match="unknown quantity"):
            find_quantity(name)


def test_a_study_is_not_read_without_its_kinds() -> None:
    tree: Any = parse_source(STUDY).tree
    with pytest.raises(TypeError, match="StudyKinds"):
        Study.model_validate(tree)
