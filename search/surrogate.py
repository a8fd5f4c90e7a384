"""A regression that knows how little it knows: bagged ridge and trees, weighted by their foresight.

Each family is judged by rank correlation on values it was not fitted to: ridge by leave-one-out with an
intercept, which has a closed form (without one, centred columns would tell the value that is left out: minus
the sum of the others), trees out of bag. They learn the ranks of the values as normal scores. A draw takes
one bootstrap member of ridge and a few trees and averages them by these weights: a Thompson sample.
"""

from __future__ import annotations

import random

import numpy as np
import numpy.typing as npt
from scipy.stats import norm, rankdata, spearmanr
from sklearn.ensemble import ExtraTreesRegressor

Array = npt.NDArray[np.float64]
_PENALTIES = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
_N_MEMBERS = 24
_N_TREES = 32
_TREES_PER_DRAW = 6
_POWER = 4.0  # of the rank correlation, for the weight


class Surrogate:
    """Fitted to ``features`` (n, d), centred, and ``values`` (n,); deterministic in ``seed``."""

    def __init__(self, features: Array, values: Array, *, seed: int):
        self._scores = _NormalScores(values)
        target = self._scores.target
        self._ridge = _Ridge(features, target, seed=seed)
        self._trees = _Trees(features, target, seed=seed)
        found = np.array([self._ridge.correlation, self._trees.correlation])
        self.correlation = float(found.max())  # of the better family with values it has not seen
        weights = np.clip(found, 0.0, 1.0) ** _POWER
        self._weights = weights / weights.sum() if weights.sum() > 0 else np.array([0.5, 0.5])

    def draw(self, features: Array, rng: random.Random) -> Array:
        """One plausible prediction for each row, in the units of the values."""
        ridge, trees = self._ridge.draw(features, rng), self._trees.draw(features, rng)
        mixed = self._weights[0] * ridge + self._weights[1] * trees
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
        self.correlation = _rank_correlation(left_out, target)
        rng = np.random.default_rng(seed)
        n, d = features.shape
        self._members = []
        for _ in range(_N_MEMBERS):
            weights = rng.multinomial(n, np.full(n, 1 / n)).astype(np.float64)
            weighted = features * weights[:, None]
            self._members.append(
                np.linalg.solve(weighted.T @ features + penalty * np.eye(d), weighted.T @ target)
            )

    def draw(self, features: Array, rng: random.Random) -> Array:
        predicted: Array = features @ rng.choice(self._members)
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
        self.correlation = _rank_correlation(sums[judged] / votes[judged], target[judged])

    def draw(self, features: Array, rng: random.Random) -> Array:
        narrow = features.astype(np.float32)
        chosen = rng.sample(self._trees, _TREES_PER_DRAW)
        predicted: Array = np.mean([tree.predict(narrow)[:, 0] for tree in chosen], axis=0)
        return predicted


def _leave_one_out(features: Array, inner: Array, target: Array, penalty: float) -> Array:
    """Each value as a ridge with a free intercept predicts it from all others: y - residual / (1 - leverage).

    ``features`` and ``target`` are centred; the intercept adds 1 / n to every leverage.
    """
    smoother = features @ np.linalg.solve(inner + penalty * np.eye(len(inner)), features.T)
    residual = target - smoother @ target
    left_out: Array = target - residual / np.maximum(1 - 1 / len(target) - np.diag(smoother), 1e-9)
    return left_out


def _rank_correlation(predicted: Array, truth: Array) -> float:
    if len(truth) < 3 or np.ptp(predicted) == 0 or np.ptp(truth) == 0:
        return 0.0
    return float(spearmanr(predicted, truth).statistic)
