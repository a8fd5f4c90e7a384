"""A device -> its measured rates: matmuls by dtype, copies, the launch of an operation, memory.

Data are random, runs are warmed up until their median stands still, figures are medians, and the spread of
two series of one matmul (A/A) says how far any of it can be trusted. Clocks of a GPU are read, never set.
"""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, get_args

import torch

from archspec import Dtype
from archspec.dump import dump_tree
from compiler.device.device_profile import DeviceProfile, Measured, profile_reported_as
from compiler.device.gpu_state import GpuState
from compiler.device.info import DeviceInfo, device_info, resolve_device
from compiler.device.interleaved import interleaved
from compiler.device.latency import Latency, measure
from compiler.device.timers import clock_of

_N_MATMUL: dict[str, dict[Dtype, int]] = {  # rows and columns
    "cpu": {"float64": 1024, "float32": 1024, "bfloat16": 1024, "float16": 512},  # float16 may be emulated
    "cuda": {"float64": 4096, "float32": 4096, "bfloat16": 8192, "float16": 8192},
}
_COPY_BYTES = {"cpu": 1 << 28, "cuda": 1 << 30}  # far beyond any cache
_N_LAUNCHES = 500
Say = Callable[[str], None]


@dataclass(frozen=True)
class Probe:
    """Everything that was measured, with its spread; rates are per second."""

    info: DeviceInfo
    clock: str
    matmul: dict[Dtype, Latency]
    n_matmul: dict[Dtype, int]
    copy: Latency
    copy_bytes: int
    launch_us: float
    noise: float
    gpu: tuple[GpuState, ...]
    seconds: float

    def tflops(self, dtype: Dtype) -> float:
        """2 n^3 FLOPs in the median time."""
        return float(2 * self.n_matmul[dtype] ** 3 / self.matmul[dtype].median_ms / 1e9)

    @property
    def copy_gb_s(self) -> float:
        """Bytes read and bytes written."""
        return 2 * self.copy_bytes / self.copy.median_ms / 1e6

    def as_json(self) -> dict[str, Any]:
        """The stable keys of ``device probe --json``."""
        return {
            "device": self.info.as_json(),
            "clock": self.clock,
            "matmul_tflops": {dtype: self.tflops(dtype) for dtype in self.matmul},
            "matmul_ms": {dtype: latency.as_json() for dtype, latency in self.matmul.items()},
            "n_matmul": self.n_matmul,
            "copy_gb_s": self.copy_gb_s,
            "copy_ms": self.copy.as_json(),
            "launch_us": self.launch_us,
            "noise": self.noise,
            "gpu": [state.as_json() for state in self.gpu],
            "seconds": self.seconds,
        }

    def profile(self) -> DeviceProfile:
        """The device's profile: the shipped one if there is one, with these figures as what is measured."""
        info = self.info
        known = profile_reported_as(info.name)
        measured = Measured(
            date=datetime.now(UTC).date().isoformat(),
            by="archspec device probe",
            matmul_tflops={dtype: float(f"{self.tflops(dtype):.4g}") for dtype in self.matmul},
            copy_gb_s=float(f"{self.copy_gb_s:.4g}"),
            launch_us=float(f"{self.launch_us:.3g}"),
            noise=float(f"{self.noise:.2g}"),
            clock=self.clock,
            threads=info.n_threads if info.device == "cpu" else None,
            versions={"torch": info.torch} | ({"cuda": info.driver} if info.driver else {}),
            memory_gb=float(f"{info.memory_bytes / 1e9:.4g}"),
            conditions="random data, medians",
        )
        if known is not None:
            return known.model_copy(update={"measured": measured})
        name = re.sub(r"[^a-z0-9]+", "_", info.name.lower()).strip("_")[:100] or info.device
        return DeviceProfile(
            archspec=1,
            device=name,
            name=info.name,
            kind="cuda" if info.device.startswith("cuda") else "cpu",
            reported=(info.name,),
            measured=measured,
            note="Peaks are not known: what is measured stands for them.",
        )


def probe(
    device: str = "auto", *, clock: str = "wall", seconds: float = 10.0, say: Say | None = None
) -> Probe:
    """Measure ``device`` for about ``seconds``; a slow dtype may take longer, since it runs three times."""
    target = resolve_device(device)
    used = clock_of(target, clock)
    tell = say or (lambda text: None)
    started = time.perf_counter()
    share = seconds / (len(get_args(Dtype)) + 3)
    matmul: dict[Dtype, Latency] = {}
    sizes: dict[Dtype, int] = {}
    with torch.inference_mode():
        for dtype in get_args(Dtype):
            tell(f"matmul in {dtype}")
            try:
                matmul[dtype], sizes[dtype] = _matmul(target, dtype, clock, share)
            except (RuntimeError, NotImplementedError) as error:  # this dtype is not for this device
                tell(f"no matmul in {dtype}: {str(error).splitlines()[0]}")
        tell("copy")
        copy, n_bytes = _copy(target, clock, share)
        tell("launch")
        launch_us = _launch_us(target)
        tell("noise floor")
        noise, gpu = _noise(target, clock, share)
    info = device_info(target)
    spent = time.perf_counter() - started
    return Probe(info, used, matmul, sizes, copy, n_bytes, launch_us, noise, gpu, spent)


def profile_text(profile: DeviceProfile) -> str:
    """A profile as a YAML file that ``--device-profile`` reads."""
    return dump_tree(profile.model_dump(mode="json", exclude_defaults=True))


def _matmul(device: torch.device, dtype: Dtype, clock: str, seconds: float) -> tuple[Latency, int]:
    n = _N_MATMUL[device.type][dtype]
    a, b = (torch.randn(n, n, device=device).to(getattr(torch, dtype)) for _ in range(2))
    out = torch.empty_like(a)
    found = measure(
        lambda: torch.mm(a, b, out=out),
        device=device,
        clock=clock,
        min_seconds=seconds / 2,
        max_seconds=seconds,
    )
    return found, n


def _copy(device: torch.device, clock: str, seconds: float) -> tuple[Latency, int]:
    n_bytes = _COPY_BYTES[device.type]
    source = torch.randn(n_bytes // 4, device=device)
    target = torch.empty_like(source)
    found = measure(
        lambda: target.copy_(source),
        device=device,
        clock=clock,
        min_seconds=seconds / 2,
        max_seconds=seconds,
    )
    return found, n_bytes


def _launch_us(device: torch.device) -> float:
    """Microseconds that the host needs for one small operation, in a row of many; the best of nine rows."""
    x = torch.randn(16, device=device)
    out = torch.empty_like(x)
    times = []
    for _ in range(9):
        started = time.perf_counter()
        for _ in range(_N_LAUNCHES):
            torch.add(x, 1.0, out=out)
        times.append((time.perf_counter() - started) / _N_LAUNCHES)  # before waiting for the device
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    return 1e6 * min(times)


def _noise(device: torch.device, clock: str, seconds: float) -> tuple[float, tuple[GpuState, ...]]:
    """A/A: one matmul on two sets of operands, interleaved; how far their medians are apart, as a share."""
    n = _N_MATMUL[device.type]["float32"]
    pairs = [tuple(torch.randn(n, n, device=device) for _ in range(3)) for _ in range(2)]
    runs = [lambda a=a, b=b, out=out: torch.mm(a, b, out=out) for a, b, out in pairs]
    found = interleaved(
        runs, device=device, clock=clock, min_rounds=20, min_seconds=seconds, max_seconds=2 * seconds
    )
    first, second = (statistics.median(times) for times in found.times)
    return abs(first / second - 1.0), found.gpu
