"""What a time is read from: the wall clock, the CPU time of this thread, or a pair of CUDA events.

On a machine that others use too, the CPU time of the thread is what the work took, and the wall clock what
the work and the waiting took. It says nothing of other threads, so it needs torch to run on one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

import torch

from archspec import SpecError

Clock = Literal["wall", "cpu", "events"]
Run = Callable[[], object]
Timer = Callable[[Run, int], list[float]]  # seconds of n runs
_L2_BYTES = 256 << 20  # more than any L2 cache


def clock_of(device: torch.device, asked: str = "wall") -> Clock:
    """The clock of ``device``: events on CUDA whatever is asked for; on a CPU ``wall`` or ``cpu``."""
    if asked not in ("wall", "cpu"):
        raise SpecError(f"unknown clock '{asked}'", hint="known here: wall, cpu (of the thread)")
    if device.type == "cuda":
        return "events"
    if asked == "cpu" and torch.get_num_threads() != 1:
        raise SpecError(
            f"the CPU time of one thread does not tell what {torch.get_num_threads()} threads take",
            hint="use one thread, or the wall clock",
        )
    return "wall" if asked == "wall" else "cpu"


def timer_of(clock: Clock) -> Timer:
    """The function that reads ``clock``."""
    return {"wall": wall_times, "cpu": thread_times, "events": event_times}[clock]


def wall_times(run: Run, n: int) -> list[float]:
    """By the clock on the wall."""
    return _read(time.perf_counter, run, n)


def thread_times(run: Run, n: int) -> list[float]:
    """CPU time of the calling thread, which also runs the backward pass of CPU tensors."""
    return _read(time.thread_time, run, n)


def event_times(run: Run, n: int) -> list[float]:
    """Of ``n`` runs enqueued one after the other on the current CUDA device; waits once, at the end."""
    events = [(cuda_event(), cuda_event()) for _ in range(n)]
    for start, end in events:
        start.record()
        run()
        end.record()
    torch.cuda.synchronize()
    return [start.elapsed_time(end) / 1e3 for start, end in events]


def cold_event_times(run: Run, n: int) -> list[float]:
    """The same with the L2 cache emptied before each run, outside what is timed."""
    flush = torch.empty(_L2_BYTES, dtype=torch.uint8, device="cuda")
    events = [(cuda_event(), cuda_event()) for _ in range(n)]
    for start, end in events:
        flush.zero_()
        start.record()
        run()
        end.record()
    torch.cuda.synchronize()
    return [start.elapsed_time(end) / 1e3 for start, end in events]


def cuda_event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def _read(clock: Callable[[], float], run: Run, n: int) -> list[float]:
    times = []
    for _ in range(n):
        started = clock()
        run()
        times.append(clock() - started)
    return times
