"""Two runs timed in common rounds, and the ratio of their times with its bootstrap interval.

On a CPU the clock on the wall and the CPU time of the process are read in the same rounds; on CUDA a pair of
events around each run, with the L2 cache emptied before it and the clocks of the processor watched.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from compiler.device.interleaved import interleaved

Run = Callable[[], object]


class Times(NamedTuple):
    """Seconds of each of two runs, round by round; ``cpu`` is empty on CUDA."""

    wall: tuple[Sequence[float], Sequence[float]]
    cpu: tuple[Sequence[float], Sequence[float]] | None


def together(a: Run, b: Run, *, rounds: int, device: torch.device, limit_s: float) -> Times | float:
    """Times in ``rounds`` rounds, in three at least and else in as many as take ``limit_s``.

    Where three take longer than that, the seconds that one round takes instead.
    """
    on_cuda = device.type == "cuda"
    runs = (_Timed(a), _Timed(b))
    for _ in range(0 if on_cuda else 2):  # the first may do more than those after it
        started = time.perf_counter()
        for run in runs:
            run()
        if (seconds := time.perf_counter() - started) > limit_s:
            return seconds
    if not on_cuda and 3 * seconds > limit_s:
        return seconds
    series = interleaved(
        [a, b] if on_cuda else runs,
        device=device, cold=True, min_rounds=rounds, min_seconds=0.5 if on_cuda else 0.0,
        max_seconds=limit_s, warm_up_seconds=3.0 if on_cuda else 0.0,
    )  # fmt: skip
    first, second = series.times
    n = series.n_rounds
    return Times((first, second), None if on_cuda else (runs[0].cpu[-n:], runs[1].cpu[-n:]))


class _Timed:
    """A run that notes the CPU time of the process, of all its threads."""

    def __init__(self, run: Run):
        self.run = run
        self.cpu: list[float] = []

    def __call__(self) -> None:
        started = time.process_time()
        self.run()
        self.cpu.append(time.process_time() - started)


class Ratio(NamedTuple):
    """The median of the ratios within rounds, and the interval of it."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, above: Sequence[float], below: Sequence[float], share: float = 0.95) -> Ratio:
        ratios = [a / b for a, b in zip(above, below, strict=True)]
        return cls(statistics.median(ratios), *interval(ratios, share))


def interval(values: Sequence[float], share: float = 0.95) -> tuple[float, float]:
    """The bootstrap interval of the median that holds ``share`` of 2,000 resamples."""
    rng = random.Random(0)
    medians = sorted(statistics.median(rng.choices(values, k=len(values))) for _ in range(2000))
    cut = round((1 - share) / 2 * len(medians))
    return medians[cut], medians[-1 - cut]
