"""Several things timed side by side: in every round each runs once, in random order.

What slows the machine for a while then slows all of them, and their differences and ratios stand. On CUDA
the clocks of the processor are read after every window of rounds (never set), and a window whose clock was
3 % off that of the whole series is left out.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch

from compiler.device import timers
from compiler.device.gpu_state import GpuState, read_gpu_state
from compiler.device.latency import warm_up
from compiler.device.timers import Run

Statistic = Literal["median", "lower_quartile"]
Tick = Callable[[float], None]
_WINDOW_SECONDS = 0.25  # between two readings of the clocks
_CLOCK_TOLERANCE = 0.03
_BOOTSTRAPS = 200


@dataclass(frozen=True)
class Series:
    """Seconds: ``times[i][r]`` is run i in round r; rounds that were left out are not among them."""

    times: tuple[tuple[float, ...], ...]
    n_rejected: int = 0  # rounds whose window had other clocks
    gpu: tuple[GpuState, ...] = ()

    @property
    def n_rounds(self) -> int:
        return len(self.times[0])


def interleaved(
    runs: Sequence[Run],
    *,
    device: torch.device,
    clock: str = "wall",
    cold: bool = False,
    min_rounds: int = 30,
    min_seconds: float = 0.5,
    max_seconds: float = 60.0,
    warm_up_seconds: float = 3.0,
    seed: int = 0,
    tick: Tick | None = None,
) -> Series:
    """Time ``runs`` in rounds: ``min_rounds`` and ``min_seconds``, but no longer than ``max_seconds``.

    ``cold`` empties a GPU's L2 cache before each run. There are at least three rounds. ``tick`` is told after
    each of them which share is done.
    """
    effort = _Effort(min_rounds, min_seconds, max_seconds, warm_up_seconds)
    if device.type == "cuda":
        on_gpu: timers.Timer = timers.cold_event_times if cold else timers.event_times
        with torch.cuda.device(device):
            return _rounds(runs, on_gpu, partial(read_gpu_state, device), effort, seed, tick)
    timer = timers.timer_of(timers.clock_of(device, clock))
    return _rounds(runs, timer, None, effort, seed, tick)


def estimate(times: Sequence[float], statistic: Statistic) -> float:
    """One figure for a series of times."""
    return float(np.quantile(times, 0.25 if statistic == "lower_quartile" else 0.5))


def interval(of: Callable[[np.ndarray], float], n_rounds: int, *, seed: int = 0) -> tuple[float, float]:
    """The 5th and 95th percentile of ``of(rounds)`` over bootstrapped rounds (indices, with repetition)."""
    rng = np.random.default_rng(seed)
    found = [of(rng.integers(n_rounds, size=n_rounds)) for _ in range(_BOOTSTRAPS)]
    low, high = np.quantile(found, [0.05, 0.95])
    return float(low), float(high)


@dataclass(frozen=True)
class _Effort:
    """When a series is long enough."""

    min_rounds: int
    min_seconds: float
    max_seconds: float
    warm_up_seconds: float

    def share(self, n_rounds: int, seconds: float) -> float:
        """How much of it is done; 1 or more at the end, which is not before three rounds."""
        share = min(n_rounds / self.min_rounds, seconds / max(self.min_seconds, 1e-9))
        if n_rounds >= 3:
            share = max(share, seconds / self.max_seconds)
        return share


def _rounds(
    runs: Sequence[Run],
    timer: timers.Timer,
    read_state: Callable[[], GpuState | None] | None,
    effort: _Effort,
    seed: int,
    tick: Tick | None = None,
) -> Series:
    for run in runs:
        warm_up(run, timer, seconds=effort.warm_up_seconds)
    rng = random.Random(seed)  # noqa: S311
    order = list(range(len(runs)))
    rounds: list[list[float]] = []
    windows: list[tuple[int, GpuState]] = []  # rounds up to a reading, and the reading
    started = last_read = time.perf_counter()
    while True:
        rng.shuffle(order)
        seconds = [0.0] * len(runs)
        for i in order:
            (seconds[i],) = timer(runs[i], 1)
        rounds.append(seconds)
        now = time.perf_counter()
        share = effort.share(len(rounds), now - started)
        is_last = share >= 1.0
        if tick is not None:
            tick(min(1.0, share))
        if read_state is not None and (is_last or now - last_read >= _WINDOW_SECONDS):
            if (state := read_state()) is not None:
                windows.append((len(rounds), state))
            last_read = time.perf_counter()
        if is_last:
            break
    kept = _steady(len(rounds), windows)
    return Series(
        tuple(tuple(rounds[r][i] for r in kept) for i in range(len(runs))),
        n_rejected=len(rounds) - len(kept),
        gpu=tuple(state for _, state in windows),
    )


def _steady(n_rounds: int, windows: Sequence[tuple[int, GpuState]]) -> list[int]:
    """The rounds of windows whose SM clock is that of the series; all if fewer than three are left."""
    if not windows:
        return list(range(n_rounds))
    usual = statistics.median(state.sm_mhz for _, state in windows)
    kept: list[int] = []
    begin = 0
    for end, state in windows:
        if abs(state.sm_mhz - usual) <= _CLOCK_TOLERANCE * usual:
            kept += range(begin, end)
        begin = end
    kept += range(begin, n_rounds)
    return kept if len(kept) >= 3 else list(range(n_rounds))
