"""Cost and device profile -> the roofline: what a node cannot be faster than, run by itself from memory.

    time >= max(FLOPs / matmul rate, bytes moved / bandwidth)        (Williams, Waterman, Patterson 2009)

A sum over nodes; overhead is not in it. A roofline rejects and ranks, it never accepts: real kernels are
slower. A compiler that fuses nodes moves fewer bytes, and a tensor that stays in a cache none at all, so
only ``compute_ms`` holds whatever the kernels are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from archspec import DTYPE_BYTES, Cost, Dtype, Phase, SpecError
from compiler.device.device_profile import Basis, DeviceProfile, PeakKind

_TRAIN_PASSES = 3  # forward, and a backward pass with two matmuls for each of its matmuls
_ADAMW_PASSES = 7  # reads weight, gradient and two states, writes weight and two states


@dataclass(frozen=True)
class Roofline:
    """Milliseconds; ``bound_ms`` is the sum over nodes of the greater of the two."""

    bound_ms: float
    compute_ms: float
    memory_ms: float

    def __add__(self, other: Roofline) -> Roofline:
        return Roofline(
            self.bound_ms + other.bound_ms,
            self.compute_ms + other.compute_ms,
            self.memory_ms + other.memory_ms,
        )

    @property
    def bound_by(self) -> str:
        return "compute" if self.compute_ms >= self.memory_ms else "memory"


def roofline(
    costs: Iterable[Cost], device: DeviceProfile, *, dtype: Dtype, phase: Phase, basis: Basis = "peak"
) -> Roofline:
    """Of nodes run one after the other; ``costs`` are those of ``phase`` (for train: its forward pass).

    A SpecError where the profile lacks the rate of ``dtype`` or the bandwidth.
    """
    flops_per_s, bytes_per_s = _rates(device, dtype, basis)
    found = Roofline(0.0, 0.0, 0.0)
    for cost in costs:
        passes = _TRAIN_PASSES if phase == "train" else 1
        moved = passes * cost.bytes_moved
        if phase == "train":
            moved += _ADAMW_PASSES * cost.params * DTYPE_BYTES[dtype]
        compute = 1e3 * passes * cost.flops_needed / flops_per_s
        memory = 1e3 * moved / bytes_per_s
        found += Roofline(max(compute, memory), compute, memory)
    return found


def _rates(device: DeviceProfile, dtype: PeakKind, basis: Basis) -> tuple[float, float]:
    flops, moved = device.flops_per_second(dtype, basis), device.bytes_per_second(basis)
    if flops is None or moved is None:
        what = f"rate of {dtype} matmuls" if flops is None else "memory bandwidth"
        other = "measured" if basis == "peak" else "peak"
        raise SpecError(
            f"device profile '{device.device}' has no {basis} {what}, so it has no roofline",
            hint=f"'archspec device probe' measures it, or use the {other} figures",
        )
    return flops, moved
