"""The grammar of a study: units, places, and what cannot be meant."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, Literal

import pytest

from archspec.closed import Closed
from archspec.errors import SpecError
from archspec.fidelity import StepsTo
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
    assert (study.proposer, study.aggregate, study.proxy, study.score_by) == (
        "predictor", "mean", "none", "final",
    )  # fmt: skip
    assert [str(rung) for rung in study.fidelity.rungs] == ["full"]
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
        ("decode_ms", "<= 500 us", 0.5),
        ("throughput", ">= 12k tokens/s", 12_000.0),
        ("throughput", ">= 800 tokens/s", 800.0),
        ("peak_memory", "<= 2 GiB", 2.0**31),
        ("energy_j", "<= 40 mJ", 0.04),
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


def test_a_budget_may_have_two_sides() -> None:
    both = Budget.model_validate({"quantity": "params", "text": ">= 100k, <= 0.3M"})
    assert [both.allows(n) for n in (99_999, 100_000, 300_000, 300_001)] == [False, True, True, False]
    assert (both.excess(90_000), both.excess(310_000), both.excess(150_000)) == (10_000, 10_000, -50_000)
    assert (both.limit("<="), both.limit(">=")) == (300_000, 100_000)
    assert str(both) == "params >= 100k, <= 0.3M"
    turned = Budget.model_validate({"quantity": "params", "text": "<= 300k, >= 100k"})
    assert sorted(turned.key[::2]) == sorted(both.key[::2])
    assert [str(side) for side in both.sides] == ["params >= 100000", "params <= 300000"]
    assert Budget.model_validate(both.model_dump()) == both


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        (
            'params: ">= 300k, <= 100k"',
            "6:19 budgets.params: the budgets contradict each other: no number is >= 300000 and <= 100000",
        ),
        ('params: "<= 3, <= 5"', "6:19 budgets.params: two limits '<=' on params"),
        (
            'params: "<= 3, >= 1, <= 5"',
            "6:19 budgets.params: a budget is '<= number' or '>= number', got '<= 3, >= 1, <= 5'",
        ),
        ('params: "== 3"', "6:19 budgets.params: a budget is '<= number' or '>= number', got '== 3'"),
        ('energy_j: "<= 3 W"', "6:21 budgets.energy_j: energy_j has no unit 'W'"),
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
        (5, "fidelity: {rungs: [small, full]}", "fidelity.rungs[0]: a rung is a share of the steps"),
        (5, "fidelity: {rungs: [1/9]}", "fidelity.rungs[0]: the last rung must be 'full', got 'steps 1/9'"),
        (5, "fidelity: {rungs: [full, full]}", "fidelity.rungs[0]: only the last rung is 'full'"),
        (5, "fidelity: {rungs: []}", "fidelity.rungs: must not be empty"),
        (5, "fidelity: {rungs: [1/3, 1/9, full]}", "rungs[1]: 'steps 1/9' is no more work than 'steps 1/3'"),
        (5, "fidelity: {rungs: [2, full]}", "rungs[0]: must be more than 0 and at most 1, got 2"),
        (5, "fidelity: {rungs: [1/0, full]}", "rungs[0]: must be a share of the whole, got '1/0'"),
        (5, "fidelity: {rungs: [{steps: 3/2}, full]}", "rungs[0].steps: must be more than 0 and at most 1"),
        (5, "fidelity: {rungs: [{stepz: 1/2}, full]}", "rungs[0].stepz: unknown field 'stepz'"),
        (5, "fidelity: {rungs: [{seeds: 2}, full]}", "rungs[0]: 2 seeds, but the study has 1"),
        (5, "fidelity: {rungs: [1/9, full], promote: 1}", "fidelity.promote: must be less than 1"),
        (5, "fidelity: {rungs: [1/9, full], audit: 3}", "audit: an audit takes at least 8 candidates, got 3"),
        (5, "score_by: middle", "score_by: must be final, area or a mapping such as {steps_to: 0.9}"),
        (5, "score_by: {steps_to: 2}", "score_by.steps_to: must be at most 1, got 2"),
        (5, "proxy: maybe", "proxy: must be none"),
        (5, "proxy: {shrink: {d_model: 2}}", "proxy.shrink.d_model: a share is 'keep' or between"),
        (5, "proxy: {seq_len: keep}", "proxy: this proxy shrinks nothing"),
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


def test_rungs_are_shares_of_steps_lengths_widths_and_seeds() -> None:
    ladder = (
        "{rungs: [{steps: 1/9, seeds: 1}, {steps: 1/3, seq_len: 0.5}, full], promote: 1/2, keep_rates: 2}"
    )
    study = read(STUDY + f"seeds: 3\nfidelity: {ladder}\nscore_by: {{steps_to: 0.9}}\n")
    fidelity = study.fidelity
    assert [str(rung) for rung in fidelity.rungs] == ["steps 1/9, 1 seed", "steps 1/3, seq_len 1/2", "full"]
    assert (fidelity.promote, fidelity.audit, fidelity.keep_rates) == (Fraction(1, 2), 12, 2)
    assert study.score_by == StepsTo(steps_to=0.9)
    assert [str(rung) for rung in read(STUDY + "fidelity: {rungs: [1/9, full]}\n").fidelity.rungs] == [
        "steps 1/9",
        "full",
    ]


def test_what_a_candidate_costs_up_to_a_rung() -> None:
    """In whole trainings with every rate: two rates for a ninth, then the better one alone."""
    two = read(STUDY + "fidelity: {rungs: [1/9, full]}\n").fidelity
    assert two.cost([0], n_rates=2, n_seeds=1) == Fraction(1, 9)
    assert two.cost([0, 1], n_rates=2, n_seeds=1) == Fraction(1, 9) + Fraction(8, 9) / 2
    assert two.cost([0, 1], n_rates=1, n_seeds=1) == two.cost([1], n_rates=1, n_seeds=1) == 1
    apart = read(STUDY + "fidelity: {rungs: [{width: 1/2}, full]}\n").fidelity
    assert apart.cost([0], n_rates=1, n_seeds=1) == Fraction(1, 4)
    assert apart.cost([0, 1], n_rates=1, n_seeds=1) == Fraction(5, 4), "another width begins anew"
    seeds = read(STUDY + "seeds: 4\nfidelity: {rungs: [{seeds: 1}, full]}\n").fidelity
    assert [seeds.cost(c, n_rates=3, n_seeds=4) for c in ([0], [0, 1])] == [Fraction(1, 4), 1]


def test_a_ladder_that_ranks_nothing_learned_is_refused() -> None:
    text = STUDY.replace("score: maximize, ", "").replace(', score: ">= 0.5"', "")
    assert read(text)
    assert any(
        "rungs rank what training gives" in p for p in problems(text + "fidelity: {rungs: [1/9, full]}\n")
    )
