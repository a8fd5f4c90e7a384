"""Rounds of proposals: what is worth an evaluation, and what is settled without one.

A round is a function of the ledger, the study's seed and nothing else: how many workers there are, and which
one was faster, does not change what is tried next. A search that was killed proposes what it would have
proposed.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import random
from collections.abc import Collection, Iterable, Iterator
from functools import cached_property
from typing import Any

from archspec.errors import SpecError
from archspec.study import Study
from search.audit import audit_sample
from search.evaluate import Candidate, Evaluator, Unfit
from search.figures import figures
from search.gates import refusal
from search.genome import Genes
from search.ledger import Trial
from search.mirror import constraints
from search.proof import NeverOption, pruned
from search.proposers import Past, Problem, proposer_class
from search.proxy_validity import AUDIT
from search.random_search import RANDOM_SEARCH, draws
from search.round import Round
from search.screening import Screening

_N_ATTEMPTS = 40  # calls of the proposer in one round,
_N_LAST_ATTEMPTS = 200  # and where all that it proposed was turned away
_N_ENUMERATED = 20_000


class Rounds:
    """Proposes for ``study``; ``hear`` tells it what the ledger holds, in order."""

    def __init__(self, study: Study, evaluator: Evaluator, *, never: Iterable[NeverOption] = ()):
        """No proposer is shown the options in ``never``."""
        self._study = study
        self._evaluator = evaluator
        self._genome = pruned(evaluator.genome, never)
        self._weights = {task.label: task.weight for task in evaluator.tasks}
        self._screening = Screening(evaluator, study.budgets, self._genome)
        problem = Problem(self._genome, study.objectives, self._screening)
        self._proposer = proposer_class(study.proposer)(problem)
        self._fallback = proposer_class("random")(problem)
        self.key = _digest(sorted((name, *budget.key) for name, budget in study.budgets.items()))
        self._past: dict[int, tuple[str, Past]] = {}  # by trial: its hash, and what a proposer sees
        self._order: list[int] = []  # its keys, sorted
        self._spellings: set[tuple[Any, ...]] = set()  # genes that need no second look
        self._refused: set[str] = set()  # hashes, under these budgets
        self._known: dict[str, int] = {}  # hash -> the trial that evaluated it
        self._dropped: set[int] = set()  # trials of it that ended at a lower rung
        self._drawn: dict[str, bool] = {}  # hash of a random candidate -> whether it has an outcome

    def hear(self, trials: Iterable[Trial]) -> None:
        """Finished trials, in any order."""
        for trial in trials:
            genes = trial.document.get("genes") or {}
            is_complete = genes.keys() == self._evaluator.genome.by_name.keys()
            is_stale = trial.status == "refused" and trial.document["budgets"] != self.key
            if trial.status in ("done", "dropped", "failed"):
                self._known.setdefault(trial.spec, trial.number)
            if trial.status == "refused" and not is_stale:
                self._refused.add(trial.spec)
            if trial.status == "dropped":
                self._dropped.add(trial.number)
            if trial.document.get("proposer") == RANDOM_SEARCH:
                if not is_stale:
                    self._drawn[trial.spec] = trial.status != "refused"
            elif is_complete and not is_stale:
                spelling = self._evaluator.genome.key(genes)
                self._spellings.add(spelling)
                self._screening.hear(trial, genes)
                if trial.status != "duplicate":
                    if trial.number not in self._past:
                        bisect.insort(self._order, trial.number)
                    self._past[trial.number] = trial.spec, self._as_past(trial, genes)

    def history(self) -> list[tuple[int, str, Past]]:
        """Number, hash and what a proposer sees of every trial with genes, in order."""
        return [(number, *self._past[number]) for number in self._order]

    def past(self, number: int) -> tuple[int, str, Past] | None:
        """The same of one trial; None where it has no genes."""
        return (number, *self._past[number]) if number in self._past else None

    def baselines(self, known: Collection[str | None], *, round_: int, number: int) -> Round:
        """The study's baselines whose names are not ``known``; no budget turns them away."""
        out = Round(round_, number)
        seen: dict[str, str] = {}
        for candidate in self._evaluator.baselines():
            assert candidate.baseline is not None
            if (other := seen.setdefault(candidate.hash, candidate.baseline)) != candidate.baseline:
                raise SpecError(f"baselines '{other}' and '{candidate.baseline}' are the same architecture")
            if candidate.baseline in known:
                continue
            earlier = self._known.get(candidate.hash)
            if earlier is not None and earlier not in self._dropped:
                out.repeat(candidate, proposer="baseline", of=earlier)
            else:
                out.ask(candidate, proposer="baseline")
        return out

    def audit(self, out: Round, n: int) -> None:
        """Add ``n`` candidates drawn evenly over the sizes of the space, to test the lower rungs with."""
        seed = int(_digest([self._study.seed, AUDIT])[:8], 16)
        drawn = audit_sample(self._evaluator.genome, self._screening, n, seed=seed)
        self._take(((AUDIT, genes) for genes in drawn), len(out.asked) + n, out)

    def warm(self, out: Round, candidates: Iterable[Candidate], *, proposer: str) -> None:
        """Add candidates that others chose; what is known, or refused before, is not told again."""
        for candidate in candidates:
            if candidate.hash not in self._known and candidate.hash not in self._refused:
                if candidate.genes:
                    self._spellings.add(self._evaluator.genome.key(candidate.genes))
                self._settle(candidate, proposer, out)

    def extend(self, out: Round, k: int) -> None:
        """Add ``k`` fresh candidates to ``out``; fewer only where the space seems to hold no more."""
        wanted = len(out.asked) + k
        for attempt in itertools.count():
            lacking = wanted - len(out.asked)
            if lacking == 0 or attempt >= (_N_ATTEMPTS if lacking < k else _N_LAST_ATTEMPTS):
                break
            before = len(out.asked)
            self._take(self._proposals(out, lacking, attempt), wanted, out)
            n, is_exact = self._evaluator.size()
            if len(out.asked) == before and is_exact and n <= _N_ENUMERATED:
                self._take(self._everything(out.number), wanted, out)
                break

    def random(self, k: int, *, round_: int, number: int) -> Round:
        """Up to ``k`` more candidates of the random search that the study is compared with.

        As many as there are trials in all; one that the search has evaluated before is answered by that. The
        study's baselines are left out: the search, too, can only find them again.
        """
        out = Round(round_, number)
        known = {*self._drawn, *(candidate.hash for candidate in self._evaluator.baselines())}
        lacking = min(k, self._study.trials - sum(self._drawn.values()))
        fresh = draws(self._evaluator, self._study.budgets, seed=self._study.seed, known=known)
        for candidate in itertools.islice(fresh, max(0, lacking)):
            if (earlier := self._known.get(candidate.hash)) is not None:
                out.repeat(candidate, proposer=RANDOM_SEARCH, of=earlier)
            else:
                out.ask(candidate, proposer=RANDOM_SEARCH)
        return out

    def _proposals(self, out: Round, lacking: int, attempt: int) -> Iterator[tuple[str, Genes]]:
        use_fallback = attempt % 4 == 3 or attempt > _N_ATTEMPTS  # it may be stuck on what it has seen
        proposer = self._fallback if use_fallback else self._proposer
        seed = int(_digest([self._study.seed, len(self._past), out.number, attempt])[:8], 16)
        pasts = [self._past[number][1] for number in self._order]
        refused = [Past(t.document["genes"], "refused") for t in out.settled if t.status == "refused"]
        pending = [Past(a.document["genes"], "pending") for a in out.asked if a.document["genes"]]
        opened = [
            open_
            for past in (*pasts, *refused, *pending)
            if (open_ := self._screening.opened(past)) is not None
        ]
        for genes in proposer.propose(opened, k=2 * lacking, seed=seed):
            yield proposer.kind, genes

    def _everything(self, round_: int) -> Iterator[tuple[str, Genes]]:
        fillings = list(self._fillings)
        random.Random(f"{self._study.seed} {round_}").shuffle(fillings)  # noqa: S311
        for genes in fillings:
            if self._screening.opened(Past(genes, "pending")) is not None:
                yield "enumeration", genes

    @cached_property
    def _fillings(self) -> tuple[dict[str, Any], ...]:
        return tuple(self._evaluator.enumerate())

    def _take(self, proposals: Iterable[tuple[str, Genes]], k: int, out: Round) -> None:
        for proposer, genes in proposals:
            if len(out.asked) == k:
                return
            spelling = self._evaluator.genome.key(genes)
            if spelling not in self._spellings:
                self._spellings.add(spelling)
                self._judge(genes, proposer, out)

    def _judge(self, genes: Genes, proposer: str, out: Round) -> None:
        try:
            candidate = self._evaluator.candidate(genes)
        except Unfit as error:
            why = {"code": error.code, "reason": error.reason, "budgets": self.key}
            out.settle(error.hash, "refused", {"genes": dict(genes), "proposer": proposer, **why})
            return
        self._settle(candidate, proposer, out)

    def _settle(self, candidate: Candidate, proposer: str, out: Round) -> None:
        """Ask a candidate, or say why not."""
        earlier = self._known.get(candidate.hash)
        if earlier is None:
            earlier = next((asked.number for asked in out.asked if asked.spec == candidate.hash), None)
        if earlier is not None:
            out.repeat(candidate, proposer=proposer, of=earlier)
        elif (why_not := refusal(candidate, self._study.budgets)) is not None:
            code, reason = why_not
            out.refuse(candidate, proposer=proposer, code=code, reason=reason, budgets=self.key)
        else:
            out.ask(candidate, proposer=proposer)

    def _as_past(self, trial: Trial, genes: Genes) -> Past:
        if trial.status in ("failed", "refused"):
            return Past(genes, "failed" if trial.status == "failed" else "refused")
        found = figures(trial.document, self._weights, self._study.aggregate)
        if not {*self._study.objectives, *self._study.budgets} <= found.keys():
            return Past(genes, "failed")  # it ran before the study asked for this figure
        values = tuple(found[name] for name in self._study.objectives)
        if trial.status == "dropped":
            return Past(genes, "dropped", values, fidelity=trial.document["rung"])
        return Past(genes, "done", values, constraints(self._study.budgets, found))


def _digest(parts: Any) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()
