"""Which device a run uses, and what it is in words; nothing is ever assumed to be a GPU."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
import torch

from archspec import SpecError


@dataclass(frozen=True)
class DeviceInfo:
    """What a measurement must say about where it was taken; bytes are bytes."""

    device: str  # "cpu" or "cuda:0"
    name: str
    memory_bytes: int
    n_threads: int
    torch: str
    driver: str | None = None  # the CUDA version torch was built for

    def as_json(self) -> dict[str, object]:
        return asdict(self)


def resolve_device(name: str) -> torch.device:
    """ "auto", "cpu", "cuda" or "cuda:1" -> a device that exists; auto is the first GPU if there is one."""
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise SpecError(f"unknown device '{name}'", hint="known here: auto, cpu, cuda, cuda:N") from None
    if device.type == "cpu":
        return torch.device("cpu")
    if device.type != "cuda":
        raise SpecError(f"device '{name}' is not supported", hint="known here: auto, cpu, cuda, cuda:N")
    n_devices = torch.cuda.device_count()
    if (device.index or 0) >= n_devices:
        raise SpecError(f"device '{name}' is not there: torch sees {n_devices} CUDA devices", hint="try cpu")
    return torch.device("cuda", device.index or 0)


def device_info(device: torch.device) -> DeviceInfo:
    """What ``device`` is."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return DeviceInfo(
            device=str(device),
            name=properties.name,
            memory_bytes=properties.total_memory,
            n_threads=torch.get_num_threads(),
            torch=torch.__version__,
            driver=torch.version.cuda,
        )
    return DeviceInfo(
        device="cpu",
        name=cpu_name(),
        memory_bytes=psutil.virtual_memory().total,
        n_threads=torch.get_num_threads(),
        torch=torch.__version__,
    )


def cpu_name() -> str:
    """The processor's name as the system gives it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
