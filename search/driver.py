"""One driver asks, runs, tells and records: the loop of a search, from its space's survey to its front."""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from archspec.errors import SpecError
from archspec.study import Study
from search.evaluate import Evaluator, Locate
from search.events import Event, Listener, ignore
from search.executors import Executor
from search.folder import open_folder
from search.front import SearchResult
from search.gates import Survey, counts, opening, survey
from search.ledger import Ledger
from search.mirror import Mirror
from search.output import write_result
from search.reuse import Earlier
from search.solve import solve
from search.trial_loop import TrialLoop

__all__ = ["Event", "Listener", "ignore", "search"]


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
    reuse: Sequence[Path] = (),
) -> SearchResult:
    """Run ``study`` in the folder ``out``, or go on with it there; what is finished is never done again.

    ``make_executor`` gets the folder for its logs. ``timeout_s`` bounds the trials; the final checks of the
    front come after them. ``storage`` gets the search as a study of Optuna; one on PostgreSQL has the ledger
    too. ``locate`` gives errors a place in the study's file; ``origin`` goes into the provenance; ``reuse``
    are folders of earlier searches, which answer what they know. A
    ``KeyboardInterrupt`` stops everything at once and leaves a folder to go on with.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    seen = survey(
        evaluator,
        study.budgets,
        seed=study.seed,
        locate=locate or _without_place,
        objectives=study.objectives,
    )
    listen(Event("surveyed", "\n".join(opening(seen))))
    identity = evaluator.identity()
    notes: deque[str] = deque()  # what the mirror's thread has to say

    def hear(event: Event) -> None:
        while notes:
            listen(Event("warning", notes.popleft()))
        number = None if event.trial is None else event.trial.number
        if mirror is not None and number is not None and (past := run.rounds.past(number)) is not None:
            mirror.add(*past)
        listen(event)

    def warn(text: str) -> None:
        listen(Event("warning", text))

    name = f"{study.study}-{_short(identity.values)}"
    with ExitStack() as stack:
        earlier = stack.enter_context(Earlier(reuse, own=out))
        folder = stack.enter_context(open_folder(out, storage=storage, search=name, tell=warn))
        ledger = folder.ledger
        ledger.bind(identity.values, explain=identity.explain)
        mirror = None
        if folder.mirror is not None:
            # The space is in the name: Optuna cannot change the options of a parameter.
            study_name = folder.search or f"{study.study}-{identity.values.get('space', '')[:8]}"
            directions = list(study.objectives.values())
            mirror = Mirror(folder.mirror, study_name, evaluator.genome, directions, warn=notes.append)
            stack.enter_context(mirror)
        if (warning := _other_code(ledger, evaluator)) is not None:
            listen(Event("resumed", warning))
        ledger.add_run(_start(study, evaluator, seen, origin or {}))
        executor = make_executor(out)
        try:
            run = TrialLoop(study, evaluator, seen, ledger, earlier, executor, deadline, hear)
            if mirror is not None:
                for past in run.rounds.history():
                    mirror.add(*past)
            stopped = run.trials()
            run.finals()
        finally:
            executor.close()
        texts = [asdict(text) for text in evaluator.text_baselines()]
        ledger.add_run({"event": "end", "stopped": stopped, "text_baselines": texts})
        result = write_result(
            solve(ledger), out, dump=lambda n, comment: evaluator.dump(run.candidate(n), comment=comment)
        )
    for note in notes:
        warn(note)
    listen(Event("closed", stopped, run.n_trained, study.trials, result=lambda: result))
    return result


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
        "rungs": [str(rung) for rung in study.fidelity.rungs],
        "survey": counts(seen),
        "provenance": {**evaluator.provenance(), **origin},
    }


def _short(identity: Mapping[str, str]) -> str:
    return hashlib.sha256(repr(sorted(identity.items())).encode()).hexdigest()[:8]


def _other_code(ledger: Ledger, evaluator: Evaluator) -> str | None:
    """What to say where earlier trials were trained by other code than what is there now."""
    before = [run["provenance"].get("code") for run in ledger.runs() if run["event"] == "start"]
    if not before or before[-1] == evaluator.provenance().get("code"):
        return None
    return "the code has changed since the last run; what is finished stays as it is"


def _without_place(path: tuple[str | int, ...], message: str, hint: str | None) -> SpecError:
    return SpecError(message, path=".".join(map(str, path)), hint=hint)
