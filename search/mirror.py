"""The ledger as an Optuna study: for samplers, for dashboards, for plots. The ledger stays the truth."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

import optuna
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.exc import IntegrityError, ProgrammingError

from archspec.errors import SpecError
from archspec.quantities import Budget
from search.front import Direction
from search.genome import Genome
from search.proposers import Past
from search.storage import Storage

_TRIAL, _SPEC = "archspec:trial", "archspec:spec"
_OPENING_S = 20.0
_N_OPENINGS, _OPENING_PAUSE_S = 5, 0.5
_CLOSING_S = 30.0
_LEAVING_S = 1.0  # where the search ends with an error
_PAUSE_S = 5.0  # between two attempts


def constraints(budgets: Mapping[str, Budget], quantities: Mapping[str, float]) -> dict[str, float]:
    """Every budget's excess under its name, sorted: samplers need the same keys, in one order, everywhere."""
    return {name: budgets[name].excess(quantities[name]) for name in sorted(budgets)}


def frozen_trial(
    genome: Genome,
    past: Past,
    attrs: Mapping[str, Any] | None = None,
    *,
    system_attrs: Mapping[str, Any] | None = None,
) -> FrozenTrial:
    """One finished candidate as a trial of Optuna."""
    done = past.state == "done"
    return create_trial(
        state=TrialState.COMPLETE if done else TrialState.FAIL,
        values=list(past.values) if done else None,
        params=dict(past.genes),
        distributions=genome.distributions,
        user_attrs=dict(attrs or {}),
        system_attrs=dict(system_attrs or {}),
        constraints=dict(past.constraints) if done and past.constraints is not None else None,
    )


@contextlib.contextmanager
def quiet_optuna() -> Iterator[None]:
    """Optuna says nothing on standard error meanwhile, warnings excepted."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


class Mirror:
    """The study ``name`` at ``storage``, written behind by a thread of its own.

    A storage that cannot be used at the start is a ``SpecError``. Later nothing that happens to it reaches
    the search: ``warn`` hears of the first failure, and what is lacking is added when the storage is back, at
    the end, or by the next run. A trial is known again by its number and its spec.
    """

    def __init__(
        self,
        storage: Storage,
        name: str,
        genome: Genome,
        directions: Sequence[Direction],
        *,
        warn: Callable[[str], None] = lambda text: None,
    ):
        self._storage, self._genome, self._warn = storage, genome, warn
        self._open: Callable[[], _Study] = lambda: _Study(storage, name, directions)
        self._waiting: queue.Queue[tuple[int, str, Past] | None] = queue.Queue()
        self._lacking: dict[int, tuple[str, Past]] = {}
        self._is_open, self._closing, self._stopping = (threading.Event() for _ in range(3))
        self._refusal, self._has_complained = "", False
        self._thread = threading.Thread(target=self._work, name="optuna-mirror", daemon=True)
        self._thread.start()
        self._is_open.wait(_OPENING_S)  # one that is only slow is not waited for
        if self._refusal:
            raise SpecError(
                f"--storage {storage.shown} cannot be used: {self._refusal}",
                hint="give an SQLAlchemy URL such as sqlite:///study.db; the search itself is safe",
            )

    def __enter__(self) -> Mirror:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(limit_s=_CLOSING_S if error is None else _LEAVING_S)

    def add(self, number: int, spec: str, past: Past) -> None:
        """A trial is over; it will be in the study when its turn comes."""
        if past.state != "pending":
            self._waiting.put((number, spec, past))

    def close(self, *, limit_s: float) -> None:
        """Give the thread ``limit_s`` to catch up."""
        self._closing.set()
        self._waiting.put(None)
        self._thread.join(limit_s)
        self._stopping.set()
        if self._thread.is_alive() or self._lacking or not self._waiting.empty():
            self._warn(f"the Optuna study at {self._storage.shown} lacks trials; the next run adds them")

    def _work(self) -> None:
        study: _Study | None = None
        try:
            study = self._open_first()
        except Exception as error:
            self._refusal = type(error).__name__
            return
        finally:
            self._is_open.set()
        is_last = False
        while not is_last:
            is_last = self._closing.is_set()
            self._collect(0.0 if is_last else _PAUSE_S)
            try:
                study = study or self._open()
                self._write(study)
            except Exception as error:  # of the network, the server, the disk, the library: all the same here
                self._complain(type(error).__name__)
                if study is not None:
                    study.close()
                study = None
        if study is not None:
            study.close()

    def _open_first(self) -> _Study:
        """Open the study where another driver may be making Optuna's tables at this moment."""
        for _ in range(_N_OPENINGS - 1):
            try:
                return self._open()
            except (IntegrityError, ProgrammingError):
                time.sleep(_OPENING_PAUSE_S)
        return self._open()

    def _collect(self, patience_s: float) -> None:
        """Take what is waiting, after waiting for the first of it."""
        with contextlib.suppress(queue.Empty):
            item = self._waiting.get(patience_s > 0, patience_s or None)
            while True:
                if item is not None:
                    number, spec, past = item
                    self._lacking[number] = spec, past
                item = self._waiting.get_nowait()

    def _write(self, study: _Study) -> None:
        for number, (spec, past) in list(self._lacking.items()):
            if self._stopping.is_set():
                return
            study.add(self._genome, number, spec, past)
            del self._lacking[number]

    def _complain(self, why: str) -> None:
        if not self._has_complained:
            self._warn(f"the Optuna study at {self._storage.shown} lags behind ({why}); the search goes on")
        self._has_complained = True


class _Study:
    """A study that is open, and which trials it has."""

    def __init__(self, storage: Storage, name: str, directions: Sequence[Direction]):
        self._storage = RDBStorage(storage.for_optuna, engine_kwargs={"pool_pre_ping": True})
        try:
            with quiet_optuna():
                self._study = optuna.create_study(
                    storage=self._storage, study_name=name, directions=list(directions), load_if_exists=True
                )
            trials = self._study.get_trials(deepcopy=False)
        except BaseException:
            self.close()
            raise
        self._known = {(trial.user_attrs.get(_TRIAL), trial.user_attrs.get(_SPEC)) for trial in trials}

    def add(self, genome: Genome, number: int, spec: str, past: Past) -> None:
        """Add a trial that is not there."""
        if (number, spec) not in self._known:
            # The old list beside the new keys: optuna-dashboard 0.21 reads no other constraints.
            old = {"constraints": list(past.constraints.values())} if past.constraints else {}
            attrs = {_TRIAL: number, _SPEC: spec}
            self._study.add_trial(frozen_trial(genome, past, attrs, system_attrs=old))
            self._known.add((number, spec))

    def close(self) -> None:
        """Release the connections."""
        self._storage.remove_session()
        self._storage.engine.dispose()
