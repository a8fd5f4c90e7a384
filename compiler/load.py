"""Folder -> CompiledModel: compile the spec again and read the weights into it; nothing is executed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from archspec import SpecError
from archspec.identity import spec_hash
from archspec.source import load_source
from compiler.build import build_graph
from compiler.model import CompiledModel
from compiler.passes.lower import lower
from compiler.passes.resolve import resolve
from compiler.save import FORMAT, MANIFEST, SPEC, WEIGHTS, unique_tensors
from zoo import Zoo, load_zoo

_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
    "BOOL": torch.bool,
}  # fmt: skip
_MAX_MANIFEST_BYTES = 1 << 24


def load(
    directory: str | os.PathLike[str],
    *,
    device: str = "cpu",
    plugins: Iterable[str] = (),
    zoo: Zoo | None = None,
) -> CompiledModel:
    """The model that ``save`` wrote, with the same outputs.

    Names, shapes and types in the weight file are compared with the spec's before anything is allocated.
    """
    folder = Path(directory)
    if zoo is None:
        zoo = load_zoo(tuple(plugins))
    manifest = _manifest(folder / MANIFEST)
    spec = resolve(load_source(folder / SPEC, root=folder), zoo)
    if spec_hash(spec) != manifest["hash"]:
        raise SpecError(
            "this is not the spec that the weights were saved with: its hash differs from the manifest's",
            file=str(folder / SPEC),
            hint="a component may have changed since; compile the spec again",
        )
    graph = build_graph(spec, zoo=zoo)
    weights = folder / WEIGHTS
    with torch.device("meta"):
        expected, shared = _shapes(lower(graph, zoo, seed=0))
    types = _compare_header(weights, expected, shared)
    module = lower(graph, zoo, seed=manifest["seed"])
    _read_into(module, weights, types)
    return CompiledModel(graph=graph, module=module, zoo=zoo, seed=manifest["seed"]).to(device)


def _manifest(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_MANIFEST_BYTES:
            raise SpecError("this manifest is too long to be one of ours", file=str(path))
        manifest = json.loads(path.read_bytes())
    except OSError as error:
        raise SpecError(
            f"no compiled model here: {error.strerror or error}",
            file=str(path),
            hint="'archspec compile SPEC -o DIR' makes one",
        ) from error
    except (ValueError, RecursionError) as error:
        raise SpecError(f"this manifest is not JSON: {error}", file=str(path)) from error
    if not isinstance(manifest, dict) or manifest.get("archspec_format") != FORMAT:
        raise SpecError(f"this manifest is not of format {FORMAT}", file=str(path))
    if type(manifest.get("hash")) is not str or type(manifest.get("seed")) is not int:
        raise SpecError("this manifest lacks 'hash' or 'seed'", file=str(path))
    return manifest


def _shapes(module: nn.Module) -> tuple[dict[str, Tensor], set[str]]:
    """The tensors on the meta device by name, and the names that share another's storage."""
    state = module.state_dict(keep_vars=True)
    first: dict[int, str] = {}
    for name, tensor in state.items():
        first.setdefault(id(tensor), name)
    return state, {name for name, tensor in state.items() if first[id(tensor)] != name}


def _compare_header(path: Path, expected: dict[str, Tensor], shared: set[str]) -> dict[str, torch.dtype]:
    """The types of the tensors in the file, whose names and shapes are those of the spec's model."""
    try:
        with safe_open(path, framework="pt") as file:
            header = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            shapes = {name: tuple(part.get_shape()) for name, part in header.items()}
            types = {name: _DTYPES.get(part.get_dtype()) for name, part in header.items()}
    except (OSError, SafetensorError) as error:
        raise SpecError(f"cannot read the weights: {error}", file=str(path)) from error
    wrong = [f"'{name}' is missing" for name in expected if name not in shapes and name not in shared]
    found: dict[str, torch.dtype] = {}
    for name, shape in shapes.items():
        dtype = types[name]
        if name not in expected or name in shared:
            wrong.append(f"'{name}' is not in the model")
        elif shape != tuple(expected[name].shape):
            wrong.append(f"'{name}' has shape {list(shape)}, the model's has {list(expected[name].shape)}")
        elif dtype is None or dtype.is_floating_point != expected[name].is_floating_point():
            wrong.append(f"'{name}' has a type that the model cannot take")
        else:
            found[name] = dtype
    if wrong:
        more = f", and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise SpecError(f"the weights are not this spec's: {'; '.join(wrong[:3])}{more}", file=str(path))
    return found


def _read_into(module: nn.Module, path: Path, types: dict[str, torch.dtype]) -> None:
    targets, _ = unique_tensors(module)
    with safe_open(path, framework="pt") as file, torch.no_grad():
        state = module.state_dict(keep_vars=True)
        for name in targets:
            if types[name] != state[name].dtype:
                state[name].data = state[name].data.to(types[name])
            state[name].copy_(file.get_tensor(name))
