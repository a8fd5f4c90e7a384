"""A search space -> the least and the greatest of every closed-form cost over all its members, by proof.

Sums are those of ``space_parts``. Each extreme names the genes that reach it, and the member they make is
built: if its cost is the extreme, the extreme is ``exact``, else it is a ``bound`` that no member passes.

Peaks do not add up. Their least value is bounded from below by what does, and by each part at work:

    inference  >= weights + the most that is alive while some part runs, in the cheapest filling of each
    training   >= weights + optimizer states + everything saved,  and  >= weights + gradients + states

and the members that come nearest, after a descent gene by gene, are shown beside the bound. Their greatest
value is the greatest that was ``seen``.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from archspec import ModelSpec, SpecError
from archspec.quantities import Budget
from archspec.space import Space
from archspec.strip import strip
from compiler.cost.asking import Asking, quantities
from compiler.cost.space_parts import NOT_DECODING, TRAIN_SAVED, TRAIN_UPDATE, Genes, Parts, values_of
from compiler.cost.space_sums import Extremes, best
from compiler.profiling import Profile
from zoo import Zoo

Sure = Literal["exact", "bound", "seen"]
ADDITIVE = (
    "params", "params_active", "params_embedding", "flops", "flops_needed", "weights", "activations",
    "kv_bytes_per_token", "state_bytes",
)  # fmt: skip
PEAKS = ("train_peak", "inference_peak")
_CACHES = ("kv_bytes_per_token", "state_bytes")
_MAX_DESCENT = 150  # members built in one descent
_MAX_NEIGHBOURS = 16  # values of one gene that a descent looks at


@dataclass(frozen=True)
class End:
    """The least or greatest value and how sure it is; ``by`` are the layers of the member nearest to it."""

    value: int
    sure: Sure
    seen: int | None  # what that member has; None if there is no such member
    by: str
    genes: Genes

    def as_json(self) -> dict[str, Any]:
        return {"value": self.value, "sure": self.sure, "seen": self.seen, "by": self.by, "genes": self.genes}


@dataclass(frozen=True)
class Range:
    """Of one quantity over all members."""

    quantity: str
    least: End
    most: End

    def as_json(self) -> dict[str, Any]:
        return {"least": self.least.as_json(), "most": self.most.as_json()}


@dataclass(frozen=True)
class Verdict:
    """Whether any member keeps a budget, and the options (gene, value, nearest figure) of which none does."""

    budget: Budget
    answer: Literal["never", "possible", "undecided", "not a closed form"]
    end: End | None = None
    never_with: tuple[tuple[str, Any, int], ...] = ()

    def as_json(self) -> dict[str, Any]:
        return {
            "quantity": self.budget.quantity,
            "budget": str(self.budget),
            "answer": self.answer,
            "nearest": None if self.end is None else self.end.as_json(),
            "never_with": [
                {"gene": gene, "value": value, "nearest": figure} for gene, value, figure in self.never_with
            ],
        }


class SpaceBounds:
    """A space with everything that was computed of it."""

    def __init__(self, space: Space, asking: Asking, *, zoo: Zoo):
        self.space, self.asking, self.zoo = space, asking, zoo
        self.parts = Parts(space, asking, zoo=zoo)
        self._members: dict[str, tuple[ModelSpec, Profile] | None] = {}

    def ranges(self) -> dict[str, Range]:
        """By quantity. SpecError if the space has no member, or too many parts."""
        rows = self._rows({})
        found = _with_cacheless(_best(rows))
        ranges = {
            name: Range(name, self._end(name, *found.least[name]), self._end(name, *found.most[name]))
            for name in ADDITIVE
        }
        starts = [genes for table in (found.least, found.most) for _, genes in table.values()]
        bounds = {name: min(bound for bound, _ in peak) for name, peak in _peaks(rows).items()}
        for name, peak in _peaks(rows).items():
            nearest = [genes for _, genes in sorted(peak, key=lambda row: row[0])[:4]]
            ranges[name] = self._peak(name, bounds[name], nearest + starts)
        return ranges

    def verdict(self, budget: Budget, ranges: Mapping[str, Range]) -> Verdict:
        """Judge one budget by ``ranges``, and by those of every option."""
        if budget.quantity not in ranges:
            return Verdict(budget, "not a closed form")
        of_interest = ranges[budget.quantity]
        end = of_interest.least if budget.op == "<=" else of_interest.most
        if not budget.allows(end.value) and end.sure != "seen":
            return Verdict(budget, "never", end)
        possible = end.seen is not None and budget.allows(end.seen)
        never_with = tuple(self._never_with(budget)) if budget.op == "<=" or end.sure != "seen" else ()
        return Verdict(budget, "possible" if possible else "undecided", end, never_with)

    def _never_with(self, budget: Budget) -> Iterator[tuple[str, Any, int]]:
        """Options with which no member keeps the budget; inside a refused option none is told again."""
        refused: set[tuple[str, str]] = set()
        for hole in self.space.holes:
            if any((gene, repr(value)) in refused for gene, value in hole.requires):
                continue
            for value in itertools.islice(values_of(hole)[0], _MAX_NEIGHBOURS):
                rows = self._rows({**dict(hole.requires), hole.gene: value}, must=False)
                if not rows:
                    continue  # no valid member has it, which is not the budget's doing
                name, found = budget.quantity, _with_cacheless(_best(rows))
                if name in PEAKS:
                    figure = min(bound for bound, _ in _peaks(rows)[name])
                else:
                    figure = (found.least if budget.op == "<=" else found.most)[name][0]
                if not budget.allows(figure):
                    refused.add((hole.gene, repr(value)))
                    yield hole.gene, value, figure

    def member(self, genes: Genes) -> tuple[ModelSpec, Profile] | None:
        """The member of ``genes`` (others have their first value) with its profile; None if it is none."""
        complete = {hole.gene: values_of(hole)[0][0] for hole in self.space.holes} | genes
        key = json.dumps(complete, sort_keys=True, default=str)
        if key not in self._members:
            try:
                spec = self.space.spec(complete, self.zoo.components)
                self._members[key] = spec, self.asking.profile(spec, self.zoo)
            except SpecError:
                self._members[key] = None
        return self._members[key]

    def _rows(self, fixed: Genes, *, must: bool = True) -> list[tuple[int, Extremes]]:
        """For every frame with members: what is alive at least, and the extremes."""
        rows = [(whole.floor, whole) for whole in self.parts.extremes(fixed)]
        if not rows and must:
            reason = self.parts.reason
            why = reason.problems[0].message if reason else "no filling is valid"
            raise SpecError(f"no candidate of this space can be built: {why}", file=self.space.source.file)
        return rows

    def _end(self, name: str, value: int, genes: Genes) -> End:
        member = self.member(genes)
        if member is None:
            return End(value, "bound", None, "", genes)
        seen = quantities(member[1])[name]
        exact = seen == value and not self.parts.assumed
        return End(value, "exact" if exact else "bound", seen, strip(member[0]), genes)

    def _peak(self, name: str, bound: int, starts: list[Genes]) -> Range:
        low, high = (self._descend(name, starts, sign) for sign in (1, -1))
        if low is None or high is None:
            end = End(bound, "bound", None, "", {})
            return Range(name, end, End(bound, "seen", None, "", {}))
        assert low[0] >= bound, f"{name}: a member has {low[0]}, the bound is {bound}"
        sure: Sure = "exact" if low[0] == bound and not self.parts.assumed else "bound"
        least = End(bound, sure, low[0], self._layers(low[1]), low[1])
        return Range(name, least, End(high[0], "seen", high[0], self._layers(high[1]), high[1]))

    def _descend(self, name: str, starts: list[Genes], sign: int) -> tuple[int, Genes] | None:
        """The member with the least (``sign`` 1) or greatest figure that is found one gene at a time."""

        def figure(genes: Genes) -> float:
            member = self.member(genes)
            return float("inf") if member is None else sign * quantities(member[1])[name]

        genes = min(starts, key=figure)
        value, left, improved = figure(genes), _MAX_DESCENT, True
        while improved and left > 0:
            improved = False
            for hole in self.space.holes:
                for option in itertools.islice(values_of(hole)[0], _MAX_NEIGHBOURS):
                    other = {**genes, hole.gene: option}
                    left -= 1
                    if left > 0 and (found := figure(other)) < value:
                        genes, value, improved = other, found, True
        return None if value == float("inf") else (int(sign * value), genes)

    def _layers(self, genes: Genes) -> str:
        member = self.member(genes)
        return "" if member is None else strip(member[0])


def _best(rows: list[tuple[int, Extremes]]) -> Extremes:
    found = best(whole for _, whole in rows)
    assert found is not None, "there are no rows"
    return found


def _peaks(rows: list[tuple[int, Extremes]]) -> dict[str, list[tuple[int, Genes]]]:
    """Lower bounds of the peaks in every frame, each with the genes that are nearest to it."""
    inference, train = [], []
    for floor, whole in rows:
        weights, genes = whole.least["weights"]
        inference.append((floor + weights, genes))
        train.append(max(whole.least[TRAIN_SAVED], whole.least[TRAIN_UPDATE], key=lambda reached: reached[0]))
    return {"inference_peak": inference, "train_peak": train}


def _with_cacheless(found: Extremes) -> Extremes:
    """A model of which one part does not decode has no caches at all, whatever the others would keep."""
    most, genes = found.most[NOT_DECODING]
    if not most:
        return found
    least = {**found.least, **{name: (0, genes) for name in _CACHES}}
    return Extremes(least, found.most, found.floor)
