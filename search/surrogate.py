"""A regression that knows how little it knows: bagged ridge and trees, weighted by their foresight.

Each family is judged by rank correlation on values it was not fitted to: ridge by leave-one-out with an
intercept, which has a closed form (without one, centred columns would tell the value that is left out: minus
the sum of the others), trees out of bag. They learn the ranks of the values as normal scores. A draw takes
one bootstrap member of ridge and a few trees and averages them by these weights: a Thompson sample of what
is to be expected. What single candidates deviate from it is added on request, as noise of the spread that
the values left out have about their predictions.
"""

from __future__ import annotations

import threading

import numpy as np
import numpy.typing as npt
from scipy.stats import norm, rankdata, spearmanr
from sklearn.ensemble import ExtraTreesRegressor
from threadpoolctl import threadpool_limits

Array = npt.NDArray[np.float64]
_PENALTIES = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
_N_MEMBERS = 24
_N_TREES = 32
_TREES_PER_DRAW = 6
_FITTING = threading.Lock()  # limits are of the process: two that overlap would restore each other's
_POWER = 4.0  # of the rank correlation, for the weight


class Surrogate:
    """Fitted to ``features`` (n, d), centred, and ``values`` (n,); deterministic in ``seed``."""

    def __init__(self, features: Array, values: Array, *, seed: int):
        self._scores = _NormalScores(values)
        target = self._scores.target
        with _FITTING, threadpool_limits(1):  # matrices this small wait for threads longer than they work
            self._ridge = _Ridge(features, target, seed=seed)
            self._trees = _Trees(features, target, seed=seed)
        found = np.array([self._ridge.correlation, self._trees.correlation])
        self.correlation = float(found.max())  # of the better family with values it has not seen
        weights = np.clip(found, 0.0, 1.0) ** _POWER
        self._weights = weights / weights.sum() if weights.sum() > 0 else np.array([0.5, 0.5])
        left_out = self._weights @ np.stack((self._ridge.left_out, self._trees.left_out))
        self._spread = float(np.sqrt(((left_out - target) ** 2).mean()))

    def expected(self, features: Array) -> Array:
        """(len(features),): the mean prediction, in the units of the values."""
        means = np.stack((self._ridge.all(features).mean(axis=0), self._trees.all(features).mean(axis=0)))
        return self._scores.values(self._weights @ means)

    def draws(self, features: Array, n: int, *, seed: int, noise: bool) -> Array:
        """(n, len(features)): plausible means or, with ``noise``, values, in the units of the values."""
        rng = np.random.default_rng(seed)
        ridge, trees = self._ridge.all(features), self._trees.all(features)
        members = ridge[rng.integers(len(ridge), size=n)]
        groups = rng.permuted(np.tile(np.arange(len(trees)), (n, 1)), axis=1)[:, :_TREES_PER_DRAW]
        mixed = self._weights[0] * members + self._weights[1] * trees[groups].mean(axis=1)
        if noise:
            mixed += self._spread * rng.standard_normal(mixed.shape)
        return self._scores.values(mixed)


class _NormalScores:
    """Values by their ranks, spread as a normal distribution is: a few very bad ones do not rule the fit.

    The way back is linear between the values that were seen, and goes on beyond them as the outer quarter
    does.
    """

    def __init__(self, values: Array):
        n = len(values)
        self.target: Array = norm.ppf((rankdata(values) - 0.5) / n)
        self._from, first = np.unique(self.target, return_index=True)
        self._to = values[first]

    def values(self, scores: Array) -> Array:
        x, y = self._from, self._to
        found: Array = np.interp(scores, x, y)
        quarter = len(x) // 4
        if quarter > 0:
            below, above = scores < x[0], scores > x[-1]
            found[below] += (scores[below] - x[0]) * (y[quarter] - y[0]) / (x[quarter] - x[0])
            found[above] += (scores[above] - x[-1]) * (y[-1] - y[-1 - quarter]) / (x[-1] - x[-1 - quarter])
        return found


class _Ridge:
    def __init__(self, features: Array, target: Array, *, seed: int):
        inner = features.T @ features
        penalty, left_out = min(
            ((p, _leave_one_out(features, inner, target, p)) for p in _PENALTIES),
            key=lambda pair: float(((pair[1] - target) ** 2).mean()),
        )
        self.left_out = left_out
        self.correlation = _rank_correlation(left_out, target)
        rng = np.random.default_rng(seed)
        n, d = features.shape
        members = []
        for _ in range(_N_MEMBERS):
            weights = rng.multinomial(n, np.full(n, 1 / n)).astype(np.float64)
            weighted = features * weights[:, None]
            members.append(np.linalg.solve(weighted.T @ features + penalty * np.eye(d), weighted.T @ target))
        self._members = np.array(members)

    def all(self, features: Array) -> Array:
        """(members, len(features))."""
        predicted: Array = self._members @ features.T
        return predicted


class _Trees:
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

    def all(self, features: Array) -> Array:
        """(trees, len(features))."""
        narrow = features.astype(np.float32)
        return np.array([tree.predict(narrow)[:, 0] for tree in self._trees])


def _leave_one_out(features: Array, inner: Array, target: Array, penalty: float) -> Array:
    """Each value as a ridge with a free intercept predicts it from all others: y - residual / (1 - leverage).

    ``features`` and ``target`` are centred; the intercept adds 1 / n to every leverage.
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
