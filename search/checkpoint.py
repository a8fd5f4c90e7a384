"""A training's state in one safetensors file: weights, optimizer, and progress as JSON text in its header."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from archspec import SpecError


def checkpoint_of(directory: Path, rate: float) -> Path:
    """Where the training with one learning rate keeps its state."""
    return directory / "checkpoints" / f"lr_{rate:g}.safetensors"


def save_checkpoint(
    path: Path, module: nn.Module, optimizer: torch.optim.Optimizer, progress: dict[str, Any]
) -> None:
    """Write everything that a training needs to go on exactly where it is."""
    tensors = {f"model.{name}": tensor for name, tensor in weights(module).items()}
    for name, parameter in module.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{key}.{name}"] = value
    tensors["random.cpu"] = torch.get_rng_state()
    if (device := _device(module)).type == "cuda":
        tensors["random.cuda"] = torch.cuda.get_rng_state(device)
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        save_file(on_cpu, temporary, metadata={"progress": json.dumps(progress)})


def load_checkpoint(path: Path, module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any] | None:
    """Put a saved state back in place and return its progress; None where nothing has been saved."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            progress: dict[str, Any] = json.loads(file.metadata()["progress"])
            saved = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise SpecError(
            f"this checkpoint cannot be read: {error}",
            file=str(path),
            hint="delete it to train from the start",
        ) from error
    own = weights(module)
    if {name: tensor.shape for name, tensor in own.items()} != {
        name.removeprefix("model."): tensor.shape
        for name, tensor in saved.items()
        if name.startswith("model.")
    }:
        raise SpecError("this checkpoint is of another model", file=str(path), hint="use another folder")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(saved[f"model.{name}"])
    for name, parameter in module.named_parameters():
        for key in ("step", "exp_avg", "exp_avg_sq"):
            if (value := saved.get(f"optimizer.{key}.{name}")) is not None:
                optimizer.state[parameter][key] = value.to(parameter.device)
    torch.set_rng_state(saved["random.cpu"])
    if "random.cuda" in saved and (device := _device(module)).type == "cuda":
        torch.cuda.set_rng_state(saved["random.cuda"], device)
    return progress


def weights(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, a tied one under its first name only."""
    return dict(module.named_parameters()) | dict(module.named_buffers())


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write, which takes the place of ``path`` when the block ends well; a failure leaves none."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise SpecError(f"cannot write here: {error.strerror}", file=str(path.parent)) from error
    temporary = Path(name)
    try:
        os.close(handle)
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise SpecError(f"cannot write: {error.strerror or error}", file=str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a whole text file in one step."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device
