"""What is turned away before any training, and the survey that opens a search."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from archspec.errors import SpecError
from archspec.quantities import Budget, find_quantity, show
from search.evaluate import Candidate, Evaluator, Locate, Unfit, violations
from search.genome import Genes, Genome
from search.proof import Bounded, Impossible, NeverOption, Proof

_OPS: tuple[Literal["<="], Literal[">="]] = ("<=", ">=")
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
    example: Candidate | None  # a typical one among the feasible
    proof: str  # where ``never`` comes from, or why nothing is proved
    never: tuple[NeverOption, ...]  # options that no candidate within the budgets has
    doubts: Mapping[str, str]  # closed-form budget -> that no sample keeps it, and the nearest


def refusal(candidate: Candidate, budgets: Mapping[str, Budget]) -> tuple[str, str] | None:
    """The first closed-form budget that ``candidate`` breaks, and all in words; None if it may run.

    A prediction refuses, under the code ``predicted``, only if its whole interval is beyond the budget.
    """
    broken = [name for name, value in candidate.costs.items() if _broken(budgets, name, value)]
    if broken:
        return broken[0], "; ".join(violations(budgets, candidate.costs))
    for name, found in candidate.predicted.items():
        most, least = (budgets[name].limit(op) for op in _OPS) if name in budgets else (None, None)
        if (most is not None and found.low > most) or (least is not None and found.high < least):
            ends = f"{show(name, found.value)} ({found.low:.3g} to {found.high:.3g})"
            return "predicted", f"{name} is predicted {ends}, which is not {budgets[name].text}"
    return None


def over_limit(budgets: Mapping[str, Budget], figures: Mapping[str, float]) -> tuple[str, str] | None:
    """The first budget that measured ``figures`` break, and all in words; None if they keep every one."""
    broken = [name for name in figures if _broken(budgets, name, figures[name])]
    if not broken:
        return None
    known = {name: budget for name, budget in budgets.items() if name in figures}
    return broken[0], "; ".join(f"measured {text}" for text in violations(known, figures))


def survey(
    evaluator: Evaluator,
    budgets: Mapping[str, Budget],
    *,
    seed: int,
    locate: Locate,
    objectives: Iterable[str] = (),
) -> Survey:
    """Look at every filling of a small space, at a sample of a large one, after what bounds can prove.

    A space without any valid candidate, and a closed-form budget that is proved to be met by none, are
    errors; so are budgets that no candidate of a small space meets at once. What a sample does not show is
    said to be not shown. A small space of one architecture is an error, and so is one of ``objectives`` in
    which no two candidates differ.
    """
    static = {name: budget for name, budget in budgets.items() if find_quantity(name).closed_form}
    proof = evaluator.prove(static) if isinstance(evaluator, Bounded) else Proof()
    if proof.impossible is not None:
        raise _impossible(locate, proof.impossible, static, "proved by bounds over all fillings")
    n_fillings, is_exact = evaluator.size()
    exhaustive = is_exact and n_fillings <= _N_ENUMERATED
    look = _Look(static)
    for genes in evaluator.enumerate() if exhaustive else _samples(evaluator.genome, seed):
        look.at(evaluator, genes)
    if not look.found:
        code = look.unfit.most_common(1)[0][0]
        raise locate(("space",), f"no candidate of the space can be used: {look.reasons[code]}", None)
    doubts = {}
    if exhaustive:
        _check_differences(look, objectives, locate)
    for name, budget in static.items():
        best = _cheapest(evaluator, list(look.found.values()), name, budget, exhaustive=exhaustive)
        if budget.allows(best.costs[name]):
            continue
        if exhaustive:
            nearest = Impossible(name, _nearest(budget, best))
            raise _impossible(locate, nearest, static, f"all {look.n_seen} fillings were looked at")
        doubts[name] = (
            f"no sample meets '{budget}', and no proof says that none can: {_nearest(budget, best)}"
        )
    feasible = [candidate for candidate in look.found.values() if refusal(candidate, static) is None]
    if not feasible and exhaustive:
        raise locate(
            ("budgets",), f"none of the {len(look.found)} candidates meets all budgets at once", None
        )
    if not feasible and not doubts:
        doubts["budgets"] = f"none of {look.n_seen} samples meets all budgets at once"
    known = {(option.gene, repr(option.value)) for option in proof.never}
    enumerated = [o for o in look.never() if (o.gene, repr(o.value)) not in known] if exhaustive else []
    return Survey(
        n_fillings=n_fillings,
        is_exact=is_exact,
        n_seen=look.n_seen,
        exhaustive=exhaustive,
        n_distinct=len(look.found),
        n_feasible=len(feasible),
        refused=dict(look.unfit),
        reasons=look.reasons,
        example=_typical(feasible),
        proof="enumeration" if exhaustive else proof.method,
        never=(*proof.never, *enumerated),
        doubts=doubts,
    )


def _check_differences(look: _Look, objectives: Iterable[str], locate: Locate) -> None:
    """A search needs two candidates at least, and objectives in which they differ."""
    found = list(look.found.values())
    if len(found) == 1:
        raise locate(
            ("space",), f"all {look.n_seen} fillings are one architecture, so there is no search", None
        )
    for name in objectives:
        values = {candidate.costs[name] for candidate in found if name in candidate.costs}
        if len(values) == 1:
            message = f"every candidate has {name} {show(name, values.pop())}, so it is no objective here"
            raise locate(("objectives", name), message, "name another, or open the space in it")


class _Look:
    """What was seen of a space."""

    def __init__(self, budgets: Mapping[str, Budget]):
        self._budgets = budgets
        self.n_seen = 0
        self.found: dict[str, Candidate] = {}
        self.unfit: Counter[str] = Counter()
        self.reasons: dict[str, str] = {}
        self._shown: set[tuple[str, str]] = set()  # options of candidates within the budgets
        self._missed: dict[tuple[str, str], NeverOption] = {}

    def at(self, evaluator: Evaluator, genes: Genes) -> None:
        """Judge one filling."""
        self.n_seen += 1
        try:
            candidate = evaluator.candidate(genes)
        except Unfit as error:
            self._count(error.code, error.reason)
            return
        is_new = candidate.hash not in self.found
        self.found.setdefault(candidate.hash, candidate)
        why = refusal(candidate, self._budgets)
        active = genes.keys() if candidate.active is None else candidate.active
        for gene in active:
            option = gene, repr(genes[gene])
            if why is None:
                self._shown.add(option)
            else:
                self._missed.setdefault(option, NeverOption(gene, genes[gene], why[1], "enumeration"))
        if why is not None and is_new:
            self._count(*why)

    def never(self) -> list[NeverOption]:
        """Options of candidates that are all beyond the budgets, if every filling was looked at."""
        return [missed for option, missed in self._missed.items() if option not in self._shown]

    def _count(self, code: str, reason: str) -> None:
        self.unfit[code] += 1
        self.reasons.setdefault(code, reason)


def _samples(genome: Genome, seed: int) -> Iterator[dict[str, Any]]:
    rng = random.Random(seed)  # noqa: S311
    return (genome.sample(rng) for _ in range(_N_SAMPLED))


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


def _nearest(budget: Budget, best: Candidate) -> str:
    value = best.costs[budget.quantity]
    is_too_large = value > (budget.limit("<=") or math.inf)
    layers = " | ".join("+".join(kind for kind in pair if kind != "none") for pair in best.strip)
    word = "cheapest" if is_too_large else "largest"
    return f"the {word} candidate ({layers}) has {show(budget.quantity, value)} ({value:g})"


def _impossible(locate: Locate, found: Impossible, budgets: Mapping[str, Budget], how: str) -> SpecError:
    hint = f"{how}; nothing was trained"
    if not found.quantity:
        return locate(("budgets",), f"no candidate meets all budgets at once: {found.why}", hint)
    budget = budgets[found.quantity]
    return locate(("budgets", found.quantity), f"no candidate meets '{budget}': {found.why}", hint)


def opening(survey: Survey) -> list[str]:
    """What a search says first: how many fit, and what is known not to."""
    lines = [f"{survey.n_distinct} candidates seen, {survey.n_feasible} within the budgets"]
    return [*lines, *survey.doubts.values(), *map(str, survey.never)]


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
    lines += survey.doubts.values()
    lines += [str(option) for option in survey.never]
    if not survey.never and survey.proof.startswith("none"):
        lines.append(f"nothing is proved of the budgets ({survey.proof.removeprefix('none: ')})")
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
        "proof": survey.proof,
        "never": [option.as_json() for option in survey.never],
        "doubts": dict(survey.doubts),
    }
