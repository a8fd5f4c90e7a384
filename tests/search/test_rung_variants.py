"""Rungs of width, length and seeds of real specs: what each trains, under which key, in which folder."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from archspec.errors import SpecError
from archspec.source import parse_source
from compiler import resolve
from search.candidates import SpecEvaluator
from search.evaluate import Candidate, RungEvaluator, Unfit
from search.handlers import handlers
from search.load import load_study
from search.start import make_evaluator
from search.tasks import load_tasks
from zoo import load_zoo

SPACE = """\
archspec: 1
input: {kind: tokens, vocab_size: 32, seq_len: 32}
causal: true
d_model: 32
stem: embedding
layers:
  - {token_mixer: {choice: [{kind: attention, n_heads: 2}, pool]}, channel_mixer: {kind: swiglu, d_ff: 32}}
head: {kind: lm, tied: true}
"""
STUDY = """\
archspec: 1
study: variants
space: space.yaml
tasks: [{kind: parity, length: 16}]
objectives: {score: maximize, params: minimize}
seeds: 2
recipe: {learning_rates: [1.0e-3, 5.0e-3], steps: 6, curve_points: 2, batch_size: 4, final_examples: 8}
"""


def evaluator_of(folder: Path, fidelity: str, more: str = "") -> SpecEvaluator:
    (folder / "space.yaml").write_text(SPACE)
    (folder / "study.yaml").write_text(STUDY + f"fidelity: {fidelity}\n" + more)
    loaded = load_study(folder / "study.yaml")
    return make_evaluator(loaded, loaded.study, folder / "out", n_workers=1)


def some_candidate(evaluator: SpecEvaluator) -> Candidate:
    return evaluator.candidate(next(iter(evaluator.enumerate())))


def width_of(payload: Any) -> int:
    return int(resolve(parse_source(payload["spec"]), load_zoo()).d_model)


def test_a_rung_of_width_trains_a_narrower_twin_in_a_folder_of_its_own(tmp_path: Path) -> None:
    evaluator = evaluator_of(tmp_path, "{rungs: [{width: 1/2, steps: 1/2, seeds: 1}, full]}")
    assert isinstance(evaluator, RungEvaluator)
    candidate = some_candidate(evaluator)
    (low,) = evaluator.rung(candidate, 0)
    high = evaluator.rung(candidate, 1)
    assert len(high) == 2, "every seed"
    assert evaluator.training(candidate) == high
    assert (width_of(low.job.payload), width_of(high[0].job.payload)) == (16, 32)
    assert (low.job.payload["until_step"], high[0].job.payload["until_step"]) == (3, None)
    assert low.key.spec == high[0].key.spec == candidate.hash
    assert low.key.fidelity == "steps 1/2, width 1/2"
    assert high[0].key.fidelity == "full, best 1 after steps 1/2, width 1/2"
    assert low.run != high[0].run
    do = handlers(threads=1, plugins=())
    first = do["train"](low.job.payload)
    assert first["metrics"]["steps"] == 3
    done = [do["train"](need.job.payload) for need in high]
    assert done[0]["learning_rate"] == first["learning_rate"], "the rate that was best at the lower rung"
    assert not list((tmp_path / "out").rglob("checkpoints")), "nothing goes on from another width"
    evaluator.discard(candidate)
    assert not list((tmp_path / "out").rglob("*.safetensors"))


def test_a_rung_of_length_trains_on_shorter_examples_under_another_subject(tmp_path: Path) -> None:
    evaluator = evaluator_of(tmp_path, "{rungs: [{seq_len: 1/4}, full], keep_rates: 2}")
    candidate = some_candidate(evaluator)
    low, high = evaluator.rung(candidate, 0)[0], evaluator.rung(candidate, 1)[0]
    assert (low.job.payload["task"]["length"], high.job.payload["task"]["length"]) == (4, 16)
    assert low.key.subject != high.key.subject
    assert high.key.fidelity == "full", "all rates go on, so that it is an ordinary training"
    assert low.run != high.run


def test_a_rung_of_seeds_is_the_whole_training_of_some_of_them(tmp_path: Path) -> None:
    evaluator = evaluator_of(tmp_path, "{rungs: [{seeds: 1}, full]}")
    candidate = some_candidate(evaluator)
    low, high = evaluator.rung(candidate, 0), evaluator.rung(candidate, 1)
    assert low == high[:1]
    assert low[0].key.fidelity == "full"
    assert not low[0].job.payload["goes_on"]


def test_the_key_says_what_a_score_is_made_of(tmp_path: Path) -> None:
    conditions = set()
    for more in ("", "score_by: area\n", "score_by: {steps_to: 0.5}\n", "score_by: {steps_to: 0.6}\n"):
        evaluator = evaluator_of(tmp_path, "{rungs: [full]}", more)
        conditions.add(evaluator.training(some_candidate(evaluator))[0].key.conditions)
    assert len(conditions) == 4


def test_every_task_has_a_shorter_form_that_is_right() -> None:
    classes = load_tasks().classes
    for kind, length in (("parity", 16), ("text_lm", 64), ("copy", 13), ("mqar", 24)):
        config = classes[kind].Config.model_validate({"kind": kind})
        short = config.shortened(Fraction(1, 2))
        type(short).model_validate(short.model_dump(mode="json"))
        assert short.needs(causal=True).length <= config.needs(causal=True).length / 2 + 1
        assert short.needs(causal=True).length in (length, length + 1)


def test_a_task_without_a_shorter_form_is_told_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from search.tasks.contract import TaskConfig

    parity = load_tasks().classes["parity"].Config
    monkeypatch.setattr(parity, "shortened", TaskConfig.shortened)
    with pytest.raises(SpecError, match="task 'parity' has no shorter form") as caught:
        evaluator_of(tmp_path, "{rungs: [{seq_len: 1/2}, full]}")
    assert caught.value.problems[0].path == "fidelity.rungs[0]"


def test_a_candidate_without_a_twin_is_unfit(tmp_path: Path) -> None:
    """31/32 of 32 is no width that two heads divide."""
    evaluator = evaluator_of(tmp_path, "{rungs: [{width: 31/32}, full]}")
    with pytest.raises(Unfit, match="multiples of 4") as caught:
        some_candidate(evaluator)
    assert caught.value.code == "no_twin"
