"""Regressions that tell how well they foresee: ridge, trees and a Gaussian process, each on normal scores.

All are fitted to ``features`` (n, d), centred, and ``target`` (n,), of mean 0 and variance about 1, and have
``left_out`` (n,): each value as it is predicted by a fit that did not see it. ``mean`` is the prediction,
``draws`` are plausible means that differ by what the data leave open.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import numpy.typing as npt
from scipy.stats import spearmanr
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.gaussian_process.kernels import Matern

Array = npt.NDArray[np.float64]
_PENALTIES = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
_N_MEMBERS = 24
_N_TREES = 32
_TREES_PER_DRAW = 6
_LENGTHS = (0.25, 0.5, 1.0, 2.0, 4.0)  # in units of the typical distance of two rows
_NOISES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)  # variance of the noise over that of the process
_MOST_ROWS = 384  # a process costs their cube; by then trees know as much
_JITTER = 1e-6


class Regression(ABC):
    """One family."""

    left_out: Array
    correlation: float  # of rank, between ``left_out`` and the target

    @abstractmethod
    def mean(self, features: Array) -> Array:
        """(len(features),)."""

    @abstractmethod
    def draws(self, features: Array, n: int, rng: np.random.Generator) -> Array:
        """(n, len(features)), each draw one law for all rows."""


class Ridge(Regression):
    """Bootstrap members of a ridge regression; its penalty is the one with the least error when left out."""

    def __init__(self, features: Array, target: Array, *, seed: int):
        inner = features.T @ features
        penalty, self.left_out = min(
            ((p, leave_one_out(features, inner, target, p)) for p in _PENALTIES),
            key=lambda pair: float(((pair[1] - target) ** 2).mean()),
        )
        self.correlation = _rank_correlation(self.left_out, target)
        rng = np.random.default_rng(seed)
        n, d = features.shape
        members = []
        for _ in range(_N_MEMBERS):
            weights = rng.multinomial(n, np.full(n, 1 / n)).astype(np.float64)
            weighted = features * weights[:, None]
            members.append(np.linalg.solve(weighted.T @ features + penalty * np.eye(d), weighted.T @ target))
        self._members = np.array(members)

    def mean(self, features: Array) -> Array:
        mean: Array = features @ self._members.mean(axis=0)
        return mean

    def draws(self, features: Array, n: int, rng: np.random.Generator) -> Array:
        drawn: Array = self._members[rng.integers(_N_MEMBERS, size=n)] @ features.T
        return drawn


class Trees(Regression):
    """Extremely randomised trees (Geurts et al. 2006), bagged; a draw is the mean of a few of them."""

    def __init__(self, features: Array, target: Array, *, seed: int):
        forest = ExtraTreesRegressor(
            n_estimators=_N_TREES,
            bootstrap=True,
            max_features=0.5,
            min_samples_leaf=1,
            random_state=seed % 2**32,
        ).fit(features, target)
        self._trees = [tree.tree_ for tree in forest.estimators_]
        narrow = features.astype(np.float32)
        votes, sums = np.zeros(len(target)), np.zeros(len(target))
        for tree, drawn in zip(self._trees, forest.estimators_samples_, strict=True):
            out = np.setdiff1d(np.arange(len(target)), drawn)
            sums[out] += tree.predict(narrow[out])[:, 0] if len(out) else 0.0
            votes[out] += 1
        judged = votes > 0
        self.left_out = sums / np.maximum(votes, 1)  # the mean, 0, of what no tree has left out
        self.correlation = _rank_correlation(self.left_out[judged], target[judged])

    def mean(self, features: Array) -> Array:
        return self._all(features).mean(axis=0)

    def draws(self, features: Array, n: int, rng: np.random.Generator) -> Array:
        groups = rng.permuted(np.tile(np.arange(_N_TREES), (n, 1)), axis=1)[:, :_TREES_PER_DRAW]
        drawn: Array = self._all(features)[groups].mean(axis=1)
        return drawn

    def _all(self, features: Array) -> Array:
        narrow = features.astype(np.float32)
        return np.array([tree.predict(narrow)[:, 0] for tree in self._trees])


class Process(Regression):
    """A Gaussian process of one length scale (Matern 5/2), by the greatest marginal likelihood on a grid.

    Its amplitude has a closed form, and so have the values left out (Rasmussen and Williams 2006, eq. 5.12).
    It is fitted to ``_MOST_ROWS`` at most, drawn at random; it has not seen the others, and predicts them.
    """

    def __init__(self, features: Array, target: Array, *, seed: int):
        n = len(target)
        rows = np.arange(n)
        if n > _MOST_ROWS:
            rows = np.sort(np.random.default_rng(seed).choice(n, size=_MOST_ROWS, replace=False))
        self._at, fitted = features[rows], target[rows]
        self._fit(fitted)
        self.left_out = self.mean(features) if n > len(rows) else np.empty(n)
        self.left_out[rows] = fitted - self._weights / np.diag(self._inverse)
        self.correlation = _rank_correlation(self.left_out, target)

    def _fit(self, target: Array) -> None:
        n, d = self._at.shape
        most = -np.inf
        for length in _LENGTHS:
            kernel = Matern(length * np.sqrt(max(1, d)), nu=2.5)
            values, vectors = np.linalg.eigh(kernel(self._at))
            squares = (vectors.T @ target) ** 2
            for noise in _NOISES:
                variances = np.maximum(values, 0.0) + noise
                amplitude = max(float((squares / variances).mean()), _JITTER)  # 0 if all values are equal
                evidence = -0.5 * (n * np.log(amplitude) + np.log(variances).sum())
                if evidence > most:
                    most = evidence
                    self._kernel, self._amplitude = kernel, amplitude
                    parts = vectors, variances
        vectors, variances = parts
        self._inverse = (vectors / variances) @ vectors.T
        self._weights = self._inverse @ target

    def mean(self, features: Array) -> Array:
        mean: Array = self._kernel(features, self._at) @ self._weights
        return mean

    def draws(self, features: Array, n: int, rng: np.random.Generator) -> Array:
        cross = self._kernel(features, self._at)
        covariance = self._kernel(features) - cross @ self._inverse @ cross.T
        covariance[np.diag_indices_from(covariance)] += _JITTER
        root = np.linalg.cholesky(self._amplitude * covariance)
        drawn: Array = cross @ self._weights + rng.standard_normal((n, len(features))) @ root.T
        return drawn


def leave_one_out(features: Array, inner: Array, target: Array, penalty: float) -> Array:
    """Each value as a ridge with a free intercept predicts it from all others: y - residual / (1 - leverage).

    ``features`` and ``target`` are centred; the intercept adds 1 / n to every leverage. (Without one, centred
    columns would tell the value that is left out: minus the sum of the others.)
    """
    solved = np.linalg.solve(inner + penalty * np.eye(len(inner)), features.T)
    leverage = np.einsum("nd,dn->n", features, solved)
    residual = target - features @ (solved @ target)
    left_out: Array = target - residual / np.maximum(1 - 1 / len(target) - leverage, 1e-9)
    return left_out


def _rank_correlation(predicted: Array, truth: Array) -> float:
    if len(truth) < 3 or np.ptp(predicted) == 0 or np.ptp(truth) == 0:
        return 0.0
    return float(spearmanr(predicted, truth).statistic)
