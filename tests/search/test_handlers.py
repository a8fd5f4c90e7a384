"""What workers hand back: documents of numbers, whatever became of the model."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from archspec.dump import dump_spec
from archspec.errors import SpecError
from archspec.source import parse_source
from compiler import resolve
from search.handlers import handlers, training_document
from search.layers import layer_pairs, without_empty_layers
from search.train import Attempt, TrainResult
from zoo import load_zoo

SPEC = """\
archspec: 1
input: {kind: tokens, vocab_size: 16, seq_len: 16}
causal: true
d_model: 16
stem: embedding
layers:
  - {repeat: 2, layers: [{token_mixer: {kind: attention, n_heads: 2}, channel_mixer: {kind: swiglu, d_ff: 16}}]}
  - {token_mixer: none}
  - {token_mixer: {parallel: [pool, {kind: attention, n_heads: 2}]}}
head: {kind: lm, tied: true}
"""
RECIPE = {"learning_rates": [5e-3], "steps": 3, "curve_points": 1, "batch_size": 4, "final_examples": 8}


@pytest.fixture(scope="module")
def do() -> dict[str, Any]:
    return dict(handlers(threads=1, plugins=()))


def payload(folder: Path, **changes: Any) -> dict[str, Any]:
    task = {"kind": "parity", "length": 8}
    whole = {"spec": SPEC, "task": task, "recipe": RECIPE, "seed": 3, "device": "cpu", "gate": False}
    return {**whole, "directory": str(folder / "run"), **changes}


def test_a_training_leaves_a_model_and_no_checkpoint_and_is_tested_from_there(
    do: dict[str, Any], tmp_path: Path
) -> None:
    trained = do["train"](payload(tmp_path))
    assert trained["status"] == "ok"
    assert {"score", "loss", "metrics", "seconds", "learning_rate"} <= trained.keys()
    assert trained["metrics"]["steps"] == 3
    assert (tmp_path / "run" / "model").is_dir()
    assert not (tmp_path / "run" / "checkpoints").exists()
    first, second = (do["final"](payload(tmp_path)) for _ in range(2))
    assert first == second
    assert first["causality"] == "passed"
    assert 0 <= first["score"] <= 1
    json.dumps([trained, first], allow_nan=False)


def test_the_last_test_is_of_the_trained_weights(do: dict[str, Any], tmp_path: Path) -> None:
    do["train"](payload(tmp_path))
    before = do["final"](payload(tmp_path))["metrics"]
    (weights,) = (tmp_path / "run" / "model").glob("*.safetensors")
    save_file({name: torch.randn_like(t) for name, t in load_file(weights).items()}, weights)
    assert do["final"](payload(tmp_path))["metrics"] != before


def test_a_measurement_is_of_the_target_s_threads_and_gives_them_back(do: dict[str, Any]) -> None:
    target = {
        "batch_size": 1, "seq_len": 8, "phase": "prefill", "dtype": "float32", "device": "cpu",
        "device_name": "here", "threads": 2,
    }  # fmt: skip
    figures = ["latency_ms", "decode_ms", "train_step_ms", "throughput"]
    effort = {"min_runs": 3, "min_seconds": 0.0}
    job = {"spec": SPEC, "target": target, "figures": figures, "effort": effort, "seed": 0}
    before = torch.get_num_threads()
    found = do["measure"](job)
    assert torch.get_num_threads() == before
    assert list(found["figures"]) == figures
    for figure in found["figures"].values():
        assert 0 < figure["low"] <= figure["value"] <= figure["high"]
    assert (found["tier"], found["device"]) == ("eager", "here")
    prefill, speed = found["figures"]["latency_ms"], found["figures"]["throughput"]
    assert speed["value"] == pytest.approx(8 / (prefill["value"] / 1e3)), "of the same runs"
    assert speed["low"] == pytest.approx(8 / (prefill["high"] / 1e3))
    assert found["figures"]["train_step_ms"]["value"] > found["figures"]["decode_ms"]["value"]


def test_a_spec_that_is_not_causal_as_promised_is_an_error_at_the_measurement(do: dict[str, Any]) -> None:
    leaky = SPEC.replace("{token_mixer: none}", "{token_mixer: hydra}")
    with pytest.raises(SpecError, match="causal"):
        do["measure"]({"spec": leaky, "target": {"threads": 1}, "figures": [], "effort": {}, "seed": 0})


def result(**changes: Any) -> TrainResult:
    attempt = Attempt(
        learning_rate=1e-3, status="ok", reason="", solved=False, score=0.5, area=0.25, metrics={"loss": 1.0},
        steps=3, tokens=9, seconds=1.5, cpu_seconds=1.0, curve=(),
    )  # fmt: skip
    best = replace(attempt, **changes)
    return TrainResult(best, (best,), (), {}, "", 0, None)


def test_a_figure_that_is_no_number_makes_a_diverged_training() -> None:
    assert training_document(result())["status"] == "ok"
    for bad in ({"score": math.nan}, {"metrics": {"loss": math.inf}}, {"area": math.nan}):
        document = training_document(result(**bad))
        assert document == {"status": "diverged", "reason": "a figure is not finite", "seconds": 1.5}
    lost = training_document(
        result(status="diverged", reason="loss nan at step 2", metrics={"loss": math.nan})
    )
    assert lost == {"status": "diverged", "reason": "loss nan at step 2", "seconds": 1.5}


def test_bits_per_byte_are_told_as_a_loss_in_nats() -> None:
    assert training_document(result(metrics={"bits_per_byte": 2.0}))["loss"] == pytest.approx(2 * math.log(2))


def test_the_strip_of_a_spec_and_the_spec_without_empty_layers() -> None:
    spec = resolve(parse_source(SPEC), load_zoo())
    assert layer_pairs(spec) == (
        ("attention", "swiglu"), ("attention", "swiglu"), ("pool+attention", "none"),
    )  # fmt: skip
    cleaned = resolve(parse_source(dump_spec(without_empty_layers(spec))), load_zoo())
    from archspec.identity import spec_hash

    assert spec_hash(cleaned) == spec_hash(spec)
    assert len(cleaned.layers) == len(spec.layers) - 1


def test_a_fit_block_is_called_fit() -> None:
    text = SPEC.replace(
        "{token_mixer: none}",
        '{fit: {n_groups: 2, n_latents: 2, d_latent: 16, schedule: "(1)1(1)", '
        "local: {token_mixer: {kind: attention, n_heads: 2}}, global: {token_mixer: {kind: attention, n_heads: 2}}}}",
    )
    pairs = layer_pairs(resolve(parse_source(text), load_zoo()))
    assert pairs[2:5] == (("fit", "none"),) * 3
