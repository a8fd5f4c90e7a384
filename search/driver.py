"""One driver asks, runs, tells and records: the loop of a search, from its space's survey to its front."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from archspec.errors import SpecError
from archspec.study import Study
from search.dispatch import Dispatcher, OutOfTime
from search.evaluate import Candidate, Evaluator, Need
from search.executors import Executor
from search.folder import open_folder
from search.front import SearchResult
from search.gates import Locate, Survey, counts, survey
from search.ledger import Asked, Ledger, Trial
from search.mirror import mirror
from search.output import write_result
from search.rounds import Rounds, candidate_of
from search.solve import solve


@dataclass(frozen=True)
class Event:
    """Something that happened in a search; ``result`` derives the state of the whole for whoever shows it."""

    kind: Literal["surveyed", "resumed", "round", "job", "trial", "finals", "closed"]
    text: str
    n_trained: int = 0
    n_wanted: int = 0
    trial: Trial | None = None
    result: Callable[[], SearchResult] | None = None


Listener = Callable[[Event], None]


def ignore(event: Event) -> None:
    pass


def search(
    study: Study,
    evaluator: Evaluator,
    out: Path,
    *,
    make_executor: Callable[[Path], Executor],
    timeout_s: float | None = None,
    storage: str | None = None,
    listen: Listener = ignore,
    locate: Locate | None = None,
    origin: Mapping[str, Any] | None = None,
) -> SearchResult:
    """Run ``study`` in the folder ``out``, or go on with it there; what is finished is never done again.

    ``make_executor`` gets the folder for its logs. ``timeout_s`` bounds the trials; the final checks of the
    front come after them. ``locate`` gives errors a place in the study's file; ``origin`` goes into the
    provenance. A ``KeyboardInterrupt`` stops everything at once and leaves a folder to go on with.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    seen = survey(evaluator, study.budgets, seed=study.seed, locate=locate or _without_place)
    listen(Event("surveyed", f"{seen.n_distinct} candidates seen, {seen.n_feasible} within the budgets"))
    with open_folder(out) as ledger:
        identity = evaluator.identity()
        ledger.bind(identity.values, explain=identity.explain)
        if (warning := _other_code(ledger, evaluator)) is not None:
            listen(Event("resumed", warning))
        ledger.add_run(_start(study, evaluator, seen, origin or {}))
        executor = make_executor(out)
        try:
            run = _Run(study, evaluator, ledger, executor, deadline, listen)
            stopped = run.trials()
            run.finals()
        finally:
            executor.close()
        texts = [asdict(text) for text in evaluator.text_baselines()]
        ledger.add_run({"event": "end", "stopped": stopped, "text_baselines": texts})
        result = write_result(
            solve(ledger), out, dump=lambda n, comment: evaluator.dump(run.candidate(n), comment=comment)
        )
        if storage is not None:
            # The space is in the name: Optuna cannot change the options of a parameter.
            name = f"{study.study}-{identity.values.get('space', '')[:8]}"
            mirror(storage, name, evaluator.genome, list(study.objectives.values()), run.rounds.history())
    listen(Event("closed", stopped, run.n_trained, study.trials, result=lambda: result))
    return result


class _Run:
    """One driver at work on an open ledger."""

    def __init__(
        self,
        study: Study,
        evaluator: Evaluator,
        ledger: Ledger,
        executor: Executor,
        deadline: float | None,
        listen: Listener,
    ):
        self._study, self._evaluator, self._ledger, self._listen = study, evaluator, ledger, listen
        self._executor, self._deadline = executor, deadline
        self._finished = {trial.number: trial for trial in ledger.trials()}
        self.n_trained = sum(map(_cost_a_training, self._finished.values()))
        self.rounds = Rounds(study, evaluator)
        self.rounds.hear(self._finished.values())
        if self._finished:
            self._tell("resumed", f"{self.n_trained} candidates are trained already")

    def candidate(self, number: int) -> Candidate:
        """The candidate of a finished trial."""
        t = self._finished[number]
        return candidate_of(Asked(number, 0, t.spec, t.document.get("baseline"), t.document))

    def trials(self) -> str:
        """Round after round; returns why it stopped."""
        try:
            while True:
                pending = self._ledger.pending()
                if pending:
                    self._evaluate(pending)
                elif (stopped := self._ask()) is not None:
                    return stopped
        except OutOfTime:
            return "time limit"

    def _ask(self) -> str | None:
        """Put a fresh round into the ledger, or say why there is none."""
        names = {trial.document.get("baseline") for trial in self._finished.values()}
        number, first = self._ledger.next_round(), self._ledger.next_number()
        fresh = self.rounds.baselines(names, round_=number, number=first)
        lacking = self._study.trials - self.n_trained
        if lacking > 0:
            self.rounds.extend(fresh, min(self._study.batch, lacking))
        elif not fresh.asked and not fresh.settled:
            return f"{self.n_trained} candidates trained"
        self._ledger.add_round(fresh.asked, fresh.settled, study=self.rounds.key)
        for trial in fresh.settled:
            self._note(trial)
        n = sum(trial.status == "refused" for trial in fresh.settled)
        self._tell("round", f"{len(fresh.asked)} candidates to evaluate, {n} refused on the way")
        is_over = lacking > 0 and not fresh.asked
        return "no candidate is left that is new and within the budgets" if is_over else None

    def _evaluate(self, pending: Sequence[Asked]) -> None:
        """Measure all of them, turn away what is too slow, train the rest."""
        by_number = {asked.number: asked for asked in pending}
        candidates = {number: candidate_of(asked) for number, asked in by_number.items()}
        measured: list[int] = []

        def after_measuring(number: int, failure: str) -> None:
            if failure:
                self._close(by_number[number], "failed", failure)
            elif (why := self._too_slow(candidates[number])) is not None:
                self._close(by_number[number], "refused", why)
            else:
                measured.append(number)

        def after_training(number: int, failure: str) -> None:
            self._close(by_number[number], "failed" if failure else "done", failure)

        first = {number: self._measurement(candidate) for number, candidate in candidates.items()}
        self._dispatcher(self._deadline).run(first, at_once=1, settle=after_measuring)
        rest = {number: self._evaluator.training(candidates[number]) for number in sorted(measured)}
        at_once = self._executor.n_workers
        self._dispatcher(self._deadline).run(rest, at_once=at_once, settle=after_training)

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
            check = {number: self._evaluator.final(c) for number, c in chosen.items()}
            self._dispatcher(None).run(measure, at_once=1, settle=self._after_final)
            self._dispatcher(None).run(check, at_once=self._executor.n_workers, settle=self._after_final)

    def _after_final(self, number: int, failure: str) -> None:
        if failure:
            self._tell("finals", f"trial {number}: {failure}")

    def _measurement(self, candidate: Candidate, *, final: bool = False) -> list[Need]:
        need = self._evaluator.measurement(candidate, final=final)
        return [] if need is None else [need]

    def _too_slow(self, candidate: Candidate) -> str | None:
        """Why the measured latency disqualifies a candidate; a baseline may be slow."""
        budget = self._study.budgets.get("latency_ms")
        need = self._evaluator.measurement(candidate, final=False)
        if budget is None or need is None or candidate.baseline is not None:
            return None
        found = self._ledger.evidence(need.key)
        assert found is not None
        ms = found["median_ms"]
        return None if budget.allows(ms) else f"latency_ms {ms:.3g} ms (measured) is not {budget.text}"

    def _close(self, asked: Asked, status: str, reason: str) -> None:
        """A candidate is through: one row with all that is known of it."""
        candidate = candidate_of(asked)
        document = {**asked.document, **self._evidence(candidate), "reason": reason}
        if status == "refused":
            document |= {"code": "latency_ms", "budgets": self.rounds.key}
        trial = Trial(asked.number, asked.spec, status, document)
        self._ledger.add_trial(trial, study=self.rounds.key)
        self._note(trial)

    def _evidence(self, candidate: Candidate) -> dict[str, Any]:
        found: dict[str, Any] = {"scores": {}, "losses": {}, "metrics": {}, "seconds": 0.0}
        runs: dict[str, list[dict[str, Any]]] = {}
        for need in self._evaluator.training(candidate):
            if (result := self._ledger.evidence(need.key)) is not None:
                runs.setdefault(need.label, []).append(result)
        for label, results in runs.items():
            found["seconds"] += sum(result["seconds"] for result in results)
            ok = [result for result in results if result["status"] == "ok"]
            if ok:
                found["scores"][label] = [result["score"] for result in ok]
                found["losses"][label] = [result["loss"] for result in ok]
                names = ok[0]["metrics"]
                found["metrics"][label] = {n: statistics.fmean(r["metrics"][n] for r in ok) for n in names}
        for need in self._measurement(candidate):
            if (result := self._ledger.evidence(need.key)) is not None:
                found["latency"] = result
        return found

    def _dispatcher(self, deadline: float | None) -> Dispatcher:
        return Dispatcher(self._ledger, self._executor, deadline=deadline, started=self._started)

    def _started(self, number: int, need: Need) -> None:
        self._tell("job", f"trial {number}: {need.job.do} {need.job.label}".rstrip())

    def _note(self, trial: Trial) -> None:
        self._finished[trial.number] = trial
        self.n_trained += _cost_a_training(trial)
        self.rounds.hear([trial])
        self._tell("trial", trial.document["reason"], trial)

    def _tell(self, kind: Any, text: str, trial: Trial | None = None) -> None:
        wanted = self._study.trials
        self._listen(Event(kind, text, self.n_trained, wanted, trial, lambda: solve(self._ledger)))


def _cost_a_training(trial: Trial) -> bool:
    """Baselines are not counted."""
    return trial.status in ("done", "failed") and trial.document.get("baseline") is None


def _start(study: Study, evaluator: Evaluator, seen: Survey, origin: Mapping[str, Any]) -> dict[str, Any]:
    """What a run says of itself in the ledger: all that a report needs beside the trials."""
    return {
        "event": "start",
        "study": study.study,
        "description": study.description,
        "objectives": dict(study.objectives),
        "budgets": {name: budget.model_dump() for name, budget in study.budgets.items()},
        "aggregate": study.aggregate,
        "tasks": [asdict(task) for task in evaluator.tasks],
        "seed": study.seed,
        "trials": study.trials,
        "survey": counts(seen),
        "provenance": {**evaluator.provenance(), **origin},
    }


def _other_code(ledger: Ledger, evaluator: Evaluator) -> str | None:
    """What to say where earlier trials were trained by other code than what is there now."""
    before = [run["provenance"].get("code") for run in ledger.runs() if run["event"] == "start"]
    if not before or before[-1] == evaluator.provenance().get("code"):
        return None
    return "the code has changed since the last run; what is finished stays as it is"


def _without_place(path: tuple[str | int, ...], message: str, hint: str | None) -> SpecError:
    return SpecError(message, path=".".join(map(str, path)), hint=hint)
