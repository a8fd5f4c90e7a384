"""Real trainings that pause at a rung: the same bits as without the pause, and the best learning rate goes on."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from archspec.fidelity import StepsTo
from search.fit import Point
from search.handlers import handlers
from search.score_by import steps_to, value_of

SPEC = """\
archspec: 1
input: {kind: tokens, vocab_size: 16, seq_len: 16}
causal: true
d_model: 16
stem: embedding
layers:
  - {token_mixer: {kind: mamba2, d_head: 16}, channel_mixer: {kind: swiglu, d_ff: 16}}
  - {token_mixer: {kind: attention, n_heads: 2}}
head: {kind: lm, tied: true}
"""
RECIPE = {"learning_rates": [5e-3], "steps": 20, "curve_points": 4, "batch_size": 4, "final_examples": 8}
PAUSE = 7  # between two points of the curve, in the middle of the schedule
TIMES = ("seconds", "cpu_seconds")


@pytest.fixture(scope="module")
def do() -> dict[str, Any]:
    return dict(handlers(threads=1, plugins=()))


def payload(run: Path, rates: list[float], **changes: Any) -> dict[str, Any]:
    whole = {
        "spec": SPEC,
        "task": {"kind": "parity", "length": 8},
        "recipe": {**RECIPE, "learning_rates": rates},
        "seed": 3,
        "device": "cpu",
        "gate": False,
        "directory": str(run),
    }
    return {**whole, **changes}


def lowest(run: Path, rates: list[float]) -> dict[str, Any]:
    return payload(run, rates, until_step=PAUSE, goes_on=True, keep_rates=1)


def top(run: Path, rates: list[float]) -> dict[str, Any]:
    return payload(
        run, rates, sweep={"directory": str(run), "until_step": PAUSE, "goes_on": True, "keep_rates": 1}
    )


def weights(run: Path) -> dict[str, torch.Tensor]:
    (file,) = (run / "model").glob("*.safetensors")
    return load_file(file)


def without_times(document: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name not in TIMES}


def same_weights(a: Path, b: Path) -> bool:
    first, second = weights(a), weights(b)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_a_run_that_pauses_at_a_rung_ends_in_the_same_bits(do: dict[str, Any], tmp_path: Path) -> None:
    straight = do["train"](payload(tmp_path / "straight", [5e-3]))
    low = do["train"](lowest(tmp_path / "paused", [5e-3]))
    assert low["metrics"]["steps"] == PAUSE
    assert not same_weights(tmp_path / "straight", tmp_path / "paused")
    assert list((tmp_path / "paused" / "checkpoints").iterdir())
    high = do["train"](top(tmp_path / "paused", [5e-3]))
    assert without_times(high) == without_times(straight), "score, loss, area, curve"
    assert [step for step, _ in high["curve"]] == [5, 10, 15, 20], "the pause is no point of the curve"
    assert same_weights(tmp_path / "straight", tmp_path / "paused")
    assert not (tmp_path / "paused" / "checkpoints").exists()


def test_only_the_best_learning_rate_goes_on(do: dict[str, Any], tmp_path: Path) -> None:
    rates = [1e-6, 5e-3]
    run = tmp_path / "run"
    low = do["train"](lowest(run, rates))
    apart = {rate: do["train"](payload(tmp_path / f"{rate}", [rate], until_step=PAUSE)) for rate in rates}
    best = max(rates, key=lambda rate: (apart[rate]["score"], -apart[rate]["loss"]))
    assert low["learning_rate"] == best
    assert [file.name for file in (run / "checkpoints").iterdir()] == [f"lr_{best:g}.safetensors"]
    high = do["train"](top(run, rates))
    assert high["learning_rate"] == best
    assert high["seconds"] > low["seconds"], "the sweep is in the bill, the rates that lost too"
    alone = do["train"](payload(tmp_path / "alone", [best]))
    assert without_times(high) == without_times(alone)
    assert same_weights(run, tmp_path / "alone")


def test_a_rung_whose_checkpoints_are_lost_is_climbed_again(do: dict[str, Any], tmp_path: Path) -> None:
    rates = [1e-6, 5e-3]
    for name in ("kept", "lost"):
        do["train"](lowest(tmp_path / name, rates))
    shutil.rmtree(tmp_path / "lost")
    kept, lost = (do["train"](top(tmp_path / name, rates)) for name in ("kept", "lost"))
    assert without_times(kept) == without_times(lost)
    assert same_weights(tmp_path / "kept", tmp_path / "lost")


def test_a_rung_at_another_length_chooses_the_rates_of_the_whole_training(
    do: dict[str, Any], tmp_path: Path
) -> None:
    """Its weights do not go on: the rung above begins anew with the rate that was best there."""
    rates = [1e-6, 5e-3]
    short = {"task": {"kind": "parity", "length": 4}, "directory": str(tmp_path / "short")}
    short |= {"keep_rates": 1, "goes_on": False}
    do["train"](payload(tmp_path / "short", rates, **short))
    assert not (tmp_path / "short" / "checkpoints").exists()
    high = do["train"](payload(tmp_path / "long", rates, sweep=short))
    alone = do["train"](payload(tmp_path / "alone", [5e-3]))
    assert without_times(high) == without_times(alone)
    assert same_weights(tmp_path / "long", tmp_path / "alone")


def points(*pairs: tuple[int, float]) -> list[Point]:
    return [Point(step, 0, 0.0, 0.0, 0.0, 0.0, score) for step, score in pairs]


def test_a_score_is_the_end_the_area_or_the_steps_that_are_left() -> None:
    curve = points((10, 0.2), (20, 0.6), (40, 0.9))
    told = {"score": 0.9, "area": 0.55, "curve": curve, "steps": 40}
    assert value_of("final", **told) == 0.9
    assert value_of("area", **told) == 0.55
    assert steps_to(curve, 0.4) == pytest.approx(15)
    assert value_of(StepsTo(steps_to=0.4), **told) == pytest.approx(1 - 15 / 40)
    assert value_of(StepsTo(steps_to=0.95), **told) == 0.0
    assert steps_to(points((10, 0.5)), 0.1) == pytest.approx(2), "a line from (0, 0)"
    prefix = {**told, "curve": curve[:2], "score": 0.6}
    assert value_of(StepsTo(steps_to=0.4), **prefix) == value_of(StepsTo(steps_to=0.4), **told)


def test_the_best_learning_rate_is_the_best_by_the_study_s_score(do: dict[str, Any], tmp_path: Path) -> None:
    by_area = do["train"](payload(tmp_path / "area", [5e-3], score_by="area"))
    final = do["train"](payload(tmp_path / "final", [5e-3]))
    assert by_area["score"] == final["metrics"]["area"] == by_area["metrics"]["area"]
    assert final["score"] != by_area["score"]
    never = do["train"](payload(tmp_path / "never", [5e-3], score_by={"steps_to": 1.0}))
    assert never["score"] == 0.0
