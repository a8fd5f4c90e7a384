"""Clocks, power and temperature of a GPU while something is timed: read by nvidia-smi, never set."""

from __future__ import annotations

import functools
import shutil
import subprocess
from dataclasses import asdict, dataclass

import torch

_FIELDS = "clocks.sm,clocks.mem,power.draw,temperature.gpu"


@dataclass(frozen=True)
class GpuState:
    """One reading."""

    sm_mhz: float
    memory_mhz: float
    power_w: float | None
    temperature_c: float | None

    def as_json(self) -> dict[str, float | None]:
        return asdict(self)


def read_gpu_state(device: torch.device) -> GpuState | None:
    """What nvidia-smi says of ``device`` now; None without it, or if it says nothing usable."""
    line = query_gpu(device, _FIELDS)
    return None if line is None else parse_state(line)


def query_gpu(device: torch.device, fields: str) -> str | None:
    """The answer to ``nvidia-smi --query-gpu=fields``: values with commas between them."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    command = [program, f"--id={_uuid(device.index or 0)}", f"--query-gpu={fields}"]
    try:
        done = subprocess.run(  # noqa: S603 (a fixed command)
            [*command, "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def parse_state(line: str) -> GpuState | None:
    """``"1980, 2619, 512.3, 44"`` as a reading; fields that a device does not have are ``[N/A]``."""
    values = [_number(word) for word in line.strip().split(",")]
    if len(values) != 4 or values[0] is None or values[1] is None:
        return None
    return GpuState(values[0], values[1], values[2], values[3])


def _number(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None


@functools.cache
def _uuid(index: int) -> str:
    """The device's name for nvidia-smi, which counts devices otherwise than CUDA_VISIBLE_DEVICES does."""
    return f"GPU-{torch.cuda.get_device_properties(index).uuid}"
