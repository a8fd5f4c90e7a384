"""Least and greatest sums with the genes that reach them: alternatives take the better, parts add up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Reached = tuple[int, dict[str, Any]]  # a value, and the genes that have it


@dataclass(frozen=True)
class Extremes:
    """By quantity, the least and the greatest value among the fillings of a part.

    ``floor`` is what every filling has alive at some time: of alternatives the least, of parts the greatest.
    """

    least: Mapping[str, Reached]
    most: Mapping[str, Reached]
    floor: int = 0

    @staticmethod
    def of(values: Mapping[str, int], genes: Mapping[str, Any], floor: int) -> Extremes:
        """One filling alone."""
        reached = {name: (value, dict(genes)) for name, value in values.items()}
        return Extremes(reached, reached, floor)

    def beside(self, genes: Mapping[str, Any]) -> Extremes:
        """The same with more genes, which stand around the part."""
        return Extremes(
            {name: (value, {**genes, **own}) for name, (value, own) in self.least.items()},
            {name: (value, {**genes, **own}) for name, (value, own) in self.most.items()},
            self.floor,
        )


def nothing() -> Extremes | None:
    """No filling yet, or none that is valid."""
    return None


def best(alternatives: Iterable[Extremes | None]) -> Extremes | None:
    """Of fillings of which one is taken; None if none of them is valid."""
    found = [one for one in alternatives if one is not None]
    if len(found) < 2:
        return found[0] if found else None
    names = found[0].least
    return Extremes(
        {name: min((one.least[name] for one in found), key=_value) for name in names},
        {name: max((one.most[name] for one in found), key=_value) for name in names},
        min(one.floor for one in found),
    )


def added(parts: Iterable[Extremes | None]) -> Extremes | None:
    """Of parts that are all taken; None if one of them has no valid filling."""
    found = list(parts)
    valid = [one for one in found if one is not None]
    if len(valid) < len(found):
        return None
    if not valid:
        return Extremes({}, {})
    return Extremes(
        _summed([one.least for one in valid]),
        _summed([one.most for one in valid]),
        max(one.floor for one in valid),
    )


def _summed(tables: list[Mapping[str, Reached]]) -> dict[str, Reached]:
    names = next((table for table in tables if table), {})
    return {
        name: (
            sum(table[name][0] for table in tables if table),
            {gene: value for table in tables if table for gene, value in table[name][1].items()},
        )
        for name in names
    }


def _value(reached: Reached) -> int:
    return reached[0]
