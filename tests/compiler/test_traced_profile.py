"""``profile --trace``: the traced figures beside the closed form's, and how a step is asked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import compiler
from archspec import SpecError
from archspec.commands import command_line
from compiler.cost.training_step import Step

SPEC = Path(__file__).parents[2] / "specs" / "hybrids" / "negative_decay_attention.yaml"


def run(*options: str) -> str:
    result = CliRunner().invoke(command_line(), ["profile", str(SPEC), *options], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_json_says_which_figure_is_which() -> None:
    found = json.loads(run("--trace", "--json"))
    traced = found["traced"]
    assert (found["memory"]["source"], traced["memory"]["source"]) == ("closed form", "traced")
    assert traced["flops"] == {key: found["flops"][key] for key in ("prefill", "train")}
    assert traced["memory"]["train_peak"] == max(
        traced["memory"][f"{phase}_peak"] for phase in ("forward", "backward", "optimizer")
    )
    assert traced["bytes_moved"]["train"] > traced["bytes_moved"]["prefill"] > 0
    assert json.loads(run("--json"))["traced"] is None


def test_checkpoints_trade_work_for_memory() -> None:
    spec = compiler.load_spec(SPEC)
    said = compiler.profile(spec).flops_recomputed
    plain, again = (compiler.profile(spec, trace=Step(checkpointing=c)).traced for c in (False, True))
    assert plain is not None
    assert again is not None
    assert again.memory.train_peak < plain.memory.train_peak
    assert 0.8 * said < again.train_flops - plain.train_flops < said < plain.forward.flops


def test_the_table_names_the_step() -> None:
    shown = run("--trace", "--optimizer", "sgd", "--micro-batches", "2")
    assert "sgd, 2 micro-batches" in shown
    assert "an estimate" in shown


def test_a_step_that_cannot_be_is_refused() -> None:
    with pytest.raises(SpecError, match="autocast keeps weights in float32"):
        compiler.profile(compiler.load_spec(SPEC), dtype="bfloat16", trace=Step(autocast=True))
    result = CliRunner().invoke(command_line(), ["profile", str(SPEC), "--trace", "--optimizer", "adam"])
    assert result.exit_code != 0
