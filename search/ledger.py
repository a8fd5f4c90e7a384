"""The record of a search: an append-only SQLite file that a ``kill -9`` at any instant leaves whole.

Only the driver writes. A row is written in one transaction, synced to disk, and never changed or deleted
(triggers hold that). Trainings, measurements and final checks are keyed by everything that they depend on, so
that nothing is ever computed twice; trials are what became of each proposal, in order.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Literal

from archspec.errors import SpecError
from search.lock import on_network

VERSION = 1
FILE_NAME = "ledger.sqlite"

_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE runs (id INTEGER PRIMARY KEY, document TEXT NOT NULL, at REAL NOT NULL);
CREATE TABLE asked (number INTEGER PRIMARY KEY, round INTEGER NOT NULL, spec TEXT NOT NULL,
  baseline TEXT, document TEXT NOT NULL, at REAL NOT NULL);
CREATE TABLE trials (number INTEGER PRIMARY KEY, spec TEXT NOT NULL, status TEXT NOT NULL,
  document TEXT NOT NULL, at REAL NOT NULL);
CREATE TABLE refusals (spec TEXT NOT NULL, study TEXT NOT NULL, reason TEXT NOT NULL,
  trial INTEGER NOT NULL, at REAL NOT NULL);
CREATE TABLE evidence (kind TEXT NOT NULL, spec TEXT NOT NULL, subject TEXT NOT NULL,
  conditions TEXT NOT NULL, fidelity TEXT NOT NULL, seed INTEGER NOT NULL, versions TEXT NOT NULL,
  document TEXT NOT NULL, at REAL NOT NULL,
  PRIMARY KEY (kind, spec, subject, conditions, fidelity, seed, versions));
CREATE TABLE deaths (id INTEGER PRIMARY KEY, spec TEXT NOT NULL, job TEXT NOT NULL, reason TEXT NOT NULL,
  at REAL NOT NULL);
CREATE INDEX trials_spec ON trials (spec);
CREATE INDEX refusals_spec ON refusals (spec, study);
CREATE INDEX deaths_spec ON deaths (spec);
"""


@dataclass(frozen=True)
class EvidenceKey:
    """Everything that a result depends on, spelt out; equal keys mean that it need not be computed again.

    A training: subject is the task's hash (data included), conditions the recipe's. A measurement: subject is
    the target and conditions the kernel tier. A final check: as the training whose weights it reads.
    """

    kind: Literal["training", "measurement", "final"]
    spec: str
    subject: str
    conditions: str
    fidelity: str = "full"
    seed: int = 0
    versions: str = ""


@dataclass(frozen=True)
class Trial:
    """What became of one proposal."""

    number: int
    spec: str
    status: str
    document: Mapping[str, Any]


@dataclass(frozen=True)
class Asked:
    """A proposal that was accepted for evaluation."""

    number: int
    round: int
    spec: str
    baseline: str | None
    document: Mapping[str, Any]


class Ledger:
    """An open ledger. ``Ledger(path)`` creates the file if it is not there; ``writable=False`` only reads."""

    def __init__(self, path: Path, *, writable: bool = True):
        self.path = path
        self._db = _open(path, writable=writable)
        try:
            self._prepare(writable=writable)
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise _unreadable(path, error) from error
        except SpecError:
            self._db.close()
            raise

    def close(self) -> None:
        """Everything is on disk already; this only releases the file."""
        self._db.close()

    # Identity: what may not change in one folder.

    def bind(self, identity: Mapping[str, str], *, explain: Mapping[str, str]) -> None:
        """Remember ``identity`` in a new ledger; in an old one refuse another (``explain`` names keys)."""
        known = {key: value for key, value in self._db.execute("SELECT key, value FROM meta")}
        for key, value in identity.items():
            if f"identity:{key}" in known and known[f"identity:{key}"] != value:
                raise SpecError(
                    f"{self.path.parent} holds a search with {explain.get(key, f'another {key}')}",
                    hint="choose another --out; budgets, objectives, trials and limits may change",
                )
        with self._write() as db:
            rows = [(f"identity:{key}", value) for key, value in identity.items()]
            db.executemany("INSERT OR IGNORE INTO meta VALUES (?, ?)", rows)

    def add_run(self, document: Mapping[str, Any]) -> None:
        """A driver starts: the study as it stands now, versions, command."""
        with self._write() as db:
            db.execute("INSERT INTO runs (document, at) VALUES (?, ?)", (_dump(document), time.time()))

    def runs(self) -> list[dict[str, Any]]:
        """Every driver that worked here, the first one first."""
        return [json.loads(text) for (text,) in self._db.execute("SELECT document FROM runs ORDER BY id")]

    # Proposals and what became of them.

    def add_round(self, asked: Iterable[Asked], settled: Iterable[Trial], *, study: str) -> None:
        """One round of proposals, whole or not at all: those to evaluate, and those settled at once."""
        now = time.time()
        with self._write() as db:
            for a in asked:
                row = (a.number, a.round, a.spec, a.baseline, _dump(a.document), now)
                db.execute("INSERT INTO asked VALUES (?, ?, ?, ?, ?, ?)", row)
            for trial in settled:
                self._insert(db, trial, now, study)

    def add_trial(self, trial: Trial, *, study: str) -> None:
        """A trial is over."""
        with self._write() as db:
            self._insert(db, trial, time.time(), study)

    def trials(self) -> list[Trial]:
        """Finished trials in the order of their numbers."""
        rows = self._db.execute("SELECT number, spec, status, document FROM trials ORDER BY number")
        return [Trial(number, spec, status, json.loads(text)) for number, spec, status, text in rows]

    def round_of(self, number: int) -> list[Asked]:
        """All proposals that were accepted in one round, finished or not."""
        rows = self._db.execute(
            "SELECT number, round, spec, baseline, document FROM asked WHERE round = ? ORDER BY number",
            (number,),
        )
        return [Asked(n, round_, spec, base, json.loads(text)) for n, round_, spec, base, text in rows]

    def pending(self) -> list[Asked]:
        """Accepted proposals without an outcome: what a killed driver was at."""
        rows = self._db.execute(
            "SELECT number, round, spec, baseline, document FROM asked "
            "WHERE number NOT IN (SELECT number FROM trials) ORDER BY number"
        )
        return [Asked(n, round_, spec, base, json.loads(text)) for n, round_, spec, base, text in rows]

    def next_number(self) -> int:
        """The number of the next trial."""
        query = "SELECT MAX(number) FROM (SELECT number FROM trials UNION ALL SELECT number FROM asked)"
        (last,) = self._db.execute(query).fetchone()
        return 0 if last is None else int(last) + 1

    def next_round(self) -> int:
        """The number of the next round."""
        (last,) = self._db.execute("SELECT MAX(round) FROM asked").fetchone()
        return 0 if last is None else int(last) + 1

    def refused(self, study: str) -> set[str]:
        """Hashes of specs that a study with this identity turned away."""
        return {spec for (spec,) in self._db.execute("SELECT spec FROM refusals WHERE study = ?", (study,))}

    # Evidence.

    def add_evidence(self, key: EvidenceKey, document: Mapping[str, Any]) -> None:
        """A finished result. The first one of a key stays."""
        with self._write() as db:
            row = (*astuple(key), _dump(document), time.time())
            db.execute("INSERT OR IGNORE INTO evidence VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)

    def evidence(self, key: EvidenceKey) -> dict[str, Any] | None:
        """The result of ``key``, or None if nobody computed it."""
        row = self._db.execute(
            "SELECT document FROM evidence WHERE kind = ? AND spec = ? AND subject = ? AND conditions = ? "
            "AND fidelity = ? AND seed = ? AND versions = ?",
            astuple(key),
        ).fetchone()
        return None if row is None else json.loads(row[0])

    def all_evidence(self, kind: str) -> list[tuple[EvidenceKey, dict[str, Any]]]:
        """Every result of a kind, the oldest first."""
        rows = self._db.execute(
            "SELECT kind, spec, subject, conditions, fidelity, seed, versions, document FROM evidence "
            "WHERE kind = ? ORDER BY rowid",
            (kind,),
        )
        return [(EvidenceKey(*row[:7]), json.loads(row[7])) for row in rows]

    def add_death(self, spec: str, job: str, reason: str) -> None:
        """A worker died while it worked on ``spec``."""
        with self._write() as db:
            row = (spec, job, reason, time.time())
            db.execute("INSERT INTO deaths (spec, job, reason, at) VALUES (?, ?, ?, ?)", row)

    def deaths(self, spec: str) -> int:
        """How many workers died on ``spec``."""
        (n,) = self._db.execute("SELECT COUNT(*) FROM deaths WHERE spec = ?", (spec,)).fetchone()
        return int(n)

    def _insert(self, db: sqlite3.Connection, trial: Trial, now: float, study: str) -> None:
        row = (trial.number, trial.spec, trial.status, _dump(trial.document), now)
        db.execute("INSERT INTO trials VALUES (?, ?, ?, ?, ?)", row)
        if trial.status == "refused":
            refusal = (trial.spec, study, str(trial.document.get("reason", "")), trial.number, now)
            db.execute("INSERT INTO refusals VALUES (?, ?, ?, ?, ?)", refusal)

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        try:
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
        except sqlite3.IntegrityError:
            raise
        except sqlite3.OperationalError as error:
            raise SpecError(
                f"{self.path} cannot be written: {error}",
                hint="what is finished is safe; make room or give permission, then run it again",
            ) from error
        except sqlite3.DatabaseError as error:
            raise _unreadable(self.path, error) from error

    def _prepare(self, *, writable: bool) -> None:
        db = self._db
        if writable:
            if on_network(self.path):
                db.execute("PRAGMA locking_mode=EXCLUSIVE")
                db.execute("PRAGMA journal_mode=DELETE")
            else:
                db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=FULL")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        (n_tables,) = db.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
        if version > VERSION:
            raise SpecError(
                f"{self.path} was written by a newer archspec (ledger {version}, this one reads {VERSION})",
                hint="upgrade archspec, or choose another --out",
            )
        if n_tables == 0 and writable:
            self._create()
        elif version != VERSION:
            raise SpecError(f"{self.path} is no ledger of archspec", hint="choose another --out")
        check = db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if check != "ok":
            raise _unreadable(self.path, check)

    def _create(self) -> None:
        script = "BEGIN IMMEDIATE;" + _TABLES
        for table in ("runs", "asked", "trials", "refusals", "evidence", "deaths", "meta"):
            for verb in ("UPDATE", "DELETE"):
                script += (
                    f"CREATE TRIGGER {table}_{verb} BEFORE {verb} ON {table} "
                    "BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;\n"
                )
        self._db.executescript(script + f"PRAGMA user_version={VERSION}; COMMIT;")


def _open(path: Path, *, writable: bool) -> sqlite3.Connection:
    if not writable and not path.is_file():
        raise SpecError(f"{path.parent} holds no search (there is no {path.name})")
    mode = "rwc" if writable else "ro"
    if not writable and not path.with_name(f"{path.name}-wal").exists():
        mode += "&immutable=1"  # nobody writes; SQLite would leave two files of its own beside it
    try:
        db = sqlite3.connect(f"{path.resolve().as_uri()}?mode={mode}", uri=True, isolation_level=None)
        db.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError as error:
        raise SpecError(f"{path} cannot be opened: {error}", hint="check the folder's permissions") from error
    except sqlite3.DatabaseError as error:
        raise _unreadable(path, error) from error
    return db


def _unreadable(path: Path, why: object) -> SpecError:
    return SpecError(
        f"{path} is corrupt: {why}",
        hint="restore it from a copy, or start again with another --out; it was not touched",
    )


def _dump(document: Mapping[str, Any]) -> str:
    return json.dumps(document, allow_nan=False)  # keys keep their order: objectives have one
