"""What bounds of the closed form prove of a space of specs: over all fillings, however many there are."""

from __future__ import annotations

from collections.abc import Mapping

from archspec.errors import SpecError
from archspec.quantities import Budget, show
from archspec.space import Space
from archspec.study import Target
from compiler.cost.asking import Asking
from compiler.cost.space_bounds import Range, SpaceBounds
from search.proof import Impossible, NeverOption, Proof
from zoo import Zoo


def prove(space: Space, target: Target, budgets: Mapping[str, Budget], *, zoo: Zoo) -> Proof:
    """By interval bounds of the closed form over all fillings."""
    asking = Asking(target.batch_size, target.seq_len, target.dtype, target.phase)
    sides = [side for budget in budgets.values() for side in budget.sides]
    if not sides:
        return Proof("none: no budget is a closed form")
    try:
        bounds = SpaceBounds(space, asking, zoo=zoo)
        ranges = bounds.ranges()
    except SpecError as error:
        return Proof(f"none: {error.problems[0].message}")
    if bounds.parts.assumed:
        genes = ", ".join(sorted(bounds.parts.assumed))
        return Proof(f"none: only the ends of {genes} were looked at")
    never: dict[tuple[str, str], NeverOption] = {}
    for side in sides:
        verdict = bounds.verdict(side, ranges)
        if verdict.answer == "never":
            return Proof("bounds", _impossible(side, ranges[side.quantity]))
        for gene, value, figure in verdict.never_with:
            why = f"{side} is out of reach, {'at least' if side.op == '<=' else 'at most'} "
            never.setdefault(
                (gene, repr(value)), NeverOption(gene, value, why + show(side.quantity, figure), "bounds")
            )
    return _propagated(space, never)


def _impossible(side: Budget, found: Range) -> Impossible:
    end, word = (found.least, "cheapest") if side.op == "<=" else (found.most, "largest")
    figure = show(side.quantity, end.value)
    if end.sure == "exact":
        why = f"the {word} candidate ({end.by}) has {figure} ({end.value:g})"
    else:
        why = f"every candidate has {'at least' if side.op == '<=' else 'at most'} {figure} ({end.value:g})"
    return Impossible(side.quantity, why)


def _propagated(space: Space, never: dict[tuple[str, str], NeverOption]) -> Proof:
    """A hole without any option left rules out the option that it stands in, and so on outwards."""
    changed = True
    while changed:
        changed = False
        for hole in space.holes:
            reasons = [never.get((hole.gene, repr(value))) for value in hole.options]
            if not reasons or None in reasons:
                continue
            told = [reason for reason in reasons if reason is not None]
            if not hole.requires:
                whys = "; ".join(f"{reason.value}: {reason.why}" for reason in told)
                return Proof("bounds", Impossible("", f"every option of {hole.gene} breaks one: {whys}"))
            gene, value = hole.requires[-1]
            if (gene, repr(value)) not in never:
                why = f"nothing is left for {hole.gene} inside it"
                never[gene, repr(value)] = NeverOption(gene, value, why, "bounds")
                changed = True
    return Proof("bounds", None, tuple(never.values()))
