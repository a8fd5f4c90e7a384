"""Joules of one run, from the energy counter of an NVIDIA device.

The counter is NVML's (Volta and later); it counts the whole board, what idles on it included. Other devices
have none that a user may read, and say so.
"""

from __future__ import annotations

import ctypes
import functools
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from archspec import SpecError
from compiler.device.timers import Run

_LIBRARY = "libnvidia-ml.so.1"
_N_WINDOWS = 3
Counter = Callable[[], float]  # joules since some moment


@dataclass(frozen=True)
class Energy:
    """Joules of one run: the median of a few windows, and the least and greatest of them."""

    median_j: float
    low_j: float
    high_j: float
    n: int  # runs in all


def energy_counter(device: torch.device) -> Counter:
    """Reads joules spent by ``device``; SpecError where it reports none."""
    if device.type != "cuda":
        raise SpecError(f"the device {device} reports no energy")
    nvml, handle = _handle(str(torch.cuda.get_device_properties(device).uuid))
    spent = ctypes.c_ulonglong()

    def read() -> float:
        code = nvml.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(spent))
        if code != 0:
            raise SpecError(f"the device {device} reports no energy (NVML error {code})")
        return spent.value / 1e3

    read()
    return read


def measure_energy(
    run: Run,
    counter: Counter,
    *,
    wait: Callable[[], None],
    seconds: float,
    clock: Counter = time.perf_counter,
) -> Energy:
    """Repeat ``run`` for about ``seconds`` in three windows; ``wait`` returns when the device is idle."""
    run()
    wait()
    found, n = [], 0
    for _ in range(_N_WINDOWS):
        before, started, n_window = counter(), clock(), 0
        while clock() - started < seconds / _N_WINDOWS or n_window == 0:
            run()
            wait()
            n_window += 1
        found.append((counter() - before) / n_window)
        n += n_window
    low, median, high = sorted(found)
    return Energy(median, low, high, n)


@functools.cache
def _handle(uuid: str) -> tuple[ctypes.CDLL, ctypes.c_void_p]:
    """NVML and its handle of the device, which is named as ``GPU-<uuid>`` there."""
    try:
        nvml = ctypes.CDLL(_LIBRARY)
    except OSError:
        raise SpecError(f"no energy can be read: {_LIBRARY} is not there") from None
    handle = ctypes.c_void_p()
    name = uuid if uuid.startswith("GPU-") else f"GPU-{uuid}"
    code = nvml.nvmlInit_v2() or nvml.nvmlDeviceGetHandleByUUID(name.encode(), ctypes.byref(handle))
    if code != 0:
        raise SpecError(f"no energy can be read: NVML error {code}")
    return nvml, handle
