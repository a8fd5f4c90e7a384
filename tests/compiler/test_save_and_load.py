"""A compiled model as a folder: the same outputs come back, and nothing is half-written or taken on trust."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import compiler
from archspec import SpecError
from archspec.spec import ModelSpec
from compiler import CompiledModel, compile_spec
from zoo import load_zoo
from zoo.checks import Case, all_cases

SpecMaker = Callable[..., ModelSpec]

LAYERS = """
- {token_mixer: attention, channel_mixer: swiglu}
- loop: 2
  layers: [{token_mixer: {kind: mamba2, d_head: 16}}]
- fit:
    n_groups: 4
    n_latents: 2
    d_latent: 12
    schedule: "(1)1(1)"
    local: {token_mixer: attention}
    global: {token_mixer: {kind: attention, n_heads: 2}}
"""
WEIGHTS = "weights.safetensors"
FILES = {"spec.yaml", "graph.json", "graph.mmd", "code.py", WEIGHTS, "manifest.json"}
IDS = torch.randint(31, (2, 24), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model(make_spec: SpecMaker) -> CompiledModel:
    return compile_spec(make_spec(LAYERS, "head={kind: lm, tied: true}"), seed=3, gate=False)


@pytest.fixture
def folder(model: CompiledModel, tmp_path: Path) -> Path:
    model.save(tmp_path / "a" / "model")
    return tmp_path / "a" / "model"


def test_outputs_come_back(model: CompiledModel, folder: Path) -> None:
    loaded = compiler.load(folder)
    assert torch.equal(loaded(IDS), model(IDS))
    assert (loaded.hash, loaded.seed, loaded.spec) == (model.hash, 3, model.spec)


def test_trained_weights_and_their_type_come_back(model: CompiledModel, tmp_path: Path) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    model.to(torch.bfloat16).save(tmp_path / "model")
    loaded = compiler.load(tmp_path / "model")
    assert torch.equal(loaded(IDS), model(IDS))
    assert loaded(IDS).dtype == torch.bfloat16
    assert loaded.module.head.weight is loaded.module.stem.tokens.weight


def test_the_folder_holds_everything_once(model: CompiledModel, folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == FILES
    assert [path.name for path in folder.parent.iterdir()] == ["model"]  # nothing temporary is left
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["shared_tensors"] == {"head.weight": "stem.tokens.weight"}
    tensors = load_file(folder / "weights.safetensors")
    assert "head.weight" not in tensors
    buffers = dict(model.module.named_buffers())
    n_saved = sum(t.numel() for name, t in tensors.items() if name not in buffers)
    assert n_saved == manifest["n_parameters"] == sum(p.numel() for p in model.parameters())
    graph = json.loads((folder / "graph.json").read_text())
    assert [node["name"] for node in graph["nodes"]] == list(model.graph)
    assert (folder / "graph.mmd").read_text().startswith("flowchart TD\n")
    compile((folder / "code.py").read_text(), "code.py", "exec")
    modes = {path.stat().st_mode for path in folder.iterdir()}
    assert len(modes) == 1


def test_a_second_compile_replaces_the_first(make_spec: SpecMaker, folder: Path) -> None:
    other = compile_spec(make_spec("- {channel_mixer: mlp}"), gate=False)
    other.save(folder)
    assert torch.equal(compiler.load(folder)(IDS), other(IDS))
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_an_empty_folder_is_filled(model: CompiledModel, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    model.save(tmp_path / "empty")
    assert {path.name for path in (tmp_path / "empty").iterdir()} == FILES


def test_a_foreign_folder_is_left_alone(model: CompiledModel, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    (folder / "notes.txt").write_text("mine")
    for place in (tmp_path / "thesis", folder):
        before = {path.name: path.read_bytes() for path in place.iterdir()}
        with pytest.raises(SpecError, match="holds something else"):
            model.save(place)
        assert {path.name: path.read_bytes() for path in place.iterdir()} == before
    with pytest.raises(SpecError, match="is a file"):
        model.save(folder / "notes.txt")


@pytest.mark.parametrize("place", ["/proc/model", "{tmp}/file/model"])
def test_a_place_that_cannot_be_written_is_an_error(model: CompiledModel, tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SpecError, match=r"cannot write to|is a file"):
        model.save(place.format(tmp=tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("existing", [False, True])
def test_a_write_that_fails_half_way_leaves_what_was_there(
    model: CompiledModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, existing: bool
) -> None:
    target = tmp_path / "model"
    if existing:
        model.save(target)
    before = {path.name: path.read_bytes() for path in target.iterdir()} if existing else None

    def full_disk(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("compiler.save.as_mermaid", full_disk)
    with pytest.raises(SpecError, match="No space left"):
        model.save(target)
    assert ({p.name: p.read_bytes() for p in target.iterdir()} if target.exists() else None) == before
    assert len(list(tmp_path.iterdir())) == int(existing)


def edit_spec(folder: Path, old: str, new: str) -> None:
    text = (folder / "spec.yaml").read_text()
    assert old in text
    (folder / "spec.yaml").write_text(text.replace(old, new))


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def put(name: str, tensor: torch.Tensor) -> Callable[[Path], None]:
    return lambda folder: rewrite(folder, lambda tensors: tensors.update({name: tensor}))


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (lambda f: [os.remove(f / name) for name in FILES], "no compiled model here"),
    "no weights": (lambda f: os.remove(f / WEIGHTS), "cannot read the weights"),
    "cut weights": (lambda f: os.truncate(f / WEIGHTS, 1000), "cannot read the weights"),
    "pickle": (lambda f: torch.save({"x": torch.zeros(3)}, f / WEIGHTS), "cannot read the weights"),
    "missing tensor": (
        lambda f: rewrite(f, lambda t: t.__delitem__("norm.weight")),
        "'norm.weight' is missing",
    ),
    "extra tensor": (put("extra", torch.zeros(3)), "'extra' is not in the model"),
    "other shape": (put("norm.weight", torch.zeros(3)), r"'norm.weight' has shape \[3\]"),
    "other type": (put("norm.weight", torch.zeros(16, dtype=torch.int32)), "'norm.weight' has a type"),
    "other spec": (
        lambda f: edit_spec(f, "loop: 2", "loop: 3"),
        "not the spec that the weights were saved with",
    ),
    "bad spec": (lambda f: edit_spec(f, "loop: 2", "lop: 2"), "lop"),
    "nested manifest": (lambda f: (f / "manifest.json").write_text("[" * 100_000), "not JSON"),
    "other manifest": (lambda f: (f / "manifest.json").write_text("{}"), "not of format 1"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_folders_are_refused(folder: Path, name: str) -> None:
    break_it, says = BROKEN[name]
    break_it(folder)
    with pytest.raises(SpecError, match=says) as caught:
        compiler.load(folder)
    assert str(folder) in str(caught.value)


def test_a_spec_of_another_size_is_refused_before_it_is_allocated(folder: Path) -> None:
    """Whoever forges the manifest's hash too still has to bring a weight file of the model's size."""
    from archspec.identity import spec_hash

    edit_spec(folder, "d_model: 16", "d_model: 999984")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["hash"] = spec_hash(compiler.load_spec(folder / "spec.yaml"))
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(SpecError, match="has shape"):
        compiler.load(folder)


@pytest.mark.parametrize("case", [*all_cases(load_zoo())], ids=lambda case: case.id)
def test_components_take_shape_without_memory(case: Case) -> None:
    """What ``load`` compares weight files with: on the meta device, the names and shapes of the real thing."""
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in case.build().state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in case.build().state_dict().items()}
