"""Several runs timed in turn, round by round, and the ratios of their times with bootstrap intervals.

What disturbs a machine for a while hits all runs of a round alike, so that ratios within a round hold where
times do not. On a CPU both the clock on the wall and the CPU time of the process are read; on CUDA a pair of
events around each run, with the L2 cache emptied before it and one wait at the end of a round.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

Run = Callable[[], object]
_L2_BYTES = 256 << 20  # more than any L2 cache
_N_WINDOWS, _STEADY, _MOST_WARM_UPS = 5, 0.01, 200


@dataclass
class Times:
    """Seconds of one run in every round; ``cpu`` stays empty on CUDA."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def interleaved(
    runs: Mapping[str, Run], *, rounds: int, device: torch.device, limit_s: float, least: int = 3
) -> dict[str, Times] | float:
    """Times by name, in random order within each round, after rounds that do not count.

    As many rounds as fit into ``limit_s``, ``rounds`` at most; where not even ``least`` fit, the seconds
    that one round takes.
    """
    rng = random.Random(0)
    time_round = _cuda_round if device.type == "cuda" else _cpu_round
    seconds = _warm_up(runs, time_round, limit_s)
    if least * seconds > limit_s:
        return seconds
    times = {name: Times() for name in runs}
    for _ in range(max(least, min(rounds, int(limit_s / seconds)))):
        order = rng.sample(list(runs), len(runs))
        for name, (wall, cpu) in zip(order, time_round([runs[name] for name in order])):
            times[name].wall.append(wall)
            times[name].cpu += [] if cpu is None else [cpu]
    return times


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    return [a / b for a, b in zip(above, below, strict=True)]


def interval(values: Sequence[float], share: float = 0.95) -> tuple[float, float]:
    """The bootstrap interval of the median that holds ``share`` of 2,000 resamples."""
    rng = random.Random(0)
    medians = sorted(statistics.median(rng.choices(values, k=len(values))) for _ in range(2000))
    cut = round((1 - share) / 2 * len(medians))
    return medians[cut], medians[-1 - cut]


Round = Callable[[Sequence[Run]], list[tuple[float, float | None]]]


def _warm_up(runs: Mapping[str, Run], time_round: Round, limit_s: float) -> float:
    """Rounds that do not count -> seconds of one.

    One on a CPU, a second if it is short; on CUDA (compilation, autotuning, clocks) until the median of the
    last five rounds moves by less than 1 %.
    """
    on_cuda = time_round is _cuda_round
    totals: list[float] = []
    for _ in range(_MOST_WARM_UPS if on_cuda else 2):
        started = time.perf_counter()
        times = time_round(list(runs.values()))
        seconds = time.perf_counter() - started
        totals.append(sum(wall for wall, _ in times))
        if not on_cuda and seconds > limit_s / 10:
            break
        if on_cuda and len(totals) > 2 * _N_WINDOWS:
            now, before = (statistics.median(totals[i : i + _N_WINDOWS or None]) for i in (-5, -6))
            if abs(now / before - 1) < _STEADY:
                break
    return seconds


def _cpu_round(runs: Sequence[Run]) -> list[tuple[float, float | None]]:
    found: list[tuple[float, float | None]] = []
    for run in runs:
        wall, cpu = time.perf_counter(), time.process_time()
        run()
        found.append((time.perf_counter() - wall, time.process_time() - cpu))
    return found


def _cuda_round(runs: Sequence[Run]) -> list[tuple[float, float | None]]:
    flush = torch.empty(_L2_BYTES, dtype=torch.uint8, device="cuda")
    events = []
    for run in runs:
        flush.zero_()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        events.append((start, end))
    torch.cuda.synchronize()
    return [(start.elapsed_time(end) / 1e3, None) for start, end in events]
