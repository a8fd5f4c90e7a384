"""What a regression on the trials expects of an architecture that nobody trained: a guess with its record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from search.features import Features
from search.front import Row, SearchResult
from search.genome import Genome
from search.proposers import Screened
from search.surrogate import Surrogate

N_LEAST = 24
TRUSTED = 0.3  # rank correlation with values that it was not fitted to
_N_DRAWS = 64
Strip = Sequence[tuple[str, str]]


class Expectation:
    """Fitted to layers and exact costs of the trained; genes are left out, since a swap has none."""

    def __init__(self, rows: Sequence[Row], quantities: Sequence[str]):
        seen = [_screened(row.strip, row.costs) for row in rows]
        self._features = Features(Genome(()), seen)
        known = self._features(seen)
        fitted = {
            name: Surrogate(known, np.array([row.objectives[name] for row in rows]), seed=0)
            for name in quantities
        }
        self._surrogates = {name: s for name, s in fitted.items() if s.correlation >= TRUSTED}
        self.correlations = {name: s.correlation for name, s in fitted.items()}

    def __call__(self, row: Row, strip: Strip, costs: Mapping[str, float]) -> dict[str, tuple[float, float]]:
        """By objective, the expected change from ``row`` and its spread, where it can be foretold."""
        pair = self._features([_screened(row.strip, row.costs), _screened(strip, costs)])
        found = {}
        for name, surrogate in self._surrogates.items():
            draws = surrogate.draws(pair, _N_DRAWS, seed=0, noise=False)
            changes = draws[:, 1] - draws[:, 0]
            found[name] = (float(changes.mean()), float(changes.std()))
        return found


def expectation(result: SearchResult) -> Expectation | None:
    """Of the objectives that are not in closed form; None with too few trials."""
    rows = [row for row in result.trained if row.strip]
    unknown = [o.quantity for o in result.objectives if any(o.quantity not in row.costs for row in rows)]
    return Expectation(rows, unknown) if len(rows) >= N_LEAST and unknown else None


def _screened(strip: Strip, costs: Mapping[str, float]) -> Screened:
    return Screened("", {}, costs, tuple(strip))
