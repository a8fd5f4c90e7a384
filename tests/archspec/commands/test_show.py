"""archspec show."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]
BASE = """archspec: 1
name: base
input: {kind: tokens, vocab_size: 64, seq_len: 32}
causal: true
d_model: 32
stem: embedding
layers:
  - {repeat: 2, layers: [{token_mixer: attention, channel_mixer: swiglu}]}
head: lm
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "base.yaml").write_text(BASE)
    path = tmp_path / "x.yaml"
    path.write_text("extends: base.yaml\nname: over\n")
    return path


def test_the_resolved_spec_is_yaml_that_check_accepts(run: Run, file: Path) -> None:
    for extra in ((), ("--defaults",)):
        ran = run("show", str(file), "--set", "d_model=64", *extra)
        assert ran.code == 0
        shown = file.parent / "shown.yaml"
        shown.write_text(ran.out)
        assert run("check", str(shown)).code == 0
        assert "# 2 x attention+swiglu\n" in ran.out
        assert "name: over\n" in ran.out
        assert "d_model: 64\n" in ran.out
    assert "n_kv_heads: null" in ran.out  # the last one spelt every default out


def test_json(run: Run, file: Path) -> None:
    document = json.loads(run("show", str(file), "--json").out)
    assert document["name"] == "over"
    assert document["layers"] == "2 x attention+swiglu"
    assert document["n_layers"] == 2
    assert document["spec"]["d_model"] == 32
    hashes = json.loads(run("check", str(file), "--json").out)["files"][0]["hash"]
    assert document["hash"] == hashes


def test_graphs(run: Run, file: Path) -> None:
    assert run("show", str(file), "--graph", "mermaid").out.startswith("flowchart")
    nodes = json.loads(run("show", str(file), "--graph", "json").out)["nodes"]
    assert {"layers.0.token_mixer", "layers.1.channel_mixer", "head"} <= {node["name"] for node in nodes}
    assert "layers.0.token_mixer" in run("show", str(file), "--graph", "text").out
    assert run("show", str(file), "--graph", "png").code == 2
