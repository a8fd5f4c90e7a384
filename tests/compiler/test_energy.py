"""Energy of one run: whole windows of runs on one counter, and a plain word where there is none."""

from __future__ import annotations

import pytest
import torch

from archspec import SpecError
from compiler.device.energy import energy_counter, measure_energy


class Board:
    """A device that spends 5 J on each run and 10 W in between; a run takes 0.1 s."""

    def __init__(self) -> None:
        self.seconds = self.joules = 0.0
        self.is_busy = False

    def run(self) -> None:
        assert not self.is_busy, "one run after the other"
        self.is_busy = True
        self.seconds += 0.1
        self.joules += 5.0 + 10.0 * 0.1

    def wait(self) -> None:
        self.is_busy = False


def test_energy_is_what_the_counter_moves_per_run() -> None:
    board = Board()
    found = measure_energy(
        board.run, lambda: board.joules, wait=board.wait, seconds=3.0, clock=lambda: board.seconds
    )
    assert found.median_j == pytest.approx(6.0)
    assert found.low_j <= found.median_j <= found.high_j
    assert found.n >= 30


def test_a_run_longer_than_its_window_is_still_measured() -> None:
    board = Board()
    found = measure_energy(
        board.run, lambda: board.joules, wait=board.wait, seconds=0.01, clock=lambda: board.seconds
    )
    assert found.n == 3
    assert found.median_j == pytest.approx(6.0)


def test_a_cpu_reports_none() -> None:
    with pytest.raises(SpecError, match="the device cpu reports no energy"):
        energy_counter(torch.device("cpu"))
