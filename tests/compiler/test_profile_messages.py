"""What cannot be profiled ends in one clear message and exit code 1: no traceback, nothing on stdout."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from archspec.commands import main

SPECS = Path(__file__).parents[2] / "specs"
GOOD = """\
archspec: 1
name: good
input: {kind: tokens, vocab_size: 31, seq_len: 24}
causal: true
d_model: 16
stem: embedding
layers: [{token_mixer: {kind: attention, n_heads: 4}, channel_mixer: mlp}]
head: lm
"""
FILES = {
    "good.yaml": GOOD,
    "typo.yaml": GOOD.replace("n_heads: 4", "n_head: 4"),
    "broken.yaml": GOOD.replace("{kind: attention, n_heads: 4}", "{kind: attention, n_heads: 4"),
    "indivisible.yaml": GOOD.replace("n_heads: 4", "n_heads: 5"),
    "never.yaml": GOOD.replace("n_heads: 4", "n_heads: {choice: [5, 7]}"),
    "space.yaml": GOOD.replace("n_heads: 4", "n_heads: {choice: [2, 4]}"),
    "uncausal.yaml": GOOD.replace("causal: true", "causal: false").replace("embedding", "{kind: embedding, positions: learned}"),
    "text.sqlite": "this is no database\n" * 100,
    "device.yaml": "archspec: 1\ndevice: toy\nname: Toy\nkind: cpu\npeak_tflops: {float32: 1}\n",
    "empty.yaml": "",
}  # fmt: skip
CASES = {
    "an unknown field": (
        ["typo.yaml"],
        "typo.yaml:7:42: layers[0].token_mixer.n_head: unknown field 'n_head'",
    ),
    "no YAML": (["broken.yaml"], "broken.yaml:"),
    "an empty file": (["empty.yaml"], "empty.yaml"),
    "no file": (["nothing.yaml"], "nothing.yaml"),
    "a folder": (["."], "."),
    "heads that do not divide": (["indivisible.yaml"], "n_heads"),
    "too long": (["good.yaml", "--seq-len", "25"], "seq_len 25 is not in 1..24, what 'good' takes"),
    "no length": (["good.yaml", "--seq-len", "0"], "seq_len 0 is not in 1..24"),
    "no batch": (["good.yaml", "--batch-size", "0"], "batch_size 0 is not at least 1"),
    "no such dtype": (["good.yaml", "--dtype", "int8"], "unknown dtype 'int8'"),
    "no such phase": (["good.yaml", "--phase", "prefil"], "did you mean 'prefill'?"),
    "no decoding": (["uncausal.yaml", "--phase", "decode"], "does not decode token by token"),
    "no such GPU": (["good.yaml", "--measure", "--device", "cuda:63"], "device 'cuda:63' is not there"),
    "no such device": (["good.yaml", "--device", "tpu"], "'tpu'"),
    "no candidate": (["never.yaml"], "no candidate of this space can be built: "),
    "no candidate so long": (["space.yaml", "--seq-len", "25"], "seq_len 25 is not in 1..24"),
    "a space traced": (["space.yaml", "--trace"], "are for one model"),
    "two specs traced": (["good.yaml", "good.yaml", "--diff", "--trace"], "--trace and --plot or --diff"),
    "an optimizer of nothing": (
        ["good.yaml", "--optimizer", "sgd"],
        "--optimizer means nothing without --trace",
    ),
    "a backend of nothing": (
        ["good.yaml", "--backend", "compile"],
        "--backend means nothing without --measure or --predict",
    ),
    "a profile of nothing": (
        ["good.yaml", "--device-profile", "nvidia_l4"],
        "--device-profile means nothing without --predict or --plot",
    ),
    "a space measured": (["space.yaml", "--measure"], "are for one model"),
    "a budget for a spec": (["good.yaml", "--budget", "params<=3"], "--budget is for a search space"),
    "a table that is none": (["good.yaml", "--predict", "--table", "text.sqlite"], "is no latency table"),
    "a prediction elsewhere": (
        ["good.yaml", "--predict", "--device", "cuda:63", "--table", "t.sqlite"],
        "device 'cuda:63' is not there",
    ),
    "a table without entries": (
        ["good.yaml", "--predict", "--table-only", "--table", "t.sqlite"],
        "has no entry for stem embedding, head lm",
    ),
    "graphs on a CPU": (
        ["good.yaml", "--predict", "--backend", "graph", "--table", "t.sqlite"],
        "replays CUDA graphs, and the device is cpu",
    ),
    "no such profile": (
        ["good.yaml", "--plot", "x.svg", "--device-profile", "abacus"],
        "unknown device profile 'abacus'",
    ),
    "a profile without sources": (
        ["good.yaml", "--plot", "x.svg", "--device-profile", "device.yaml"],
        "'peak_tflops' has no source",
    ),
    "a roofline nobody knows": (
        ["good.yaml", "--plot", "x.svg", "--device-profile", "jetson_agx_orin_64gb", "--dtype", "bfloat16"],
        "has no peak rate of bfloat16 matmuls",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_one_clear_message(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments, message = CASES[case]
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["archspec", "profile", *arguments])
    with pytest.raises(SystemExit) as done:
        main()
    found = capfd.readouterr()
    assert done.value.code == 1
    assert message in found.err
    assert found.err.count("error: ") == 1
    assert "Traceback" not in found.err
    assert found.out == ""
    assert not (tmp_path / "x.svg").exists()
    assert not (tmp_path / "t.sqlite").exists()  # a question leaves no file behind


def test_the_cases_can_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "good.yaml").write_text(GOOD)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["archspec", "profile", "good.yaml", "--seq-len", "24"])
    with pytest.raises(SystemExit) as done:
        main()
    assert not done.value.code


def test_a_table_that_was_calibrated_predicts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """From a space to a prediction by the commands alone; nothing is measured a second time."""

    def run(*arguments: str) -> dict[str, Any]:
        monkeypatch.setattr(
            sys, "argv", ["archspec", *arguments, "--table", "t.sqlite", "--clock", "cpu", "--json"]
        )
        with pytest.raises(SystemExit) as done:
            main()
        found = capfd.readouterr()
        assert not done.value.code, found.err
        document: dict[str, Any] = json.loads(found.out)
        return document

    monkeypatch.chdir(tmp_path)
    (tmp_path / "space.yaml").write_text(FILES["space.yaml"])
    (tmp_path / "good.yaml").write_text(GOOD)
    effort = ("--rounds", "3", "--seconds", "0.1", "--models", "2", "--device", "cpu")
    first = run("device", "calibrate", "space.yaml", *effort)
    assert (first["entries"], len(first["measured"]), first["every_filling_seen"]) == (4, 6, True)
    assert first["fits"]["24"]["n_models"] == 2
    assert run("device", "calibrate", "space.yaml", *effort)["measured"] == []
    latency = run("profile", "good.yaml", "--predict", "--table-only")["latency_ms"]
    assert (latency["source"], latency["weakest"], latency["tier"]) == ("table", "measured", "eager")
    assert [part["source"] for part in latency["parts"]] == ["measured"] * 3
    assert latency["low"] <= latency["value"] <= latency["high"]
