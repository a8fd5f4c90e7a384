"""Mutations of the front, screened by what a regression expects of them: the default.

Every finished candidate teaches a surrogate; many feasible, unseen children of the front are drawn, and the
one that a Thompson sample credits with the greatest gain in hypervolume is proposed. Quantities that are
known from the spec are never predicted. Where the surrogate's rank correlation with values it has not seen
is below ``TRUSTED``, the proposals are those of plain evolution.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from search.features import Array, Features
from search.pareto import Point, improvements
from search.population import child, excess, parents, smaller_is_better
from search.proposers import Past, Proposer, Screened
from search.proposers.evolution import EvolutionProposer
from search.surrogate import Surrogate

N_STARTUP = 12
TRUSTED = 0.3
_N_PARENTS = 20
_N_CANDIDATES = 160
_WORST = 0.9  # quantile of the values that bounds what counts as a gain
_N_ATTEMPTS = 600


@dataclass(frozen=True)
class _Known:
    """What has been finished: rows for the regression, values (smaller is better), excess of budgets."""

    rows: list[Screened]
    values: Array  # (n, objectives)
    beyond: Array  # (n,)


class PredictorProposer(Proposer):
    """Needs nothing but the history; a Thompson sample per proposal keeps ``k`` of them apart."""

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
        limits = Surrogate(seen, known.beyond, seed=seed) if known.beyond.any() else None
        pool = self._pool(history, taken, rng)
        if not pool:
            return []
        rows = features(pool)
        chosen: list[dict[str, Any]] = []
        front = [tuple(row) for row in known.values[known.beyond == 0]]
        scale = _Scale(known.values)
        while pool and len(chosen) < k:
            points = self._points(pool, rows, surrogates, rng)
            gains = improvements(scale.all(front), scale.all(map(tuple, points)), scale.reference)
            if limits is not None:
                gains = gains * (limits.draw(rows, rng) < _half(known.beyond))
            best = int(gains.argmax()) if gains.max() > 0 else rng.randrange(len(pool))
            chosen.append(dict(pool[best].genes))
            front.append(tuple(points[best]))
            pool.pop(best)
            rows = np.delete(rows, best, axis=0)
        return chosen

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

    def _points(
        self, pool: Sequence[Screened], rows: Array, surrogates: dict[int, Surrogate], rng: random.Random
    ) -> Array:
        """(len(pool), objectives), smaller is better: exact costs, and one draw of what is predicted."""
        columns = []
        for index, (name, direction) in enumerate(self.problem.objectives.items()):
            if index in surrogates:
                columns.append(surrogates[index].draw(rows, rng))
            else:
                sign = -1.0 if direction == "maximize" else 1.0
                columns.append(np.array([sign * screened.costs[name] for screened in pool]))
        return np.stack(columns, axis=1)


class _Scale:
    """Values to the box from the best seen to the ``_WORST`` quantile; the reference lies a tenth beyond it.

    Were it the very worst, one very bad value would leave nothing between the good ones to gain.
    """

    def __init__(self, values: Array):
        self._low = values.min(axis=0)
        span = np.quantile(values, _WORST, axis=0) - self._low
        self._span = np.where(span > 0, span, 1.0)
        self.reference: Point = (1.1,) * values.shape[1]

    def all(self, points: Any) -> list[Point]:
        return [tuple((np.asarray(point) - self._low) / self._span) for point in points]


def _half(beyond: Array) -> float:
    positive = beyond[beyond > 0]
    return float(positive.min()) / 2
