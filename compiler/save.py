"""A compiled model as a folder: spec, graph, code, weights and a manifest; written whole or not at all.

``spec.yaml`` (resolved), ``graph.json``, ``graph.mmd`` (Mermaid), ``code.py``, ``weights.safetensors`` (a
shared tensor once) and ``manifest.json``. ``compiler.load`` makes the model of it again.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import uuid
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, fx, nn

from archspec import SpecError
from archspec.dump import dump_spec
from archspec.identity import spec_hash
from compiler.graph import Graph, spec_of
from compiler.render import as_json, as_mermaid, readable_code

FORMAT = 1
SPEC, GRAPH, MERMAID, CODE = "spec.yaml", "graph.json", "graph.mmd", "code.py"
WEIGHTS, MANIFEST = "weights.safetensors", "manifest.json"
_CODE_HEAD = (
    "# For reading: what the model runs. Loading rebuilds it from spec.yaml and never executes this file.\n\n"
)


def save(directory: str | os.PathLike[str], *, graph: Graph, module: fx.GraphModule, seed: int) -> None:
    """Replace an earlier model in ``directory``; a folder with anything else in it is refused."""

    def write(folder: Path) -> None:
        tensors, shared = unique_tensors(module)
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
        spec = spec_of(graph)
        manifest = {
            "archspec_format": FORMAT,
            "name": spec.name,
            "hash": spec_hash(spec),
            "seed": seed,
            "n_parameters": sum(p.numel() for p in module.parameters()),
            "shared_tensors": shared,
            "versions": {
                "archspec-compiler": _own_version(),
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
        }
        (folder / SPEC).write_text(dump_spec(spec), encoding="utf-8")
        _write_json(folder / GRAPH, as_json(graph))
        (folder / MERMAID).write_text(as_mermaid(graph), encoding="utf-8")
        (folder / CODE).write_text(_CODE_HEAD + readable_code(module), encoding="utf-8")
        _write_json(folder / MANIFEST, manifest)
        shutil.copymode(folder / SPEC, folder / WEIGHTS)  # safetensors lets only the owner read

    replace_folder(Path(directory), write)


def unique_tensors(module: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of the state dict, each storage once, and under which name the others are found."""
    names: dict[tuple[int, int, torch.Size], str] = {}
    tensors: dict[str, Tensor] = {}
    shared: dict[str, str] = {}
    for name, tensor in module.state_dict().items():
        key = (tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.shape)
        if tensor.numel() and key in names:
            shared[name] = names[key]
        else:
            names[key] = name
            tensors[name] = tensor.contiguous()
    return tensors, shared


def replace_folder(directory: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a folder beside ``directory``, then put it in its place in one step."""
    target = Path(os.path.abspath(directory))
    if target.is_symlink():
        target = target.resolve()
    try:
        _refuse_foreign(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh = target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}.new")
        fresh.mkdir()
        try:
            write(fresh)
            _swap(fresh, target)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    except OSError as error:
        raise SpecError(
            f"cannot write to '{directory}': {error.strerror or error}", hint="name another folder with -o"
        ) from error


def _swap(fresh: Path, target: Path) -> None:
    if not target.exists():
        fresh.rename(target)
        return
    old = target.with_name(f"{fresh.name.removesuffix('.new')}.old")
    target.rename(old)
    try:
        fresh.rename(target)
    except OSError:
        old.rename(target)
        raise
    shutil.rmtree(old)


def _refuse_foreign(target: Path) -> None:
    if target.exists() and not target.is_dir():
        raise SpecError(f"'{target}' is a file, not a folder", hint="name a folder with -o")
    if target.is_dir() and any(target.iterdir()) and not _is_ours(target):
        raise SpecError(
            f"the folder '{target}' holds something else than a compiled model",
            hint="name a new or empty folder with -o",
        )


def _is_ours(target: Path) -> bool:
    """Whether the folder holds a compiled model and nothing beside it that replacing would destroy."""
    files = {SPEC, GRAPH, MERMAID, CODE, WEIGHTS, MANIFEST}
    return (target / MANIFEST).is_file() and {entry.name for entry in target.iterdir()} <= files


def _own_version() -> str:
    try:
        return metadata.version("archspec-compiler")
    except metadata.PackageNotFoundError:
        return "not installed"  # run from a source tree


def _write_json(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
