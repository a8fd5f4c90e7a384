"""What the search benchmark concludes from its runs."""

from __future__ import annotations

from typing import Any

import pytest
from search_report import first_reaching, interval, mean_curve, paired, reaches_random, report, results


def row(method: str, seed: int, ratios: list[float]) -> dict[str, Any]:
    return {"table": "t", "budget": "wide", "method": method, "seed": seed, "ratios": ratios}


def ramp(top: float, n: int, *, by: int) -> list[float]:
    """Rises evenly to ``top`` at ``by``, then stays."""
    return [top * min(1.0, k / by) for k in range(1, n + 1)]


def test_an_interval_is_of_paired_differences() -> None:
    assert interval([0.5]) == (0.5, 0.5, 0.5)
    mean, low, high = interval([0.1, 0.2, 0.3, 0.4])
    assert mean == pytest.approx(0.25)
    assert 0.1 < low < 0.25 < high < 0.4


def test_only_seeds_of_both_that_are_long_enough_are_paired() -> None:
    ours, theirs = {0: [0.5, 0.9], 1: [0.5, 0.7], 2: [0.5]}, {0: [0.1, 0.2], 2: [0.0, 0.1], 3: [0.9, 0.9]}
    assert paired(ours, theirs, 2) == pytest.approx((0.7, 0.7, 0.7))
    assert paired(ours, theirs, 1) is not None
    assert paired(ours, {4: [1.0]}, 1) is None


def test_the_mean_reaches_what_random_search_has_after_500() -> None:
    rows = [row("random", seed, ramp(0.8, 500, by=500)) for seed in (0, 1)]
    rows += [row("default", 0, ramp(1.0, 200, by=50)), row("default", 1, ramp(0.8, 200, by=50))]
    rows += [row("slow", 0, ramp(0.7, 200, by=50))]
    reached = {found["method"]: found["reaches_mean_random_500_at"] for found in results(rows)}
    assert reached == {"random": 500, "default": 45, "slow": None}
    assert reaches_random({("t", "wide", "default"): {0: [1.0]}}, ("t", "wide", "default")) is None
    assert first_reaching([0.1, 0.5, 0.4], 0.5) == 2
    assert mean_curve({0: [0.0, 1.0, 1.0], 1: [0.5, 0.5]}) == [0.25, 0.75]


def test_the_tables_say_how_many_seeds_a_mean_stands_on() -> None:
    rows = [row("default", 0, [0.5] * 200), row("default", 1, [0.7] * 100), row("random", 0, [0.4] * 500)]
    told = report(rows, "default", ("default", "random"), ())
    assert "| t | wide | default | 2 | 0.600 | 0.600 | 0.600 | 0.500 (1 of 2) | 1 |" in told
    assert "| t | wide | random | 1 | +0.100 [+0.100, +0.100] |" in told
