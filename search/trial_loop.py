"""One driver at work on an open ledger: proposals, measurements, rungs, and the front's last checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from archspec.quantities import find_quantity
from archspec.study import Study
from search.dispatch import Dispatcher, OutOfTime
from search.evaluate import Candidate, Evaluator, Need, WarmStarted
from search.events import Event, Listener
from search.executors import Executor
from search.figures import figures, measured, measurement_of
from search.gates import Survey, over_limit
from search.ladder import Ladder, spent
from search.ledger import Asked, Ledger, Trial
from search.reuse import Earlier, is_reused, needs_of, with_weights
from search.round import Round, candidate_of
from search.rounds import Rounds
from search.solve import solve


class TrialLoop:
    """One driver at work on an open ledger."""

    def __init__(
        self,
        study: Study,
        evaluator: Evaluator,
        seen: Survey,
        ledger: Ledger,
        earlier: Earlier,
        executor: Executor,
        deadline: float | None,
        listen: Listener,
    ):
        self._study, self._evaluator, self._ledger, self._listen = study, evaluator, ledger, listen
        self._executor, self._deadline = executor, deadline
        self._earlier, self._is_warm = earlier, False
        self._finished = {trial.number: trial for trial in ledger.trials()}
        self._ladder = Ladder(study, evaluator, ledger, self._finished)
        self._spent = spent(self._finished.values())
        self._weights = {task.label: task.weight for task in evaluator.tasks}
        self.rounds = Rounds(study, evaluator, never=seen.never)
        self.rounds.hear(self._finished.values())
        if self._finished:
            self._tell("resumed", f"{self.n_trained} candidates are trained already")

    @property
    def n_trained(self) -> int:
        """Whole trainings that candidates have cost, baselines not counted."""
        return int(self._spent)

    def candidate(self, number: int) -> Candidate:
        """The candidate of a finished trial."""
        t = self._finished[number]
        return candidate_of(Asked(number, 0, t.spec, t.document.get("baseline"), t.document))

    def trials(self) -> str:
        """Round after round; returns why it stopped."""
        try:
            self._measure_more()
            while True:
                pending = self._ledger.pending()
                if pending:
                    self._evaluate([asked for asked in pending if asked.round == pending[0].round])
                elif (stopped := self._ask()) is not None:
                    return stopped
        except OutOfTime:
            return "time limit"

    def _measure_more(self) -> None:
        """Finished candidates of which the study now asks a figure that nobody asked for before."""
        asked = {*self._study.objectives, *self._study.budgets}
        wanted = {name for name in asked if find_quantity(name).basis == "measured"}
        lacking = {
            number: self._measurement(self.candidate(number))
            for number, trial in self._finished.items()
            if trial.status == "done" and not wanted <= measured(measurement_of(trial.document)).keys()
        }

        def after(number: int, failure: str) -> None:
            trial = self._finished[number]
            for need in lacking[number]:
                if (result := self._ledger.evidence(need.key)) is not None:
                    self._finished[number] = replace(
                        trial, document={**trial.document, "measurement": result}
                    )
            self.rounds.hear([self._finished[number]])

        self._dispatcher(self._deadline).run(lacking, at_once=1, settle=after)

    def _ask(self) -> str | None:
        """Put a fresh round into the ledger, or say why there is none."""
        names = {trial.document.get("baseline") for trial in self._finished.values()}
        number, first = self._ledger.next_round(), self._ledger.next_number()
        fresh = self.rounds.baselines(names, round_=number, number=first)
        left = self._study.trials - self._spent
        n_audited = self._ladder.n_to_audit(left)
        lacking = self._ladder.n_affordable(left)
        if n_audited:
            self.rounds.audit(fresh, n_audited)
        elif lacking > 0:
            if not self._is_warm:
                self._warm(fresh)
            n_fresh = lacking - sum(asked.baseline is None for asked in fresh.asked)
            if n_fresh > 0:
                self.rounds.extend(fresh, n_fresh)
        elif not fresh.asked and not fresh.settled:
            if "random" in self._study.search_baselines:
                fresh = self.rounds.random(self._study.batch, round_=number, number=first)
            if not fresh.asked and not fresh.settled:
                return self._ladder.told()
        self._ledger.add_round(fresh.asked, fresh.settled, study=self.rounds.key)
        for trial in fresh.settled:
            self._note(trial)
        n = sum(trial.status == "refused" for trial in fresh.settled)
        self._tell("round", f"{len(fresh.asked)} candidates to evaluate, {n} refused on the way")
        is_over = lacking > 0 and not fresh.asked
        return "no candidate is left that is new and within the budgets" if is_over else None

    def _warm(self, fresh: Round) -> None:
        """Before anything is proposed: what the study and earlier searches hold."""
        self._is_warm = True
        if isinstance(self._evaluator, WarmStarted):
            self.rounds.warm(fresh, self._evaluator.warm(), proposer="warm start")
        if self._study.warm_start.ledgers:
            self.rounds.warm(fresh, self._earlier.known(self._evaluator), proposer="earlier search")

    def _evaluate(self, pending: Sequence[Asked]) -> None:
        """Measure all of one round, turn away what breaks a measured budget, train the rest."""
        path = self._ladder.path(pending)
        by_number = {asked.number: asked for asked in pending}
        candidates = {number: candidate_of(asked) for number, asked in by_number.items()}
        fit: list[int] = []
        for candidate in candidates.values():
            self._earlier.take_over(self._ledger, needs_of(self._evaluator, candidate))

        def after_measuring(number: int, failure: str) -> None:
            if failure:
                self._close(by_number[number], "failed", failure)
            elif (why := self._over_limit(candidates[number])) is not None:
                self._close(by_number[number], "refused", why[1], code=why[0])
            else:
                fit.append(number)

        first = {number: self._measurement(candidate) for number, candidate in candidates.items()}
        self._dispatcher(self._deadline).run(first, at_once=1, settle=after_measuring)
        self._climb({number: by_number[number] for number in sorted(fit)}, path)

    def _climb(self, climbing: Mapping[int, Asked], path: Sequence[int]) -> None:
        """Train all of one round at each rung of ``path``; those that are not promoted stay behind."""
        for position, index in enumerate(path):
            climbed = path[: position + 1]
            through = self._stretch(climbing, climbed, is_last=climbed == path)
            behind = self._ladder.left_behind(climbing[min(through)].round, index) if through else set()
            for number in sorted(through & behind):
                self._close(climbing[number], "dropped", self._ladder.why_behind(index), climbed)
            climbing = {number: climbing[number] for number in sorted(through - behind)}

    def _stretch(self, climbing: Mapping[int, Asked], climbed: Sequence[int], *, is_last: bool) -> set[int]:
        """Train at the last rung of ``climbed``; the numbers of those that could go on from there."""
        through: set[int] = set()

        def settle(number: int, failure: str) -> None:
            if failure or is_last:
                self._close(climbing[number], "failed" if failure else "done", failure, climbed)
            else:
                through.add(number)

        work = {n: self._ladder.needs(candidate_of(asked), climbed[-1]) for n, asked in climbing.items()}
        self._dispatcher(self._deadline).run(work, at_once=self._executor.n_workers, settle=settle)
        return through

    def finals(self) -> None:
        """Measure again, test and check the front's members and the baselines, until the front is settled."""
        asked: set[int] = set()
        while True:
            result = solve(self._ledger)
            rows = [row for row in (*result.front, *result.baselines) if row.status == "done"]
            fresh = sorted({row.trial for row in rows} - asked)
            if not fresh:
                return
            asked |= set(fresh)
            self._tell("finals", f"measuring and testing {len(fresh)} specs of the front and the baselines")
            chosen = {number: self.candidate(number) for number in fresh}
            measure = {number: self._measurement(c, final=True) for number, c in chosen.items()}
            check: dict[int, list[Need]] = {}
            again: dict[int, list[Need]] = {}
            for number, candidate in chosen.items():
                checks = self._evaluator.final(candidate)
                self._earlier.take_over(self._ledger, checks)
                lacking = [need for need in checks if self._ledger.evidence(need.key) is None]
                trainings = self._evaluator.training(candidate)
                check[number], again[number] = with_weights(self._ledger, lacking, trainings)
            self._dispatcher(None).run(measure, at_once=1, settle=self._after_final)
            self._dispatcher(None).run(again, at_once=self._executor.n_workers, settle=self._after_final)
            self._dispatcher(None).run(check, at_once=self._executor.n_workers, settle=self._after_final)

    def _after_final(self, number: int, failure: str) -> None:
        if failure:
            self._tell("finals", f"trial {number}: {failure}")

    def _measurement(self, candidate: Candidate, *, final: bool = False) -> list[Need]:
        need = self._evaluator.measurement(candidate, final=final)
        return [] if need is None else [need]

    def _over_limit(self, candidate: Candidate) -> tuple[str, str] | None:
        """The first measured budget that a candidate breaks, and all in words; a baseline may break any."""
        need = self._evaluator.measurement(candidate, final=False)
        if need is None or candidate.baseline is not None:
            return None
        result = self._ledger.evidence(need.key)
        assert result is not None
        return over_limit(self._study.budgets, {n: f.value for n, f in measured(result).items()})

    def _close(
        self, asked: Asked, status: str, reason: str, climbed: Sequence[int] = (), *, code: str = ""
    ) -> None:
        """A candidate is through: one row with all that is known of it."""
        candidate = candidate_of(asked)
        found = self._ladder.document(candidate, climbed, self._measurement(candidate))
        document = {**asked.document, **found, "reason": reason}
        if is_reused(self._ledger, self._evaluator.training(candidate)):
            document |= {"reused": True}
        if status == "refused":
            document |= {"code": code, "budgets": self.rounds.key}
        if status in ("dropped", "failed"):
            self._ladder.discard(candidate)
        trial = Trial(asked.number, asked.spec, status, document)
        self._ledger.add_trial(trial, study=self.rounds.key)
        self._note(trial)

    def _dispatcher(self, deadline: float | None) -> Dispatcher:
        return Dispatcher(self._ledger, self._executor, deadline=deadline, started=self._started)

    def _started(self, number: int, need: Need) -> None:
        self._tell("job", f"trial {number}: {need.job.do} {need.job.label}".rstrip())

    def _note(self, trial: Trial) -> None:
        self._finished[trial.number] = trial
        self._spent += spent([trial])
        self.rounds.hear([trial])
        self._tell("trial", trial.document["reason"], trial)

    def _tell(self, kind: Any, text: str, trial: Trial | None = None) -> None:
        self._listen(
            Event(
                kind,
                text,
                self.n_trained,
                self._study.trials,
                trial,
                result=lambda: solve(self._ledger),
                figures={} if trial is None else self._figures(trial),
                objectives=tuple(self._study.objectives),
            )
        )

    def _figures(self, trial: Trial) -> dict[str, float]:
        """What is known of a trial; nothing where its genes make no spec."""
        has_costs = "costs" in trial.document
        return figures(trial.document, self._weights, self._study.aggregate) if has_costs else {}
