"""A regression that knows how little it knows: ridge, trees and a Gaussian process, weighted by foresight.

Each family is judged by rank correlation on values it was not fitted to. They learn the ranks of the values
as normal scores. A draw takes one plausible law of each family and averages them by their weights: a Thompson
sample of what is to be expected. What single candidates deviate from it is added on request, as noise of the
spread that the values left out have about their predictions.
"""

from __future__ import annotations

import threading

import numpy as np
from scipy.stats import norm, rankdata
from threadpoolctl import threadpool_limits

from search.regressions import Array, Process, Regression, Ridge, Trees

_FITTING = threading.Lock()  # limits are of the process: two that overlap would restore each other's
_POWER = 4.0  # of the rank correlation, for the weight


class Surrogate:
    """Fitted to ``features`` (n, d), centred, and ``values`` (n,); deterministic in ``seed``."""

    def __init__(self, features: Array, values: Array, *, seed: int):
        self._scores = _NormalScores(values)
        target = self._scores.target
        with _FITTING, threadpool_limits(1):  # matrices this small wait for threads longer than they work
            self._families: tuple[Regression, ...] = tuple(
                family(features, target, seed=seed) for family in (Ridge, Trees, Process)
            )
        found = np.array([family.correlation for family in self._families])
        self.correlation = float(found.max())  # of the best family with values it has not seen
        weights = np.clip(found, 0.0, 1.0) ** _POWER
        self._weights = weights / weights.sum() if weights.sum() > 0 else np.full(len(found), 1 / len(found))
        left_out = self._weights @ np.stack([family.left_out for family in self._families])
        self._spread = float(np.sqrt(((left_out - target) ** 2).mean()))

    def expected(self, features: Array) -> Array:
        """(len(features),): the mean prediction, in the units of the values."""
        means = np.stack([family.mean(features) for family in self._families])
        return self._scores.values(self._weights @ means)

    def draws(self, features: Array, n: int, *, seed: int, noise: bool) -> Array:
        """(n, len(features)): plausible means or, with ``noise``, values, in the units of the values.

        A draw has one noise for all rows, and the draws have its quantiles, each once. What a row may be
        worth is the same as with noise of its own, and rows are compared at equal luck.
        """
        rng = np.random.default_rng(seed)
        drawn = [family.draws(features, n, rng) for family in self._families]
        mixed: Array = np.tensordot(self._weights, np.stack(drawn), axes=1)
        if noise:
            quantiles = norm.ppf((np.arange(n) + 0.5) / n)
            mixed += self._spread * rng.permutation(quantiles)[:, None]
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
