"""How long something takes: warmed up until it is steady, then many runs, their median and quartiles.

The caller sees to random data: kernels run measurably faster on zeros. On CUDA each run stands between a
pair of events, and the device is waited for once per batch of runs; on a CPU the clock is read. Caches are
warm.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch

Clock = Callable[[Callable[[], object], int], list[float]]  # seconds of n runs
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
    run: Callable[[], object],
    *,
    device: torch.device | str = "cpu",
    min_runs: int = 30,
    min_seconds: float = 0.5,
    max_seconds: float = 60.0,
) -> Latency:
    """Time ``run`` at least ``min_runs`` times and ``min_seconds`` long, yet no longer than ``max_seconds``.

    ``max_seconds`` bounds the warm-up and the measuring apart, and never cuts below three runs.
    """
    assert min_runs >= 3, "quartiles need three runs"
    device = torch.device(device)
    if device.type == "cuda":
        with torch.cuda.device(device):
            return _measure(run, _cuda_times, _CUDA_RUNS_IN_FLIGHT, min_runs, min_seconds, max_seconds)
    return _measure(run, _cpu_times, 1, min_runs, min_seconds, max_seconds)


def _measure(
    run: Callable[[], object],
    clock: Clock,
    runs_at_once: int,
    min_runs: int,
    min_seconds: float,
    max_seconds: float,
) -> Latency:
    settled = _warm_up(run, clock, seconds=min(WARM_UP_SECONDS, max_seconds))
    times: list[float] = []
    started = time.perf_counter()
    while True:
        times += clock(run, runs_at_once)
        spent = time.perf_counter() - started
        is_enough = len(times) >= min_runs and spent >= min_seconds
        if is_enough or (spent >= max_seconds and len(times) >= 3):
            break
    low, median, high = statistics.quantiles(times, n=4, method="inclusive")
    return Latency(1e3 * median, 1e3 * low, 1e3 * high, len(times), settled)


def _warm_up(run: Callable[[], object], clock: Clock, *, seconds: float) -> bool:
    """Run until the median of the last few runs agrees with that of the few before; whether it did."""
    recent: deque[float] = deque(maxlen=2 * WARM_UP_WINDOW)
    started = time.perf_counter()
    while time.perf_counter() - started < seconds or len(recent) < 1:
        recent += clock(run, 1)
        if len(recent) == recent.maxlen:
            before = statistics.median(list(recent)[:WARM_UP_WINDOW])
            after = statistics.median(list(recent)[WARM_UP_WINDOW:])
            if abs(after - before) <= WARM_UP_TOLERANCE * before:
                return True
    return False


def _cpu_times(run: Callable[[], object], n: int) -> list[float]:
    times = []
    for _ in range(n):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return times


def _cuda_times(run: Callable[[], object], n: int) -> list[float]:
    """Seconds of ``n`` runs enqueued one after the other."""
    events = [(_cuda_event(), _cuda_event()) for _ in range(n)]
    for start, end in events:
        start.record()
        run()
        end.record()
    torch.cuda.synchronize()
    return [start.elapsed_time(end) / 1e3 for start, end in events]


def _cuda_event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
