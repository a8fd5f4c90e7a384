"""Run the jobs of many candidates on an executor; a result is in the ledger before anything else happens."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from archspec.errors import SpecError
from search.evaluate import Need
from search.executors import Completion, Executor
from search.ledger import Ledger

_N_LIVES = 2  # a candidate that has cost so many workers is given up
_PATIENCE_S = 1.0
_DISK_IS_FULL = ("No space left on device", "Disk quota exceeded")  # no fault of the candidate


class OutOfTime(Exception):
    """The search's time is up; nothing runs any more."""


class Dispatcher:
    """``deadline`` is on the monotonic clock; ``started`` hears of every job that begins."""

    def __init__(
        self,
        ledger: Ledger,
        executor: Executor,
        *,
        deadline: float | None = None,
        started: Callable[[int, Need], None] = lambda number, need: None,
    ):
        self._ledger = ledger
        self._executor = executor
        self._deadline = deadline
        self._started = started

    def run(
        self,
        work: Mapping[int, Sequence[Need]],
        *,
        at_once: int,
        settle: Callable[[int, str], None],
    ) -> None:
        """Get into the ledger what each trial needs; ``settle(trial, failure)`` as soon as one is through.

        ``failure`` is empty when everything is there. ``at_once`` 1 is the exclusive slot of measurements:
        nothing else runs, since every call returns with nothing running. ``OutOfTime`` when the deadline
        passes.
        """
        waiting: deque[tuple[int, Need]] = deque()
        lacking: dict[int, int] = {}
        for number, needs in work.items():
            failure = self._given_up(needs) or self._known_failure(needs)
            missing = [] if failure else [need for need in needs if self._ledger.evidence(need.key) is None]
            missing = [self._with_weights(need) for need in missing]
            lacking[number] = len(missing)
            waiting += [(number, need) for need in missing]
            if not missing:
                settle(number, failure)
        running: list[tuple[int, Need]] = []
        over: set[int] = set()  # trials that failed: what they still need is skipped
        while waiting or running:
            while len(running) < at_once and (free := _free(waiting, running)) is not None:
                number, need = free
                known = self._ledger.evidence(need.key)
                if known is not None:  # made for another trial meanwhile
                    lacking[number] -= 1
                    failure = failure_of(known)
                    if number not in over and (failure or lacking[number] == 0):
                        over |= {number} if failure else set()
                        settle(number, failure)
                elif number not in over:
                    self._check_time()
                    self._executor.submit(need.job)
                    running.append((number, need))
                    self._started(number, need)
            if not running:
                continue
            for completion in self._executor.wait(self._patience()):
                number, need = next(pair for pair in running if pair[1].job is completion.job)
                running.remove((number, need))
                failure, again = self._record(need, completion)
                if again:
                    waiting.appendleft((number, need))
                    continue
                lacking[number] -= 1
                if number not in over and (failure or lacking[number] == 0):
                    over |= {number} if failure else set()
                    settle(number, failure)
            self._check_time()

    def _record(self, need: Need, completion: Completion) -> tuple[str, bool]:
        """Why the candidate fails, empty if it does not; and whether to run the job again."""
        where = f" ({need.job.label})" if need.job.label else ""
        if completion.outcome == "done":
            assert completion.result is not None
            document = {**completion.result, "label": need.label, **_place(need)}
            return failure_of(self._ledger.add_evidence(need.key, document)), False
        if any(words in completion.reason for words in _DISK_IS_FULL):
            raise SpecError(
                f"the disk is full: {completion.reason}{where}",
                hint="what is finished is safe; make room, then run the same command again",
            )
        if completion.outcome != "died":
            return completion.reason + where, False
        self._ledger.add_death(need.key.spec, need.job.label, completion.reason)
        if self._ledger.deaths(need.key.spec) < _N_LIVES:
            return "", True
        return self._given_up([need]) + f": {completion.reason}{where}", False

    def _with_weights(self, need: Need) -> Need:
        """A final check reads weights; those of a search in another folder are where it trained them."""
        if need.key.kind != "final" or Path(need.job.payload.get("directory", "."), "model").exists():
            return need
        trained = self._ledger.evidence(replace(need.key, kind="training"))
        if trained is None or "directory" not in trained:
            return need
        payload = {**need.job.payload, "directory": trained["directory"]}
        return replace(need, job=replace(need.job, payload=payload))

    def _given_up(self, needs: Sequence[Need]) -> str:
        n = self._ledger.deaths(needs[0].key.spec) if needs else 0
        return f"poisoned: {n} workers died on it" if n >= _N_LIVES else ""

    def _known_failure(self, needs: Sequence[Need]) -> str:
        documents = (self._ledger.evidence(need.key) for need in needs)
        return next((why for d in documents if d is not None and (why := failure_of(d))), "")

    def _patience(self) -> float:
        if self._deadline is None:
            return _PATIENCE_S
        return max(0.0, min(_PATIENCE_S, self._deadline - time.monotonic()))

    def _check_time(self) -> None:
        if self._deadline is not None and time.monotonic() >= self._deadline:
            self._executor.cancel_all()
            raise OutOfTime


def _place(need: Need) -> dict[str, str]:
    """Where a training leaves its weights."""
    directory = need.job.payload.get("directory")
    return {} if need.key.kind != "training" or directory is None else {"directory": directory}


def failure_of(document: Mapping[str, Any]) -> str:
    """Why a finished result disqualifies its candidate; empty if it does not."""
    status = document.get("status", "ok")
    if status == "ok":
        return ""
    reason = f": {document['reason']}" if document.get("reason") else ""
    return f"{status} on {document['label']}{reason}"


def _free(waiting: deque[tuple[int, Need]], running: Sequence[tuple[int, Need]]) -> tuple[int, Need] | None:
    """The first that waits, taken out, whose result nothing that runs is about to give."""
    busy = {need.key for _, need in running}
    for i, pair in enumerate(waiting):
        if pair[1].key not in busy:
            del waiting[i]
            return pair
    return None
