"""Rank correlations against scipy's and the definition, and a verdict that is right on samples made for it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kendalltau, spearmanr

from search.proxy_validity import (
    Audited,
    ProxyRow,
    judge,
    kendall,
    quartiles,
    spearman,
    spearman_inside,
)


def sample(n: int, *, noise: float, size_noise: float, seed: int = 0) -> list[Audited]:
    """Scores of which a low rung knows as much as ``noise`` leaves, and the size as ``size_noise`` leaves."""
    rng = np.random.default_rng(seed)
    top = rng.normal(size=n)
    low, size = top + noise * rng.normal(size=n), top + size_noise * rng.normal(size=n)
    latency = rng.random(n)
    return [
        Audited(float(t), (float(s),), {"params": float(z), "flops": float(z) + 1}, float(ms))
        for t, s, z, ms in zip(top, low, size, latency, strict=True)
    ]


def row(found: tuple[ProxyRow, ...], name: str) -> ProxyRow:
    return next(row for row in found if row.name == name)


def test_the_correlations_are_scipys_ties_included() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        x, y = rng.integers(0, 6, (2, 15)).astype(float)
        assert spearman(x, y) == pytest.approx(spearmanr(x, y).statistic, abs=1e-12)
        assert kendall(x, y) == pytest.approx(kendalltau(x, y).statistic, abs=1e-12)
    many = rng.random((2, 7, 12))
    assert spearman(*many) == pytest.approx([spearmanr(a, b).statistic for a, b in zip(*many, strict=True)])
    assert spearman(np.ones(5), np.arange(5.0)) == kendall(np.ones(5), np.arange(5.0)) == 0


def test_inside_the_quartiles_the_difference_between_them_does_not_count() -> None:
    """Two groups far apart, each in reverse order: right over all, wrong inside."""
    x, y = np.array([1.0, 2, 3, 11, 12, 13]), np.array([3.0, 2, 1, 13, 12, 11])
    assert spearman(x, y) > 0.5
    assert spearman_inside(x, y, [slice(0, 3), slice(3, 6)]) == pytest.approx(-1)


def test_quartiles_are_even_and_in_order() -> None:
    parts = quartiles([5, 1, 4, 2, 3, 9, 8, 7, 6, 0])
    assert [len(part) for part in parts] == [3, 3, 2, 2]
    assert [index for part in parts for index in part] == [9, 1, 3, 4, 2, 0, 8, 7, 6, 5]


def test_a_rung_that_agrees_better_than_size_is_used() -> None:
    found = judge(sample(16, noise=0.2, size_noise=3.0), ["steps 1/9"], strata="latency_ms")
    rung = row(found.rows, "steps 1/9")
    assert rung.used
    assert found.used == ("steps 1/9",)
    assert rung.confidence is not None
    assert rung.confidence >= 0.9
    assert rung.spearman.low < rung.spearman.value <= rung.spearman.high
    assert "'steps 1/9' ranks score with Spearman 0." in found.sentence
    assert "is used to promote" in found.sentence


def test_a_rung_that_does_not_beat_size_is_not_used() -> None:
    found = judge(sample(16, noise=1.5, size_noise=0.1), ["steps 1/9"])
    assert found.used == ()
    assert "does not clearly beat the size of the models; it is not used" in found.sentence
    assert found.sentence.endswith("every candidate is trained in full")


def test_a_size_that_is_right_by_being_small_is_a_rival_too() -> None:
    turned = [
        Audited(m.top, m.lower, {name: -size for name, size in m.sizes.items()}, m.stratum)
        for m in sample(16, noise=0.4, size_noise=0.1)
    ]
    found = judge(turned, ["low"])
    assert row(found.rows, "params").spearman.value < -0.9
    assert not row(found.rows, "low").used


def test_a_rung_that_only_tells_large_from_small_is_not_used() -> None:
    """Inside the quartiles it knows nothing."""
    rng = np.random.default_rng(3)
    size = np.repeat(np.arange(4.0), 6)
    members = [
        Audited(float(10 * s + a), (float(10 * s + b),), {}, float(s))
        for s, a, b in zip(size, rng.random(24), rng.random(24), strict=True)
    ]
    found = judge(members, ["low"])
    assert row(found.rows, "low").spearman.value > 0.8
    assert not row(found.rows, "low").used


def test_each_rung_is_judged_alone() -> None:
    rng = np.random.default_rng(5)
    members = [
        Audited(m.top, (float(rng.normal()), m.lower[0]), m.sizes, m.stratum)
        for m in sample(16, noise=0.1, size_noise=3.0)
    ]
    assert judge(members, ["steps 1/27", "steps 1/9"]).used == ("steps 1/9",)


def test_too_few_or_constant_members_make_no_rung() -> None:
    few = judge(sample(7, noise=0.0, size_noise=3.0), ["low"])
    assert (few.rows, few.used) == ((), ())
    assert "7 audited candidates finished, and 8 are needed" in few.sentence
    flat = [Audited(0.5, (0.5,), {"params": float(i)}, float(i)) for i in range(12)]
    assert judge(flat, ["low"]).used == ()


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    """90 % intervals of a correlation whose truth is known from a large sample."""
    many = sample(20_000, noise=1.0, size_noise=1.0)
    truth = spearman(np.array([m.lower[0] for m in many]), np.array([m.top for m in many]))
    found = [
        judge(sample(20, noise=1.0, size_noise=1.0, seed=s), ["low"]).rows[0].spearman for s in range(40)
    ]
    share = sum(c.low <= truth <= c.high for c in found) / len(found)
    assert 0.75 <= share <= 1.0
