"""The surrogate and its features: judged on values it has not seen, exact where it claims to be."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from search import surrogate as surrogate_module
from search.features import Features
from search.genome import Gene, Genome
from search.pareto import hypervolume, improvements
from search.proposers import Screened
from search.surrogate import Surrogate


def test_more_features_than_rows_do_not_make_noise_predictable() -> None:
    rng = np.random.default_rng(5)
    features = rng.normal(size=(40, 60))
    surrogate = Surrogate(features - features.mean(axis=0), rng.normal(size=40), seed=0)
    assert surrogate.correlation < 0.3


def test_a_linear_law_is_predicted_and_noise_is_not() -> None:
    rng = np.random.default_rng(1)
    features = rng.normal(size=(80, 6))
    law = features @ np.array([3.0, -2.0, 0.0, 1.0, 0.0, 0.5]) + 10
    assert Surrogate(features, law, seed=0).correlation > 0.95
    assert Surrogate(features, rng.normal(size=80), seed=0).correlation < 0.3


def test_draws_differ_and_keep_the_units_of_the_values() -> None:
    rng = np.random.default_rng(1)
    features = rng.normal(size=(60, 4))
    law = 1e6 + 1e4 * features[:, 0]
    surrogate = Surrogate(features, law, seed=0)
    first, second = surrogate.draws(features, 2, seed=0, noise=False)
    assert not np.array_equal(first, second)
    assert np.abs(first - law).mean() < 3e3
    assert np.abs(surrogate.expected(features) - law).mean() < 3e3
    assert np.array_equal(surrogate.draws(features, 2, seed=0, noise=False)[0], first)


def test_noise_is_as_wide_as_the_regression_is_wrong_about_what_it_has_not_seen() -> None:
    """Half of the spread of the values cannot be foretold; draws of means know nothing of it."""
    rng = np.random.default_rng(4)
    features, fresh = rng.normal(size=(200, 3)), rng.normal(size=(400, 3))
    signal, noise = (lambda x: x[:, 0] + x[:, 1]), 2.0**0.5
    surrogate = Surrogate(features, signal(features) + noise * rng.normal(size=200), seed=0)
    wrong = (signal(fresh) + noise * rng.normal(size=400) - surrogate.expected(fresh)).std()
    wide, narrow = (surrogate.draws(fresh, 32, seed=0, noise=n).std(axis=0).mean() for n in (True, False))
    assert wide == pytest.approx(wrong, rel=0.2)
    assert narrow < 0.5 * wrong


def test_a_draw_with_noise_compares_rows_at_equal_luck(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(6)
    features = rng.normal(size=(80, 3))
    values = features[:, 0] + 2 * rng.normal(size=80)
    surrogate = Surrogate(features, values, seed=0)
    monkeypatch.setattr(surrogate._scores, "values", lambda scores: scores)
    quiet, noisy = (surrogate.draws(features, 32, seed=0, noise=noise) for noise in (False, True))
    luck = noisy - quiet
    assert np.ptp(luck, axis=1).max() < 1e-9, "one for all rows"
    assert np.sort(luck[:, 0]) == pytest.approx(surrogate._spread * norm.ppf((np.arange(32) + 0.5) / 32))


def test_threads_that_fit_at_once_do_not_limit_the_process_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one of two overlapping limits restores is the other's, and would stay."""
    inside, most = 0, 0

    @contextmanager
    def limits(n: int) -> Iterator[None]:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(0.05)
        yield
        inside -= 1

    monkeypatch.setattr(surrogate_module, "threadpool_limits", limits)
    rng = np.random.default_rng(1)
    features, law = rng.normal(size=(20, 4)), rng.normal(size=20)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda seed: Surrogate(features, law, seed=seed), range(8)))
    assert most == 1


def test_features_name_what_varies_and_leave_out_inactive_genes() -> None:
    genome = Genome((Gene("a", "choice", options=("x", "y")), Gene("b", "int", low=1, high=8, log=True)))
    rows = [
        Screened("1", {"a": "x", "b": 1}, {"params": 10.0}, (("attention", "mlp"), ("pool", "mlp"))),
        Screened("2", {"a": "y", "b": 8}, {"params": 99.0}, (("pool", "mlp"),), frozenset({"a"})),
    ]
    features = Features(genome, rows)
    table = features(rows)
    assert table.shape[0] == 2
    assert np.allclose(table.mean(axis=0), 0)
    assert table.std(axis=0).max() == pytest.approx(1.0), "the logarithm of a number"
    other = replace(rows[1], genes={"a": "y", "b": 1})
    assert np.array_equal(features([other]), features([rows[1]])), "b is not active there"


def test_features_of_the_evaluator_stand_in_place_of_genes_and_layers() -> None:
    genome = Genome((Gene("a", "choice", options=("x", "y")),))
    rows = [
        Screened("1", {"a": "x"}, {"params": 10.0}, (("attention", "mlp"),), features={"paths": 1.0}),
        Screened(
            "2", {"a": "y"}, {"params": 99.0}, (("pool", "mlp"),), features={"paths": 2.0, "loops": 1.0}
        ),
    ]
    features = Features(genome, rows)
    assert features(rows).shape == (2, 3), "params, paths and loops"
    other = replace(rows[1], genes={"a": "x"}, strip=())
    assert np.array_equal(features([other]), features([rows[1]]))


POINTS = st.lists(st.tuples(*[st.integers(0, 12).map(float)] * 3), max_size=8)


@settings(max_examples=150, deadline=None)
@given(front=POINTS, candidates=POINTS, n=st.integers(1, 3))
def test_an_improvement_is_the_hypervolume_that_a_point_adds(
    front: list[tuple[float, ...]], candidates: list[tuple[float, ...]], n: int
) -> None:
    front, candidates = [p[:n] for p in front], [p[:n] for p in candidates]
    reference = (10.0,) * n
    found = improvements(front, candidates, reference)
    for gain, candidate in zip(found, candidates, strict=True):
        more = hypervolume([*front, candidate], reference)
        assert gain == pytest.approx(more - hypervolume(front, reference), abs=1e-9)


def test_one_very_bad_value_does_not_rule_the_fit() -> None:
    rng = np.random.default_rng(3)
    features = rng.normal(size=(40, 3))
    law = features @ np.array([1.0, 0.5, 0.0])
    law[0] = 1e6
    drawn = Surrogate(features, law, seed=0).expected(features)
    assert np.corrcoef(drawn[1:].argsort().argsort(), law[1:].argsort().argsort())[0, 1] > 0.9
