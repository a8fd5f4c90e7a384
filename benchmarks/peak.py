"""The memory that a run holds at its greatest moment, beyond what is there before it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile


def peak_bytes(run: Callable[[], object], device: torch.device) -> int:
    """By the allocator: its events on a CPU, its own count on CUDA."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        run()
    now = peak = 0
    for event in _memory_events(seen):
        now += event
        peak = max(peak, now)
    return peak


def _memory_events(seen: Any) -> list[int]:
    """Allocations (+) and releases (-) in order."""
    found = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    return [e.nbytes() for e in sorted(found, key=lambda e: e.start_ns())]
