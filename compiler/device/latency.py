"""How long something takes: warmed up until it is steady, then many runs, their median and quartiles.

The caller sees to random data: kernels run measurably faster on zeros. On CUDA each run stands between a
pair of events, and the device is waited for once per batch of runs; on a CPU the clock is read. Caches are
warm.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from dataclasses import dataclass

import torch

from compiler.device import timers
from compiler.device.timers import Run, Timer

WARM_UP_WINDOW = 5  # runs whose median must settle
WARM_UP_TOLERANCE = 0.02  # how far that median may still move
WARM_UP_SECONDS = 10.0  # then measuring begins, settled or not
_CUDA_RUNS_IN_FLIGHT = 32  # between two waits


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one run: the median of ``n`` runs, and the quartiles below and above it."""

    median_ms: float
    low_ms: float
    high_ms: float
    n: int
    settled: bool = True  # whether the warm-up ended because the median stood still

    def as_json(self) -> dict[str, object]:
        return {
            "value": self.median_ms,
            "low": self.low_ms,
            "high": self.high_ms,
            "n": self.n,
            "settled": self.settled,
        }


def measure(
    run: Run,
    *,
    device: torch.device | str = "cpu",
    clock: str = "wall",
    min_runs: int = 30,
    min_seconds: float = 0.5,
    max_seconds: float = 60.0,
) -> Latency:
    """Time ``run`` at least ``min_runs`` times and ``min_seconds`` long, yet no longer than ``max_seconds``.

    ``max_seconds`` bounds the warm-up and the measuring apart, and never cuts below three runs. ``clock``
    is ``wall``, or ``cpu`` for the CPU time of this thread; on CUDA it is always events.
    """
    assert min_runs >= 3, "quartiles need three runs"
    device = torch.device(device)
    timer = timers.timer_of(timers.clock_of(device, clock))
    if device.type == "cuda":
        with torch.cuda.device(device):
            return _measure(run, timer, _CUDA_RUNS_IN_FLIGHT, min_runs, min_seconds, max_seconds)
    return _measure(run, timer, 1, min_runs, min_seconds, max_seconds)


def _measure(
    run: Run,
    timer: Timer,
    runs_at_once: int,
    min_runs: int,
    min_seconds: float,
    max_seconds: float,
) -> Latency:
    settled = warm_up(run, timer, seconds=min(WARM_UP_SECONDS, max_seconds))
    times: list[float] = []
    started = time.perf_counter()
    while True:
        times += timer(run, runs_at_once)
        spent = time.perf_counter() - started
        is_enough = len(times) >= min_runs and spent >= min_seconds
        if is_enough or (spent >= max_seconds and len(times) >= 3):
            break
    low, median, high = statistics.quantiles(times, n=4, method="inclusive")
    return Latency(1e3 * median, 1e3 * low, 1e3 * high, len(times), settled)


def warm_up(run: Run, timer: Timer, *, seconds: float) -> bool:
    """Run until the median of the last few runs agrees with that of the few before; whether it did."""
    recent: deque[float] = deque(maxlen=2 * WARM_UP_WINDOW)
    started = time.perf_counter()
    while time.perf_counter() - started < seconds or len(recent) < 1:
        recent += timer(run, 1)
        if len(recent) == recent.maxlen:
            before = statistics.median(list(recent)[:WARM_UP_WINDOW])
            after = statistics.median(list(recent)[WARM_UP_WINDOW:])
            if abs(after - before) <= WARM_UP_TOLERANCE * before:
                return True
    return False
