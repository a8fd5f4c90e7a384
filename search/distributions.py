"""Distributions of Optuna as genes, and values of genes as Optuna would have spelt them."""

from __future__ import annotations

from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from archspec.errors import SpecError
from search.genome import Gene


def gene_of(name: str, distribution: BaseDistribution) -> Gene:
    """The gene whose ``distribution`` is the given one.

    Of choices that Optuna cannot tell apart, such as ``True`` and 1, it has the first.
    """
    if isinstance(distribution, CategoricalDistribution):
        places = sorted({int(distribution.to_internal_repr(choice)) for choice in distribution.choices})
        return Gene(name, "choice", options=tuple(distribution.choices[place] for place in places))
    low, high, step, log = _range(name, distribution)
    kind = "int" if isinstance(distribution, IntDistribution) else "float"
    return Gene(name, kind, low=low, high=high, step=step, log=log)  # type: ignore[arg-type]


def holds(distribution: BaseDistribution, value: Any) -> bool:
    """Whether ``value`` is one that a trial with this distribution can have."""
    try:
        return bool(distribution._contains(distribution.to_internal_repr(value)))
    except ValueError:
        return False


def exact(name: str, distribution: BaseDistribution, value: Any) -> Any:
    """``value`` as the nearest one of the distribution: inside the range, on the grid, of its type."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.to_external_repr(distribution.to_internal_repr(value))
    low, high, step, _ = _range(name, distribution)
    inside = min(max(value, low), high)
    if isinstance(distribution, IntDistribution):
        return distribution.low + distribution.step * int((inside - low) // distribution.step)
    return float(inside if step is None else min(low + step * round((inside - low) / step), high))


def only_value(distribution: BaseDistribution) -> Any:
    """The value of a distribution that has a single one."""
    assert distribution.single(), "a distribution of one value"
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[0]
    return _range("", distribution)[0]


def _range(name: str, distribution: BaseDistribution) -> tuple[float, float, float | None, bool]:
    if not isinstance(distribution, (IntDistribution, FloatDistribution)):
        raise SpecError(
            f"'{name}' has a distribution that cannot be searched: {type(distribution).__name__}",
            hint="use CategoricalDistribution, IntDistribution or FloatDistribution",
        )
    return distribution.low, distribution.high, distribution.step, distribution.log
