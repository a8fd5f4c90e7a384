"""What is turned away before any training, and the survey that opens a search."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from archspec.errors import SpecError
from archspec.quantities import Budget, find_quantity, show
from search.evaluate import Candidate, Evaluator, Locate, Unfit, violations
from search.genome import Genes

_N_ENUMERATED = 1_000
_N_SAMPLED = 256
_N_DESCENTS = 4


@dataclass(frozen=True)
class Survey:
    """A look at the space before a search: ``n_seen`` fillings, all there are if ``exhaustive``."""

    n_fillings: float  # inf with a continuous gene
    is_exact: bool
    n_seen: int
    exhaustive: bool
    n_distinct: int
    n_feasible: int  # distinct, fit for every task and within the closed-form budgets
    refused: Mapping[str, int]  # reason code -> distinct candidates (or fillings that make none)
    reasons: Mapping[str, str]  # reason code -> one reason in words
    least: Mapping[str, float]  # closed-form budget -> the best value that any candidate has
    example: Candidate | None  # a typical one among the feasible


def refusal(candidate: Candidate, budgets: Mapping[str, Budget]) -> tuple[str, str] | None:
    """The first closed-form budget that ``candidate`` breaks, and all in words; None if it may run."""
    broken = [name for name, value in candidate.costs.items() if _broken(budgets, name, value)]
    return (broken[0], "; ".join(violations(budgets, candidate.costs))) if broken else None


def over_limit(budgets: Mapping[str, Budget], figures: Mapping[str, float]) -> tuple[str, str] | None:
    """The first budget that measured ``figures`` break, and all in words; None if they keep every one."""
    broken = [name for name in figures if _broken(budgets, name, figures[name])]
    if not broken:
        return None
    known = {name: budget for name, budget in budgets.items() if name in figures}
    return broken[0], "; ".join(f"measured {text}" for text in violations(known, figures))


def survey(evaluator: Evaluator, budgets: Mapping[str, Budget], *, seed: int, locate: Locate) -> Survey:
    """Look at every filling of a small space, at a sample of a large one.

    A space without any valid candidate, and a closed-form budget that no candidate meets, are errors. In a
    large space the sample is followed by descents from its cheapest members, one gene at a time.
    """
    n_fillings, is_exact = evaluator.size()
    exhaustive = is_exact and n_fillings <= _N_ENUMERATED
    rng = random.Random(seed)  # noqa: S311
    sampled = (evaluator.genome.sample(rng) for _ in range(_N_SAMPLED))
    found: dict[str, Candidate] = {}
    unfit: Counter[str] = Counter()
    reasons: dict[str, str] = {}
    n_seen = 0
    for genes in evaluator.enumerate() if exhaustive else sampled:
        n_seen += 1
        try:
            candidate = evaluator.candidate(genes)
        except Unfit as error:
            unfit[error.code] += 1
            reasons.setdefault(error.code, error.reason)
            continue
        found.setdefault(candidate.hash, candidate)
    if not found:
        code = unfit.most_common(1)[0][0]
        raise locate(("space",), f"no candidate of the space can be used: {reasons[code]}", None)
    static = {name: budget for name, budget in budgets.items() if find_quantity(name).closed_form}
    least = {}
    for name, budget in static.items():
        best = _cheapest(evaluator, list(found.values()), name, budget, exhaustive=exhaustive)
        least[name] = best.costs[name]
        if not budget.allows(best.costs[name]):
            raise _impossible(locate, budget, best, exhaustive=exhaustive, n_seen=n_seen)
    feasible = [candidate for candidate in found.values() if refusal(candidate, static) is None]
    if not feasible and exhaustive:
        raise locate(("budgets",), f"none of the {len(found)} candidates meets all budgets at once", None)
    for candidate in found.values():
        if (why := refusal(candidate, static)) is not None:
            unfit[why[0]] += 1
            reasons.setdefault(*why)
    return Survey(
        n_fillings=n_fillings,
        is_exact=is_exact,
        n_seen=n_seen,
        exhaustive=exhaustive,
        n_distinct=len(found),
        n_feasible=len(feasible),
        refused=dict(unfit),
        reasons=reasons,
        least=least,
        example=_typical(feasible),
    )


def _typical(candidates: list[Candidate]) -> Candidate | None:
    """The one in the middle by FLOPs, where they are known."""
    ordered = sorted(candidates, key=lambda candidate: candidate.costs.get("flops", 0.0))
    return ordered[len(ordered) // 2] if ordered else None


def _broken(budgets: Mapping[str, Budget], name: str, value: float) -> bool:
    return name in budgets and not budgets[name].allows(value)


def _cheapest(
    evaluator: Evaluator, found: list[Candidate], name: str, budget: Budget, *, exhaustive: bool
) -> Candidate:
    """The candidate that comes closest to the budget, or farthest inside it."""

    def excess(candidate: Candidate) -> float:
        return budget.excess(candidate.costs[name])

    found = sorted(found, key=excess)
    if exhaustive or excess(found[0]) <= 0:
        return found[0]
    return min((_descend(evaluator, start, excess) for start in found[:_N_DESCENTS]), key=excess)


def _descend(evaluator: Evaluator, start: Candidate, excess: Callable[[Candidate], float]) -> Candidate:
    """Change one gene at a time as long as that helps."""
    best, improved = start, True
    while improved:
        improved = False
        for gene in evaluator.genome.genes:
            for value in itertools.islice(gene.neighbours(best.genes[gene.name]), 32):
                other = _candidate(evaluator, {**best.genes, gene.name: value})
                if other is not None and excess(other) < excess(best):
                    best, improved = other, True
    return best


def _candidate(evaluator: Evaluator, genes: Genes) -> Candidate | None:
    try:
        return evaluator.candidate(genes)
    except Unfit:
        return None


def _impossible(
    locate: Locate, budget: Budget, best: Candidate, *, exhaustive: bool, n_seen: int
) -> SpecError:
    name, value = budget.quantity, best.costs[budget.quantity]
    word = "cheapest" if budget.op == "<=" else "largest"
    how = f"all {n_seen} fillings" if exhaustive else f"{n_seen} sampled fillings and descents from there"
    layers = " | ".join("+".join(kind for kind in pair if kind != "none") for pair in best.strip)
    return locate(
        ("budgets", name),
        f"no candidate meets '{budget}': the {word} candidate ({layers}) has {show(name, value)} ({value:g})",
        f"searched {how}; nothing was trained",
    )


def describe(survey: Survey) -> list[str]:
    """The survey in lines for people."""
    fillings = "no end of fillings"
    if survey.n_fillings < math.inf:
        fillings = f"{'' if survey.is_exact else 'at most '}{int(survey.n_fillings):,} fillings"
    seen = "all of them" if survey.exhaustive else f"{survey.n_seen} of them sampled"
    lines = [
        f"{fillings}, {seen}: {survey.n_distinct} distinct candidates, "
        f"{survey.n_feasible} within the closed-form budgets"
    ]
    for code, n in sorted(survey.refused.items(), key=lambda item: -item[1]):
        lines.append(f"refused by {code}: {n}, e.g. {survey.reasons[code]}")
    return lines


def counts(survey: Survey) -> dict[str, Any]:
    """The survey in JSON."""
    return {
        "fillings": None if math.isinf(survey.n_fillings) else int(survey.n_fillings),
        "exact": survey.is_exact,
        "seen": survey.n_seen,
        "distinct": survey.n_distinct,
        "feasible": survey.n_feasible,
        "refused": dict(survey.refused),
        "reasons": dict(survey.reasons),
    }
