"""The profile: its stable keys, its tables, its command, and wrong arguments told all at once."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

import compiler
from archspec import SpecError
from archspec.commands import command_line
from archspec.spec import ModelSpec
from compiler.device.model_latency import measure_model
from compiler.profile_view import render, to_html

SpecMaker = Callable[..., ModelSpec]
ATTENTION = "- {token_mixer: {kind: attention, n_heads: 4}, channel_mixer: mlp}"
SPEC = f"""\
archspec: 1
name: <b>
input: {{kind: tokens, vocab_size: 31, seq_len: 24}}
causal: true
d_model: 16
stem: embedding
layers:
  - repeat: 3
    layers: [{ATTENTION.removeprefix("- ")}]
head: lm
""".replace("<b>", "three_layers")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "spec.yaml"
    file.write_text(SPEC)
    return file


def run(*arguments: object) -> Result:
    return CliRunner().invoke(command_line(), ["profile", *map(str, arguments)])


def test_keys_of_the_json(make_spec: SpecMaker) -> None:
    document = compiler.profile(make_spec(ATTENTION)).as_json()
    assert document.keys() >= {
        "name", "seq_len", "batch_size", "dtype", "params", "params_active", "params_embedding", "flops",
        "flops_needed", "memory", "bytes_moved", "latency_ms", "layers", "verify",
    }  # fmt: skip
    assert document["flops"].keys() == document["flops_needed"].keys() == {"prefill", "decode", "train"}
    assert document["memory"].keys() == {
        "weights", "activations", "train_peak", "inference_peak", "kv_bytes_per_token", "state_bytes", "source",
    }  # fmt: skip
    assert document["latency_ms"].keys() >= {"value", "low", "high", "source"}
    assert document["latency_ms"]["value"] is document["latency_ms"]["source"] is document["verify"] is None
    assert document["layers"][0].keys() >= {"path", "kind", "params", "flops"}
    assert json.loads(json.dumps(document)) == document


def test_rows_add_up_to_the_whole(make_spec: SpecMaker) -> None:
    document = compiler.profile(make_spec(ATTENTION), batch_size=3).as_json()
    for phase in ("prefill", "decode", "train"):
        for what in ("flops", "flops_needed"):
            assert sum(row[what][phase] for row in document["layers"]) == document[what][phase]
    assert sum(row["params"] for row in document["layers"]) == document["params"]
    assert document["flops"]["train"] == 3 * document["flops"]["prefill"]
    assert document["flops_needed"]["prefill"] < document["flops"]["prefill"]


def test_decoding_is_one_token_after_all_others(make_spec: SpecMaker) -> None:
    spec = make_spec(ATTENTION)
    alone = compiler.profile(spec, seq_len=1).flops
    assert alone["decode"] == alone["prefill"]
    flops = [compiler.profile(spec, seq_len=n).flops["decode"] for n in (1, 2, 24)]
    keys = 2 * 2 * 16  # multiply-adds with one more key and value of width 16, each 2 FLOPs
    assert [f - flops[0] for f in flops if f and flops[0]] == [0, keys, 23 * keys]


def test_a_bidirectional_model_has_no_decoding(make_spec: SpecMaker) -> None:
    spec = make_spec(ATTENTION, "causal=false")
    assert compiler.profile(spec).flops["decode"] is None
    with pytest.raises(SpecError, match="does not decode"):
        compiler.profile(spec, phase="decode")


def test_wrong_arguments_are_told_all_at_once(make_spec: SpecMaker) -> None:
    with pytest.raises(SpecError) as caught:
        compiler.profile(
            make_spec(ATTENTION), seq_len=25, batch_size=0, dtype="float23", phase="prefil", device="gpu"
        )
    messages = [problem.message for problem in caught.value.problems]
    assert messages == [
        "seq_len 25 is not in 1..24, what 'test' takes",
        "batch_size 0 is not at least 1",
        "unknown dtype 'float23'",
        "unknown phase 'prefil'",
        "unknown device 'gpu'",
    ]
    assert [problem.hint for problem in caught.value.problems[2:4]] == [
        "did you mean 'float32'?",
        "did you mean 'prefill'?",
    ]


@pytest.mark.parametrize("phase", ["prefill", "decode", "train"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_phase_can_be_measured(make_spec: SpecMaker, phase: str, dtype: str) -> None:
    spec = make_spec(ATTENTION)
    document = compiler.profile(spec, phase=phase, dtype=dtype, seq_len=8, measure=True).as_json()
    latency = document["latency_ms"]
    assert (latency["source"], latency["tier"]) == ("measured", "eager")
    assert 0 < latency["low"] <= latency["value"] <= latency["high"]
    assert latency["n"] >= 3
    assert latency["device"]


def test_measuring_leaves_the_model_as_it_was(make_spec: SpecMaker) -> None:
    model = compiler.compile_spec(make_spec(ATTENTION), gate=False)
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    measure_model(model, phase="train", dtype="bfloat16", min_runs=3, min_seconds=0.0)
    assert model.module.training
    assert all(value.equal(before[name]) for name, value in model.module.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_table_shows_equal_layers_once(make_spec: SpecMaker) -> None:
    spec = make_spec("- repeat: 5\n  layers:\n    " + ATTENTION)
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(render(compiler.profile(spec, verify=True)))
    text = console.export_text()
    assert text.count(" attention ") == 1
    assert "0-4" in text
    assert "scaled_dot_product_attention" in text  # what stock fvcore misses
    assert max(map(len, text.splitlines())) <= 80


def test_html_escapes_what_a_spec_says(make_spec: SpecMaker) -> None:
    profile = compiler.profile(make_spec(ATTENTION))
    html = to_html(compiler.Profile(**{**profile.__dict__, "name": "<script>"}))
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    assert profile._repr_html_().count("<table>") == 2


def test_command_prints_one_document(path: Path) -> None:
    result = run(path, "--json", "--seq-len", 8, "--batch-size", 2, "--set", "d_model=32", "--verify")
    document = json.loads(result.stdout)
    assert result.exit_code == 0
    assert (document["seq_len"], document["batch_size"]) == (8, 2)
    assert document["verify"]["exact"] is True
    assert document["layers"][0]["params"] == 31 * 32


def test_command_without_json_shows_tables(path: Path) -> None:
    result = run(path)
    assert result.exit_code == 0
    assert "three_layers" in result.stdout
    assert "token_mixer" in result.stdout


def test_command_says_what_is_wrong(path: Path) -> None:
    result = run(path, "--seq-len", 99, "--dtype", "int8", "--device", "cpu")
    assert isinstance(result.exception, SpecError)
    assert "seq_len 99" in str(result.exception)
    assert "int8" in str(result.exception)
