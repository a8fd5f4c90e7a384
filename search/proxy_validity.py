"""Whether a low rung may decide: do its ranks agree with the top rung's, and better than plain size does?

The audit sample climbs every rung. Each lower rung, and parameters and FLOPs beside it, is compared with the
top rung by Spearman's and Kendall's rank correlation, over all and inside the quartiles of the sample's
latency (or parameters), since large models learn slower. Intervals are a bootstrap's, drawn inside the
quartiles. A rung that does not beat size is not used to promote.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from search.figures import figures, measured, measurement_of
from search.ledger import Trial

AUDIT = "audit"  # the proposer of the sample
FEWEST = 8  # finished candidates that make an audit
SURE = 0.9  # share of the resamples in which a rung must beat the size of the models
INSIDE = 0.5  # least Spearman inside the quartiles
RULE = (
    f"a rung is used if its Spearman beats that of parameters and of FLOPs in {SURE:.0%} of the resamples, "
    f"and inside the quartiles is at least {INSIDE:g} and above theirs"
)
_N_RESAMPLES = 2_000
_INTERVAL = (5.0, 95.0)
_SIZES = ("params", "flops")

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Audited:
    """One finished member of the audit: what was learned at each rung, and what is known of its size."""

    top: float
    lower: tuple[float, ...]
    sizes: Mapping[str, float]  # "params", "flops"
    stratum: float  # what the quartiles are made of


@dataclass(frozen=True)
class Correlation:
    """A rank correlation and its 90 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ProxyRow:
    """A lower rung, or a size as its rival, against the top rung."""

    name: str  # "steps 1/9", "params", "flops"
    is_rung: bool
    spearman: Correlation
    kendall: Correlation
    inside: Correlation  # Spearman inside the quartiles
    confidence: float | None = None  # share of the resamples in which the rung beats every size
    used: bool = False


@dataclass(frozen=True)
class ProxyValidity:
    """What the audit says of the rungs."""

    quantity: str  # "score"
    n: int  # audited candidates that finished
    n_failed: int
    strata: str  # "latency_ms", "params" or "" (none)
    rows: tuple[ProxyRow, ...]
    rule: str
    sentence: str

    @property
    def used(self) -> tuple[str, ...]:
        """The rungs that promote."""
        return tuple(row.name for row in self.rows if row.used)


def learned_quantity(names: Iterable[str]) -> str | None:
    """The first of ``names`` that only training tells."""
    return next((name for name in names if name.partition(".")[0] in ("score", "loss")), None)


def validity_of(
    trials: Iterable[Trial],
    rungs: Sequence[str],
    quantity: str,
    *,
    weights: Mapping[str, float],
    aggregate: str,
) -> ProxyValidity:
    """The verdict on the audit among ``trials``; ``rungs`` are all rungs' names, the top one last."""
    sample = [trial for trial in trials if trial.document.get("proposer") == AUDIT]
    done = [trial.document for trial in sample if trial.status == "done"]
    strata = _strata(done)
    found = []
    for document in done:
        whole = figures(document, weights, aggregate)
        lower = [figures({**document, **rung}, weights, aggregate) for rung in document["rungs"]]
        sizes = {name: whole[name] for name in _SIZES if name in whole}
        values = tuple(rung.get(quantity, math.nan) for rung in lower)
        found.append(Audited(whole[quantity], values, sizes, whole[strata] if strata else 0.0))
    n_failed = sum(trial.status == "failed" for trial in sample)
    return judge(found, rungs[:-1], quantity=quantity, strata=strata, n_failed=n_failed)


def judge(
    sample: Sequence[Audited],
    lower: Sequence[str],
    *,
    quantity: str = "score",
    strata: str = "",
    n_failed: int = 0,
    seed: int = 0,
) -> ProxyValidity:
    """``lower`` are the names of the rungs below the top; deterministic in its arguments."""
    rows: tuple[ProxyRow, ...] = ()
    if len(sample) >= FEWEST and lower:
        rows = _rows(sample, lower, seed=seed)
    sentence = _sentence(rows, len(sample), quantity)
    return ProxyValidity(quantity, len(sample), n_failed, strata, rows, RULE, sentence)


def spearman(x: Array, y: Array) -> Array:
    """Over the last axis; 0 where one side does not vary."""
    return _pearson(_ranks(x), _ranks(y))


def kendall(x: Array, y: Array) -> Array:
    """Tau-b over the last axis; 0 where one side does not vary."""
    a, b = (np.sign(v[..., :, None] - v[..., None, :]) for v in (x, y))
    norm = np.sqrt((a * a).sum((-2, -1)) * (b * b).sum((-2, -1)))
    agreed: Array = (a * b).sum((-2, -1))
    tau: Array = np.where(norm > 0, agreed / np.where(norm > 0, norm, 1.0), 0.0)
    return tau


def _kendalls(x: Array, y: Array) -> Array:
    """``kendall`` of many rows, a few at a time: it takes n squared numbers for each."""
    size = max(1, 1_000_000 // x.shape[-1] ** 2)
    starts = range(0, len(x), size)
    return np.concatenate([kendall(x[i : i + size], y[i : i + size]) for i in starts])


def spearman_inside(x: Array, y: Array, parts: Sequence[slice]) -> Array:
    """Ranks inside each part, centred there, correlated over all of them."""
    a, b = (
        np.concatenate([_centred(_ranks(values[..., part])) for part in parts], axis=-1) for values in (x, y)
    )
    return _pearson(a, b)


def quartiles(values: Sequence[float]) -> list[list[int]]:
    """Indices by size, in four parts that differ by one at most; equal ones in their order."""
    order = sorted(range(len(values)), key=lambda index: (values[index], index))
    return [[int(i) for i in part] for part in np.array_split(order, 4) if len(part)]


@dataclass(frozen=True)
class _Resampled:
    """One predictor's agreement with the top rung: the sample's own first, then that of every resample."""

    spearman: Array
    kendall: Array
    inside: Array

    def turned(self) -> _Resampled:
        """As it is, or upside down where that agrees better: a size may be right by being small."""
        return self if self.spearman[0] >= 0 else _Resampled(-self.spearman, -self.kendall, -self.inside)

    def row(self, name: str, *, confidence: float | None = None, used: bool = False) -> ProxyRow:
        """As a row of the report; only a rung has a confidence."""
        return ProxyRow(
            name=name,
            is_rung=confidence is not None,
            spearman=_interval(self.spearman),
            kendall=_interval(self.kendall),
            inside=_interval(self.inside),
            confidence=confidence,
            used=used,
        )


def _rows(sample: Sequence[Audited], lower: Sequence[str], *, seed: int) -> tuple[ProxyRow, ...]:
    parts = quartiles([member.stratum for member in sample])
    sample = [sample[index] for part in parts for index in part]
    ends = [0, *itertools.accumulate(len(part) for part in parts)]
    slices = [slice(start, stop) for start, stop in itertools.pairwise(ends)]
    rng = np.random.default_rng(seed)
    drawn = np.concatenate(
        [rng.integers(s.start, s.stop, (_N_RESAMPLES, s.stop - s.start)) for s in slices], axis=1
    )
    drawn = np.concatenate([np.arange(len(sample))[None], drawn])
    top = np.array([member.top for member in sample])[drawn]

    def agreement(values: Sequence[float]) -> _Resampled:
        x = np.array(values, dtype=np.float64)[drawn]
        return _Resampled(spearman(x, top), _kendalls(x, top), spearman_inside(x, top, slices))

    names = [name for name in _SIZES if all(name in member.sizes for member in sample)]
    sizes = {name: agreement([member.sizes[name] for member in sample]) for name in names}
    rivals = [found.turned() for found in sizes.values()]
    rows = []
    for index, name in enumerate(lower):
        rung = agreement([member.lower[index] for member in sample])
        beats = [rung.spearman[1:] > rival.spearman[1:] for rival in rivals] or [rung.spearman[1:] > 0]
        confidence = float(np.mean(np.all(beats, axis=0)))
        is_better = all(rung.inside[0] > rival.inside[0] for rival in rivals)
        used = confidence >= SURE and bool(rung.inside[0] >= INSIDE) and is_better
        rows.append(rung.row(name, confidence=confidence, used=used))
    return (*rows, *(found.row(name) for name, found in sizes.items()))


def _sentence(rows: Sequence[ProxyRow], n: int, quantity: str) -> str:
    if not rows:
        return (
            f"{n} audited candidates finished, and {FEWEST} are needed to judge a rung: "
            "every candidate is trained in full"
        )
    told = []
    for row in rows:
        if row.is_rung:
            beaten = "does not clearly beat the size of the models; it is not used"
            verdict = "is used to promote" if row.used else beaten
            told.append(
                f"'{row.name}' ranks {quantity} with Spearman {row.spearman.value:.2f} "
                f"[{row.spearman.low:.2f}, {row.spearman.high:.2f}] and {verdict}"
            )
    sizes = ", ".join(f"{row.name} {row.spearman.value:.2f}" for row in rows if not row.is_rung)
    rest = f" ({sizes} on the same {n} candidates)" if sizes else f" (on {n} candidates)"
    ending = "" if any(row.used for row in rows) else ": every candidate is trained in full"
    return "; ".join(told) + rest + ending


def _strata(documents: Sequence[Mapping[str, Any]]) -> str:
    if documents and all("latency_ms" in measured(measurement_of(d)) for d in documents):
        return "latency_ms"
    return "params" if documents and all("params" in d["costs"] for d in documents) else ""


def _interval(found: Array) -> Correlation:
    low, high = np.percentile(found[1:], _INTERVAL)
    return Correlation(float(found[0]), float(low), float(high))


def _ranks(values: Array) -> Array:
    ranked: Array = rankdata(values, axis=-1)
    return ranked


def _centred(values: Array) -> Array:
    centred: Array = values - values.mean(axis=-1, keepdims=True)
    return centred


def _pearson(x: Array, y: Array) -> Array:
    a, b = _centred(x), _centred(y)
    norm = np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
    found: Array = np.where(norm > 0, (a * b).sum(-1) / np.where(norm > 0, norm, 1.0), 0.0)
    return found
