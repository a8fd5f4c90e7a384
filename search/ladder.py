"""The rungs of one study: what is trained on each, who goes on, what that costs, and whether it may be done.

Everything is a function of the study and of what its ledger holds, so that a search that was killed between
two rungs decides as it would have decided.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any

from archspec.errors import SpecError
from archspec.study import Study
from search.dispatch import failure_of
from search.evaluate import Candidate, Evaluator, Need, RungEvaluator
from search.figures import figures
from search.ledger import Asked, Ledger, Trial
from search.promotion import Climber, promoted
from search.proxy_validity import AUDIT, FEWEST, ProxyValidity, learned_quantity, validity_of
from search.random_search import RANDOM_SEARCH
from search.round import candidate_of
from search.trial_document import found_of


class Ladder:
    """``study``'s rungs on an open ledger; ``finished`` are its trials by number, as they come in."""

    def __init__(self, study: Study, evaluator: Evaluator, ledger: Ledger, finished: Mapping[int, Trial]):
        self._study, self._evaluator, self._ledger = study, evaluator, ledger
        self._finished = finished
        self._fidelity = study.fidelity
        self._directions = tuple(study.objectives.values())
        self._weights = {task.label: task.weight for task in evaluator.tasks}
        self._n_rates = len(getattr(study.recipe, "learning_rates", (None,)))
        self._judged: tuple[int, ProxyValidity] | None = None
        self.top = len(study.fidelity.rungs) - 1
        self.names = tuple(str(rung) for rung in study.fidelity.rungs)
        if study.fidelity.is_ladder and not isinstance(evaluator, RungEvaluator):
            raise SpecError("these candidates can only be evaluated in full", hint="write rungs: [full]")

    def path(self, pending: Iterable[Asked]) -> tuple[int, ...]:
        """The rungs that a round climbs; the top alone where no lower one would decide anything."""
        everything = tuple(range(self.top + 1))
        audited = any(asked.document["proposer"] == AUDIT for asked in pending)
        if audited or self.trusted() or self._fidelity.cuts_rates(self._n_rates):
            return everything
        return (self.top,)

    def needs(self, candidate: Candidate, index: int) -> list[Need]:
        """What ``candidate`` has to be trained for at rung ``index``."""
        if index == self.top:
            return self._evaluator.training(candidate)
        assert isinstance(self._evaluator, RungEvaluator)
        return self._evaluator.rung(candidate, index)

    def left_behind(self, round_: int, index: int) -> set[int]:
        """The numbers of those of a round that do not go on from rung ``index``, finished or not.

        Baselines, random search and the audit always go on. Nobody stays at a rung that is not trusted.
        """
        if index not in self.trusted():
            return set()
        climbers = [
            climber
            for asked in self._ledger.round_of(round_)
            if asked.baseline is None and asked.document["proposer"] not in (AUDIT, RANDOM_SEARCH)
            if (climber := self._climber(asked, self._finished.get(asked.number), index)) is not None
        ]
        going = promoted(climbers, self._directions, self._fidelity.promote)
        return {climber.number for climber in climbers} - set(going)

    def trusted(self) -> frozenset[int]:
        """The rungs that may decide: all of them without an audit, else those that passed it."""
        if not self._fidelity.audit:
            return frozenset(range(self.top))
        if not self._fidelity.is_ladder:
            return frozenset()
        found = self.validity()
        used = () if found is None else found.used
        return frozenset(index for index in range(self.top) if self.names[index] in used)

    def validity(self) -> ProxyValidity | None:
        """What the audit says so far; None where there is none."""
        sample = self._audited()
        if not self._fidelity.is_ladder or not sample:
            return None
        if self._judged is None or self._judged[0] != len(sample):
            quantity = learned_quantity((*self._study.objectives, *self._study.budgets))
            assert quantity is not None
            found = validity_of(
                sample, self.names, quantity, weights=self._weights, aggregate=self._study.aggregate
            )
            self._judged = len(sample), found
        return self._judged[1]

    def n_to_audit(self, left: Fraction) -> int:
        """How many candidates the audit takes now: none where it has been, or where it cannot be paid."""
        if not self._fidelity.is_ladder or not self._fidelity.audit or self._audited():
            return 0
        n = min(self._fidelity.audit, int(left / self._cost(range(self.top + 1))))
        return n if n >= FEWEST else 0

    def n_affordable(self, left: Fraction) -> int:
        """How many candidates of one round can be paid for, the study's batch at most."""
        n = self._study.batch
        while n and self._round_cost(n) > left:
            n -= 1
        return n

    def document(
        self, candidate: Candidate, climbed: Sequence[int], measured: Sequence[Need]
    ) -> dict[str, Any]:
        """What is known of a candidate that tried these rungs, and no other, before it ended."""
        needs = {self.names[index]: self.needs(candidate, index) for index in climbed}
        found = found_of(self._ledger, needs, measured)
        if self._fidelity.is_ladder and climbed:
            found |= {"rung": self.names[climbed[-1]], "cost": str(self._cost(climbed))}
        return found

    def why_behind(self, index: int) -> str:
        """Why a candidate stays at rung ``index``."""
        return f"not among the best {self._fidelity.promote} at {self.names[index]}"

    def told(self) -> str:
        """What has been done with the trials, in words."""
        own = [
            trial
            for trial in self._finished.values()
            if trial.document.get("baseline") is None and trial.document["proposer"] != RANDOM_SEARCH
        ]
        counts = Counter(trial.status for trial in own)
        if not self._fidelity.is_ladder:
            return f"{counts['done'] + counts['failed']} candidates trained"
        whole = f"{float(spent(own)):.4g} trainings' worth"
        return f"{counts['done'] + counts['failed']} candidates trained, {counts['dropped']} dropped: {whole}"

    def discard(self, candidate: Candidate) -> None:
        """Forget the weights of a candidate that goes no further."""
        if self._fidelity.is_ladder:
            assert isinstance(self._evaluator, RungEvaluator)
            self._evaluator.discard(candidate)

    def _climber(self, asked: Asked, closed: Trial | None, index: int) -> Climber | None:
        """A candidate as it stands at rung ``index``; None if it never got through it."""
        status = "pending" if closed is None else closed.status
        if status == "refused":
            return None
        if closed is not None and status == "dropped" and self.names.index(closed.document["rung"]) < index:
            return None
        candidate = candidate_of(asked)
        needs = self.needs(candidate, index)
        results = [self._ledger.evidence(need.key) for need in needs]
        if any(result is None or failure_of(result) for result in results):
            return None
        need = self._evaluator.measurement(candidate, final=False)
        known = found_of(self._ledger, {self.names[index]: needs}, [need] if need else [])
        found = figures({**asked.document, **known}, self._weights, self._study.aggregate)
        values = tuple(found.get(name, math.nan) for name in self._study.objectives)
        beyond = (
            max(0.0, budget.excess(found[name])) / (abs(budget.value) or 1.0)
            for name, budget in self._study.budgets.items()
            if name in found
        )
        return Climber(asked.number, values, sum(beyond))

    def _audited(self) -> list[Trial]:
        return [trial for trial in self._finished.values() if trial.document.get("proposer") == AUDIT]

    def _round_cost(self, n: int) -> Fraction:
        """The most that a round of ``n`` fresh candidates comes to."""
        path = self.path(())
        trusted, total, before = self.trusted(), Fraction(0), Fraction(0)
        for position, index in enumerate(path):
            cost = self._cost(path[: position + 1])
            total, before = total + n * (cost - before), cost
            if index in trusted:
                n = math.ceil(self._fidelity.promote * n)
        return total

    def _cost(self, climbed: Sequence[int]) -> Fraction:
        return self._fidelity.cost(climbed, n_rates=self._n_rates, n_seeds=self._study.seeds)


def spent(trials: Iterable[Trial]) -> Fraction:
    """What finished trials cost in whole trainings, but for baselines, random search and what was reused."""
    counted = (t for t in trials if t.status in ("done", "dropped", "failed"))
    own = (t for t in counted if t.document.get("baseline") is None)
    chosen = (t for t in own if t.document.get("proposer") != RANDOM_SEARCH and not t.document.get("reused"))
    return sum(map(cost_of, chosen), start=Fraction(0))


def cost_of(trial: Trial) -> Fraction:
    """What a trial cost, in whole trainings; one that failed before its first rung counts as one."""
    return Fraction(trial.document.get("cost", 1))
