"""Ridge, trees and a Gaussian process: exact where they claim to be, honest about what they did not see."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from search import regressions
from search.regressions import Process, Ridge, Trees, leave_one_out

FAMILIES = (Ridge, Trees, Process)


def test_leave_one_out_is_what_refitting_without_each_row_predicts() -> None:
    rng = np.random.default_rng(0)
    features, target = rng.normal(size=(12, 4)), rng.normal(size=12)
    features, target = features - features.mean(axis=0), target - target.mean()
    found = leave_one_out(features, features.T @ features, target, 2.0)
    for row in range(12):
        kept = np.arange(12) != row
        middle, level = features[kept].mean(axis=0), target[kept].mean()
        rest = features[kept] - middle
        weights = np.linalg.solve(rest.T @ rest + 2.0 * np.eye(4), rest.T @ (target[kept] - level))
        assert found[row] == pytest.approx(level + (features[row] - middle) @ weights, rel=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_draws_are_laws_about_the_mean_that_agree_where_the_data_are_dense(family: type) -> None:
    rng = np.random.default_rng(0)
    features = rng.uniform(-1, 1, size=(150, 2))
    target = features[:, 0] - features[:, 1]
    fitted = family(features, target, seed=0)
    near, far = rng.uniform(-0.5, 0.5, size=(40, 2)), rng.uniform(3, 4, size=(40, 2))
    drawn = fitted.draws(near, 400, np.random.default_rng(1))
    assert drawn.shape == (400, 40)
    assert np.abs(drawn.mean(axis=0) - fitted.mean(near)).max() < 0.05
    assert np.abs(fitted.mean(near) - (near[:, 0] - near[:, 1])).mean() < 0.1
    if family is not Trees:  # they are constant beyond the data
        beyond = fitted.draws(far, 400, np.random.default_rng(1))
        assert beyond.std(axis=0).mean() > 3 * drawn.std(axis=0).mean()


@pytest.mark.parametrize("family", FAMILIES)
def test_values_that_are_all_equal_are_predicted_without_a_warning(family: type) -> None:
    features = np.random.default_rng(0).normal(size=(12, 3))
    fitted = family(features, np.zeros(12), seed=0)
    assert fitted.correlation == 0.0
    assert np.abs(fitted.draws(features, 3, np.random.default_rng(0))).max() < 1e-3


def test_a_product_of_two_choices_is_left_to_trees_and_process() -> None:
    rng = np.random.default_rng(2)
    features = rng.choice([-1.0, 1.0], size=(150, 4))
    target = features[:, 0] * features[:, 1]
    ridge, trees, process = (family(features, target, seed=0) for family in FAMILIES)
    assert min(trees.correlation, process.correlation) > 0.7 > ridge.correlation


def _process_data(n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    features = rng.normal(size=(n, 3))
    target = np.sin(features[:, 0]) + 0.3 * rng.normal(size=n)
    return features, target - target.mean()


def test_a_process_predicts_and_doubts_as_scikit_learns_does() -> None:
    features, target = _process_data(30)
    fitted = Process(features, target, seed=0)
    noise = float(fitted._amplitude * _noise(fitted))
    kernel = ConstantKernel(fitted._amplitude) * Matern(fitted._kernel.length_scale, nu=2.5) + WhiteKernel(
        noise
    )
    peer = GaussianProcessRegressor(kernel, optimizer=None).fit(features, target)
    fresh = np.random.default_rng(4).normal(size=(20, 3))
    mean, spread = peer.predict(fresh, return_std=True)
    assert fitted.mean(fresh) == pytest.approx(mean, abs=1e-9)
    drawn = fitted.draws(fresh, 4000, np.random.default_rng(5))
    assert drawn.std(axis=0) == pytest.approx(np.sqrt(spread**2 - noise), rel=0.1)
    for row in range(30):
        kept = np.arange(30) != row
        without = GaussianProcessRegressor(kernel, optimizer=None).fit(features[kept], target[kept])
        assert fitted.left_out[row] == pytest.approx(without.predict(features[row : row + 1])[0], abs=1e-9)


def _noise(fitted: Process) -> float:
    """Of the grid, the one with which the inverse is one."""
    gram = fitted._kernel(fitted._at)
    errors = [
        np.abs(fitted._inverse @ (gram + noise * np.eye(len(gram))) - np.eye(len(gram))).max()
        for noise in regressions._NOISES
    ]
    assert min(errors) < 1e-8
    return regressions._NOISES[int(np.argmin(errors))]


def test_a_process_takes_the_likeliest_of_its_grid() -> None:
    features, target = _process_data(40)
    fitted = Process(features, target, seed=0)

    def evidence(length: float, noise: float) -> float:
        kernel = Matern(length * np.sqrt(3), nu=2.5)
        gram = kernel(features) + noise * np.eye(40)
        amplitude = target @ np.linalg.solve(gram, target) / 40
        full = ConstantKernel(amplitude) * kernel + WhiteKernel(amplitude * noise)
        peer = GaussianProcessRegressor(full, optimizer=None).fit(features, target)
        return float(peer.log_marginal_likelihood_value_)

    grid = [(evidence(a, b), a, b) for a in regressions._LENGTHS for b in regressions._NOISES]
    _, length, noise = max(grid)
    assert fitted._kernel.length_scale == pytest.approx(length * np.sqrt(3))
    assert _noise(fitted) == noise


def test_a_long_history_is_predicted_from_a_part_that_is_named_by_the_seed() -> None:
    features, target = _process_data(regressions._MOST_ROWS + 200)
    first, again, other = (Process(features, target, seed=seed) for seed in (0, 0, 1))
    assert len(first._at) == regressions._MOST_ROWS
    assert np.array_equal(first.left_out, again.left_out)
    assert not np.array_equal(first.left_out, other.left_out)
    assert first.correlation > 0.7
    unseen = ~np.isin(features, first._at).all(axis=1)
    assert unseen.sum() == 200
    assert first.left_out[unseen] == pytest.approx(first.mean(features[unseen]))
