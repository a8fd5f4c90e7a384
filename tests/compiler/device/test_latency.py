"""The clock counts what it ran, warms up until it is steady, and stops; no test here judges a time."""

from __future__ import annotations

import time

import pytest

from archspec import SpecError
from compiler.device import latency, timers
from compiler.device.info import cpu_name, device_info, resolve_device
from compiler.device.latency import Latency, measure


def test_runs_at_least_as_often_as_asked_and_orders_its_figures() -> None:
    calls = []
    found = measure(lambda: calls.append(None), min_runs=40, min_seconds=0.0)
    assert found.n >= 40
    assert len(calls) >= found.n + 2 * latency.WARM_UP_WINDOW  # the warm-up is not among the figures
    assert 0 < found.low_ms <= found.median_ms <= found.high_ms


def test_a_slow_run_is_cut_off_after_three(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(10_000))
    monkeypatch.setattr(
        time, "perf_counter", lambda: float(next(now))
    )  # every look at the clock takes a second
    found = measure(lambda: None, min_runs=1000, max_seconds=0.5)
    assert found.n == 3
    assert not found.settled


def test_quartiles_are_those_of_the_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    given = iter([1.0] * 10 + [1.0, 2.0, 3.0, 4.0, 5.0])
    monkeypatch.setattr(timers, "wall_times", lambda run, n: [next(given) for _ in range(n)])
    found = measure(lambda: None, min_runs=5, min_seconds=0.0)
    assert found == Latency(median_ms=3000.0, low_ms=2000.0, high_ms=4000.0, n=5, settled=True)


def test_the_warm_up_waits_for_the_median_to_stand_still(monkeypatch: pytest.MonkeyPatch) -> None:
    given = iter([9.0 - i for i in range(5)] + [1.0] * 100)
    taken = []

    def clock(run: object, n: int) -> list[float]:
        taken.append(n)
        return [next(given) for _ in range(n)]

    monkeypatch.setattr(timers, "wall_times", clock)
    assert measure(lambda: None, min_runs=3, min_seconds=0.0).median_ms == 1000.0
    assert len(taken) == 15 - 2 + 3  # until three of the older five are steady; then the three that count


def test_cpu_is_a_device_and_is_described() -> None:
    info = device_info(resolve_device("cpu"))
    assert (info.device, info.name) == ("cpu", cpu_name())
    assert info.memory_bytes > 2**28
    assert info.as_json()["torch"] == info.torch


@pytest.mark.parametrize("name", ["gpu", "mps", "cuda:97", "meta", ""])
def test_a_device_that_is_not_there_is_a_users_error(name: str) -> None:
    with pytest.raises(SpecError, match="device"):
        resolve_device(name)


@pytest.mark.gpu
def test_cuda_times_are_those_of_the_device() -> None:
    import torch

    x = torch.randn(4096, 4096, device="cuda")
    found = measure(lambda: x @ x, device="cuda")
    assert found.n >= 30
    assert 0 < found.low_ms <= found.median_ms <= found.high_ms
