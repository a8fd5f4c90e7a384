"""Mutations of the front, screened by what a regression expects of them: the default.

Every finished candidate teaches a surrogate; many feasible, unseen children of the front are drawn, and the
one whose gain in hypervolume is greatest on average over Thompson samples is proposed. The samples spread as
far as the surrogate has been wrong: the best of a front are exceptions that no regression foresees, and
regions where an exception would gain much are tried for that. Quantities that are known from the spec are
never predicted. Where the surrogate's rank correlation with values it has not seen is below ``TRUSTED``, the
proposals are those of plain evolution; so they are where no feature tells the candidates apart.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from search.features import Array, Features
from search.pareto import Point, improvements
from search.population import child, excess, parents, smaller_is_better
from search.proposers import Past, Problem, Proposer, Screened
from search.proposers.evolution import EvolutionProposer
from search.surrogate import Surrogate

N_STARTUP = 8
TRUSTED = 0.3
_N_PARENTS = 40
_N_CANDIDATES = 160
_WORST = 0.9  # quantile of the values that bounds what counts as a gain
_N_ATTEMPTS = 600
_N_SAMPLES = {1: 32, 2: 32, 3: 16}  # by objectives: from three on, each hypervolume takes a while
_N_SAMPLES_BEYOND = 4


@dataclass(frozen=True)
class _Known:
    """What has been finished: rows for the regression, values (smaller is better), excess of budgets."""

    rows: list[Screened]
    values: Array  # (n, objectives)
    beyond: Array  # (n,)


class PredictorProposer(Proposer):
    """Needs nothing but the history; of ``k`` proposals, each counts at its expected value for the next."""

    kind = "predictor"

    def propose(self, history: Sequence[Past], *, k: int, seed: int) -> list[dict[str, Any]]:
        rng = random.Random(seed)  # noqa: S311
        screened = [self.problem.screen(past.genes) for past in history]
        known = self._known(history, screened)
        taken = {row.hash for row in screened if row is not None}
        evolution = EvolutionProposer(self.problem)
        if len(known.rows) < N_STARTUP:
            return evolution.propose([], k=k, seed=seed) if not known.rows else self._first(taken, k, rng)
        features = Features(self.genome, known.rows)
        seen = features(known.rows)
        surrogates = {
            index: Surrogate(seen, known.values[:, index], seed=seed)
            for index, name in enumerate(self.problem.objectives)
            if name not in known.rows[0].costs
        }
        if surrogates and max(s.correlation for s in surrogates.values()) < TRUSTED:
            return evolution.propose(history, k=k, seed=seed)
        limits = None
        if known.beyond.any():
            limits = Surrogate(seen, known.beyond, seed=seed), known.beyond[known.beyond > 0].min() / 2
        pool = self._pool(history, taken, rng)
        if not pool:
            return []
        forecast = _Forecast(self.problem, pool, features(pool), surrogates, limits, seed=seed)
        return [dict(pool[index].genes) for index in _best(forecast, known, k, seed=seed)]

    def _first(self, seen: set[str], k: int, rng: random.Random) -> list[dict[str, Any]]:
        return [dict(row.genes) for row in self._fresh(seen, rng, k, lambda: self.genome.sample(rng))]

    def _known(self, history: Sequence[Past], screened: Sequence[Screened | None]) -> _Known:
        rows, values, beyond = [], [], []
        for past, row in zip(history, screened, strict=True):
            if past.state == "done" and row is not None:
                rows.append(row)
                values.append(smaller_is_better(past.values, self.directions))
                beyond.append(excess(past))
        return _Known(rows, np.array(values, dtype=np.float64), np.array(beyond, dtype=np.float64))

    def _pool(self, history: Sequence[Past], seen: set[str], rng: random.Random) -> list[Screened]:
        """Feasible candidates that nobody has evaluated, most of them children of the front."""
        best = parents(history, self.directions, n=_N_PARENTS)

        def one() -> dict[str, Any]:
            return self.genome.sample(rng) if rng.random() < 0.15 else child(self.genome, best, rng)

        return self._fresh(seen, rng, _N_CANDIDATES, one)

    def _fresh(self, seen: set[str], rng: random.Random, n: int, draw: Any) -> list[Screened]:
        found: list[Screened] = []
        for _ in range(_N_ATTEMPTS):
            if len(found) == n:
                break
            genes = draw()
            screened = self.problem.screen(genes)
            if screened is not None and screened.hash not in seen:
                seen.add(screened.hash)
                found.append(screened)
        return found


class _Forecast:
    """What may become of a pool's candidates; smaller is better.

    ``samples`` (samples, len(pool), objectives) has exact costs, and draws of what is predicted; ``within``
    (samples, len(pool)) is 1 where such a draw keeps the budgets that are learnt, ``expected``
    (len(pool), objectives) the means.
    """

    def __init__(
        self,
        problem: Problem,
        pool: Sequence[Screened],
        rows: Array,
        surrogates: Mapping[int, Surrogate],
        limits: tuple[Surrogate, float] | None,
        *,
        seed: int,
    ):
        signs = [-1.0 if direction == "maximize" else 1.0 for direction in problem.objectives.values()]
        costs = [[row.costs.get(name, math.nan) for name in problem.objectives] for row in pool]
        n = 1
        if surrogates or limits is not None:
            n = _N_SAMPLES.get(len(signs), _N_SAMPLES_BEYOND)
        self.expected = np.array(costs, dtype=np.float64) * signs
        self.samples = np.tile(self.expected, (n, 1, 1))
        for index, surrogate in surrogates.items():
            self.expected[:, index] = surrogate.expected(rows)
            self.samples[:, :, index] = surrogate.draws(rows, n, seed=seed + index, noise=True)
        self.within = np.ones((n, len(pool)))
        if limits is not None:
            surrogate, least = limits
            drawn = surrogate.draws(rows, n, seed=seed + len(signs), noise=True)
            self.within = (drawn < least).astype(np.float64)


def _best(forecast: _Forecast, known: _Known, k: int, *, seed: int) -> list[int]:
    """The ``k`` candidates with the greatest mean gains, one after the other."""
    scale = _Scale(known.values)
    front = [tuple(row) for row in scale(known.values[known.beyond == 0])]
    points = [tuple(row) for row in scale(forecast.samples).reshape(-1, known.values.shape[1])]
    order = list(np.random.default_rng(seed).permutation(len(forecast.expected)))  # where none promises more
    chosen: list[int] = []
    while order and len(chosen) < k:
        gains = improvements(front, points, scale.reference).reshape(forecast.within.shape)
        means = (gains * forecast.within).mean(axis=0)
        best = max(order, key=means.__getitem__)
        order.remove(best)
        chosen.append(int(best))
        front.append(tuple(scale(forecast.expected[best])))
    return chosen


class _Scale:
    """Values to the box from the best seen to the ``_WORST`` quantile; the reference lies a tenth beyond it.

    Were it the very worst, one very bad value would leave nothing between the good ones to gain.
    """

    def __init__(self, values: Array):
        self._low = values.min(axis=0)
        span = np.quantile(values, _WORST, axis=0) - self._low
        self._span = np.where(span > 0, span, 1.0)
        self.reference: Point = (1.1,) * values.shape[1]

    def __call__(self, points: Array) -> Array:
        """Points, along the last axis, in units of the box."""
        scaled: Array = (points - self._low) / self._span
        return scaled
