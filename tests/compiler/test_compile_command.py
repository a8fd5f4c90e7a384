"""``archspec compile`` from the outside."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import compiler
from archspec import SpecError
from archspec.commands import main

SPEC = """archspec: 1
name: small
input: {kind: tokens, vocab_size: 31, seq_len: 24}
causal: true
d_model: 16
stem: embedding
layers:
  - {token_mixer: {kind: attention, window: 24}, channel_mixer: swiglu}
head: lm
"""
LEAKY = """
from typing import Literal
import torch
from torch import nn
from archspec import Capabilities, Cost, MixerConfig
from zoo.contract import Mixer

class Leaky(Mixer):
    class Config(MixerConfig):
        kind: Literal["leaky"] = "leaky"
        def cost(self, ctx):
            return Cost()
        def capabilities(self):
            return Capabilities(causal="always")

    def forward(self, x, mask=None):
        return x + x.mean(1, keepdim=True)

    reference = forward
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "small.yaml").write_text(SPEC)
    return tmp_path


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


Runner = Callable[..., Done]


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Runner:
    """``archspec compile`` with these arguments, in ``folder``."""

    def run(*arguments: str) -> Done:
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "path", [*sys.path])  # --plugin looks in the current folder too
        monkeypatch.setattr(sys, "argv", ["archspec", "compile", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        code = end.value.code
        assert code is None or isinstance(code, int)
        return Done(code or 0, *capsys.readouterr())

    return run


def test_a_spec_becomes_a_folder_that_loads(folder: Path, run: Runner) -> None:
    done = run("small.yaml", "-o", "out", "--seed", "3", "--set", "d_model=8")
    assert (done.returncode, done.stdout) == (0, "out\n")
    assert "parameters, causality tested by perturbation" in done.stderr
    assert "warning: small.yaml:8:19: layers[0].token_mixer: window 24 >= seq_len 24" in done.stderr
    model = compiler.load(folder / "out")
    assert (model.spec.d_model, model.seed) == (8, 3)
    spec = compiler.load_spec(folder / "small.yaml", overrides=["d_model=8"])
    ids = torch.randint(31, (2, 24))
    assert torch.equal(model(ids), compiler.compile_spec(spec, seed=3)(ids))


def test_without_a_folder_the_code_is_printed(folder: Path, run: Runner) -> None:
    done = run("small.yaml", "--print-after", "expand")
    assert done.returncode == 0
    assert done.stdout.startswith("# after expand\ninputs ")
    assert "    x = self.stem(inputs)\n" in done.stdout
    assert [path.name for path in folder.iterdir()] == ["small.yaml"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["small.yaml", "-o", "/proc/out"], "cannot write to '/proc/out'"),
        (["small.yaml", "-o", "."], "holds something else than a compiled model"),
        (["small.yaml", "-o", "out", "--set", "d_model=18"], "d_model 18 is not a multiple of n_heads 4"),
        (["small.yaml", "-o", "out", "--print-after", "lowr"], "did you mean 'lower'?"),
        (["none.yaml", "-o", "out"], "no such file"),
    ],
    ids=["read-only", "foreign", "misfit", "pass", "no file"],
)
def test_what_cannot_be_done_is_one_message_and_exit_code_1(
    folder: Path, run: Runner, arguments: list[str], says: str
) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in folder.iterdir()] == ["small.yaml"]


def test_a_leaking_plug_in_is_refused_with_its_line(folder: Path, run: Runner) -> None:
    (folder / "mine" / "token_mixers").mkdir(parents=True)
    for package in ("mine", "mine/token_mixers"):
        (folder / package / "__init__.py").write_text("")
    (folder / "mine" / "token_mixers" / "leaky.py").write_text(LEAKY)
    (folder / "leaky.yaml").write_text(SPEC.replace("{kind: attention, window: 24}", "leaky"))
    done = run("leaky.yaml", "-o", "out", "--plugin", "mine")
    assert done.returncode == 1
    assert "leaky.yaml:8:19: layers[0].token_mixer: layers.0.token_mixer ('leaky') breaks" in done.stderr
    assert not (folder / "out").exists()


def test_a_model_with_a_plug_in_is_loaded_with_it_named(folder: Path, run: Runner) -> None:
    """Nothing in the folder makes ``load`` import the plug-in."""
    (folder / "mine2" / "token_mixers").mkdir(parents=True)
    for package in ("mine2", "mine2/token_mixers"):
        (folder / package / "__init__.py").write_text("")
    sound = LEAKY.replace("x.mean(1, keepdim=True)", "x")
    (folder / "mine2" / "token_mixers" / "leaky.py").write_text(sound)
    (folder / "sound.yaml").write_text(SPEC.replace("{kind: attention, window: 24}", "leaky"))
    assert run("sound.yaml", "-o", "out", "--plugin", "mine2").returncode == 0
    assert "mine2" not in json.dumps(json.loads((folder / "out" / "manifest.json").read_text()))
    with pytest.raises(SpecError, match="unknown token mixer 'leaky'"):
        compiler.load(folder / "out")
