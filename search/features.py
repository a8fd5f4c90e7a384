"""Candidates as rows of numbers, for a regression: their genes, their layers and their exact costs."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from search.genome import Gene, Genes, Genome
from search.proposers import Screened

Array = npt.NDArray[np.float64]


class Features:
    """Columns are those that vary over ``rows``, centred; those of variance above one are scaled to it.

    Choices and shares stay below it: scaled up, a rare option would be penalised less than a common one.
    """

    def __init__(self, genome: Genome, rows: Sequence[Screened]):
        self._genome = genome
        named = [dict(self._named(row)) for row in rows]
        self._columns = sorted({name for row in named for name in row})
        raw = self._raw(named)
        self._mean, spread = raw.mean(axis=0), raw.std(axis=0)
        self._kept = spread > 1e-12
        self._spread = np.maximum(spread, 1.0)

    def __call__(self, rows: Sequence[Screened]) -> Array:
        """(len(rows), columns); what no row of the first ones had is left out.

        Where nothing varies, one column of zeros: a regression needs one, and finds that it tells nothing.
        """
        raw = self._raw([dict(self._named(row)) for row in rows])
        scaled: Array = ((raw - self._mean) / self._spread)[:, self._kept]
        return scaled if scaled.shape[1] else np.zeros((len(rows), 1))

    def _raw(self, named: Sequence[dict[str, float]]) -> Array:
        return np.array([[row.get(name, 0.0) for name in self._columns] for row in named])

    def _named(self, screened: Screened) -> Iterator[tuple[str, float]]:
        for name, cost in screened.costs.items():
            yield f"cost {name}", math.log1p(max(0.0, cost))
        if screened.features is not None:
            yield from screened.features.items()
            return
        for gene in self._genome.genes:
            if screened.active is None or gene.name in screened.active:
                yield _of_gene(gene, screened.genes)
        yield from _of_layers(screened.strip)


def _of_gene(gene: Gene, genes: Genes) -> tuple[str, float]:
    value = genes[gene.name]
    if gene.kind == "choice":
        return f"{gene.name} = {value!r}", 1.0
    return gene.name, math.log(value) if gene.log else float(value)


def _of_layers(strip: Sequence[tuple[str, str]]) -> Iterator[tuple[str, float]]:
    """The share of each component, in the first half and in all, and of each pair of neighbours."""
    n = len(strip)
    if n == 0:
        return
    yield "layers", float(n)
    for slot in (0, 1):
        kinds = [pair[slot] for pair in strip]
        for kind, count in Counter(kinds).items():
            yield f"share {slot} {kind}", count / n
        for kind, count in Counter(kinds[: n // 2]).items():
            yield f"early {slot} {kind}", count / n
    mixers = [pair[0] for pair in strip]
    for (first, second), count in Counter(itertools.pairwise(mixers)).items():
        yield f"pair {first} {second}", count / n
