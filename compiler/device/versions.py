"""What a measured time belongs to, as texts to compare: device and power limit, versions, our code."""

from __future__ import annotations

import contextlib
import platform
from importlib import metadata

import torch

from compiler.device.gpu_state import query_gpu
from compiler.device.info import cpu_name
from compiler.source_hash import source_hash

_RUNS = ("zoo", "compiler.passes.lower", "compiler.readings", "compiler.decode", "compiler.device.runs")


def device_text(device: torch.device) -> str:
    """The device's name; a GPU's with its power limit, which changes its speed."""
    if device.type == "cpu":
        return cpu_name()
    limit = query_gpu(device, "power.limit")
    name = torch.cuda.get_device_name(device)
    return name if limit is None else f"{name} at {limit} W"


def versions_text(device: torch.device) -> str:
    """Versions of what runs a model."""
    found = [f"torch {torch.__version__}", f"python {platform.python_version()}"]
    if device.type == "cuda":
        found.append(f"cuda {torch.version.cuda}")
        if (driver := query_gpu(device, "driver_version")) is not None:
            found.append(f"driver {driver}")
    with contextlib.suppress(metadata.PackageNotFoundError):
        found.append(f"triton {metadata.version('triton')}")
    return ", ".join(found)


def code_text(plugins: tuple[str, ...] = ()) -> str:
    """16 hexadecimal digits of the source that runs in a compiled model: components, lowering, decoding."""
    return source_hash((*_RUNS, *plugins))
