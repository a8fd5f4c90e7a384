"""The record of a search: append-only rows that a ``kill -9`` at any instant leaves whole.

Only the driver writes. A row is written in one transaction, synced to disk, and never changed or deleted
(triggers hold that). Trainings, measurements and final checks are keyed by everything that they depend on, so
that nothing is ever computed twice; trials are what became of each proposal, in order. ``search.ledgers`` has
the places where rows are kept: a file of the result folder, or a PostgreSQL server that many searches share.
There a result that any search has recorded answers every other one too.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from archspec.errors import SpecError
from search.ledgers import Database, Statement
from search.ledgers.sqlite import SqliteDatabase

FILE_NAME = "ledger.sqlite"


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
    """An open ledger: of a file's path, made if it is not there, or of another ``Database``.

    ``writable=False`` only reads; it is of use with a path, since a ``Database`` knows what it is.
    """

    def __init__(self, place: Path | Database, *, writable: bool = True):
        self._db = SqliteDatabase(place, writable=writable) if isinstance(place, Path) else place
        self.where = self._db.where
        self._settled_below = 0  # every proposal with a smaller number has an outcome, and keeps it

    def close(self) -> None:
        """Everything is on disk already; this only releases the place."""
        self._db.close()

    # Identity: what may not change in one search.

    def bind(self, identity: Mapping[str, str], *, explain: Mapping[str, str]) -> None:
        """Remember ``identity`` in a new ledger; in an old one refuse another (``explain`` names keys)."""
        known: dict[str, str] = {key: value for key, value in self._db.rows("SELECT key, value FROM meta")}
        for key, value in identity.items():
            if f"identity:{key}" in known and known[f"identity:{key}"] != value:
                raise SpecError(
                    f"{self.where} holds a search with {explain.get(key, f'another {key}')}",
                    hint="choose another --out; budgets, objectives, trials and limits may change",
                )
        insert = "INSERT INTO meta VALUES (?, ?) ON CONFLICT DO NOTHING"
        self._db.write([(insert, (f"identity:{key}", value)) for key, value in identity.items()])

    def add_run(self, document: Mapping[str, Any]) -> None:
        """A driver starts: the study as it stands now, versions, command."""
        row = (_dump(document), time.time())
        self._db.write([("INSERT INTO runs (document, at) VALUES (?, ?)", row)])

    def runs(self) -> list[dict[str, Any]]:
        """Every driver that worked here, the first one first."""
        return [json.loads(text) for (text,) in self._db.rows("SELECT document FROM runs ORDER BY id")]

    # Proposals and what became of them.

    def add_round(self, asked: Iterable[Asked], settled: Iterable[Trial], *, study: str) -> None:
        """One round of proposals, whole or not at all: those to evaluate, and those settled at once."""
        now = time.time()
        statements: list[Statement] = []
        for a in asked:
            row = (a.number, a.round, a.spec, a.baseline, _dump(a.document), now)
            statements.append(("INSERT INTO asked VALUES (?, ?, ?, ?, ?, ?)", row))
        for trial in settled:
            statements += _inserts(trial, now, study)
        self._db.write(statements)

    def add_trial(self, trial: Trial, *, study: str) -> None:
        """A trial is over."""
        self._db.write(list(_inserts(trial, time.time(), study)))

    def trials(self) -> list[Trial]:
        """Finished trials in the order of their numbers."""
        rows = self._db.rows("SELECT number, spec, status, document FROM trials ORDER BY number")
        return [Trial(number, spec, status, json.loads(text)) for number, spec, status, text in rows]

    def round_of(self, number: int) -> list[Asked]:
        """All proposals that were accepted in one round, finished or not."""
        rows = self._db.rows(
            "SELECT number, round, spec, baseline, document FROM asked WHERE round = ? ORDER BY number",
            (number,),
        )
        return [Asked(n, round_, spec, base, json.loads(text)) for n, round_, spec, base, text in rows]

    def pending(self) -> list[Asked]:
        """Accepted proposals without an outcome: what a killed driver was at.

        Numbers only grow, so what has been found settled once is not looked at again.
        """
        following = self.next_number()
        rows = self._db.rows(
            "SELECT number, round, spec, baseline, document FROM asked WHERE number >= ? "
            "AND NOT EXISTS (SELECT 1 FROM trials WHERE trials.number = asked.number) ORDER BY number",
            (self._settled_below,),
        )
        self._settled_below = int(rows[0][0]) if rows else following
        return [Asked(n, round_, spec, base, json.loads(text)) for n, round_, spec, base, text in rows]

    def next_number(self) -> int:
        """The number of the next trial."""
        both = [f"SELECT MAX(number) AS number FROM {table}" for table in ("trials", "asked")]  # noqa: S608
        ((last,),) = self._db.rows(f"SELECT MAX(number) FROM ({' UNION ALL '.join(both)}) AS numbers")  # noqa: S608
        return 0 if last is None else int(last) + 1

    def next_round(self) -> int:
        """The number of the next round; rounds are asked in order, so the last proposal is of the last."""
        last = self._db.rows("SELECT round FROM asked ORDER BY number DESC LIMIT 1")
        return int(last[0][0]) + 1 if last else 0

    def refused(self, study: str) -> set[str]:
        """Hashes of specs that a study with this identity turned away."""
        return {spec for (spec,) in self._db.rows("SELECT spec FROM refusals WHERE study = ?", (study,))}

    # Evidence.

    def add_evidence(self, key: EvidenceKey, document: Mapping[str, Any]) -> dict[str, Any]:
        """A finished result. The first one of a key stays, whoever had it; returns that one."""
        row = (*astuple(key), _dump(document), time.time())
        into = self._db.shared_evidence or "evidence"
        values = ", ".join("?" * len(row))
        statements: list[Statement] = [
            (f"INSERT INTO {into} ({_COLUMNS}) VALUES ({values}) ON CONFLICT DO NOTHING", row)  # noqa: S608
        ]
        if self._db.shared_evidence is not None:
            statements.append(self._adoption(key))
        self._db.write(statements)
        kept = self.evidence(key)
        assert kept is not None
        return kept

    def evidence(self, key: EvidenceKey) -> dict[str, Any] | None:
        """The result of ``key``, or None if nobody computed it; one of another search becomes ours too."""
        if (found := self._find(key, "evidence")) is None and self._db.shared_evidence is not None:
            found = self._find(key, self._db.shared_evidence)
            if found is not None and self._db.writable:
                self._db.write([self._adoption(key)])
        return found

    def all_evidence(self, kind: str) -> list[tuple[EvidenceKey, dict[str, Any]]]:
        """Every result of a kind that this search has made or used, the oldest first."""
        rows = self._db.rows(
            f"SELECT {_KEY}, document FROM evidence WHERE kind = ? ORDER BY {self._db.arrival}",  # noqa: S608
            (kind,),
        )
        return [(EvidenceKey(*row[:-1]), json.loads(row[-1])) for row in rows]

    def _find(self, key: EvidenceKey, table: str) -> dict[str, Any] | None:
        rows = self._db.rows(f"SELECT document FROM {table} WHERE {_IS_KEY}", astuple(key))  # noqa: S608
        return json.loads(rows[0][0]) if rows else None

    def _adoption(self, key: EvidenceKey) -> Statement:
        return (
            f"INSERT INTO evidence ({_COLUMNS}) SELECT {_COLUMNS} FROM {self._db.shared_evidence} "  # noqa: S608
            f"WHERE {_IS_KEY} ON CONFLICT DO NOTHING",
            astuple(key),
        )

    def add_death(self, spec: str, job: str, reason: str) -> None:
        """A worker died while it worked on ``spec``."""
        row = (spec, job, reason, time.time())
        self._db.write([("INSERT INTO deaths (spec, job, reason, at) VALUES (?, ?, ?, ?)", row)])

    def deaths(self, spec: str) -> int:
        """How many workers died on ``spec``."""
        ((n,),) = self._db.rows("SELECT COUNT(*) FROM deaths WHERE spec = ?", (spec,))
        return int(n)


_KEY = ", ".join(field.name for field in fields(EvidenceKey))
_COLUMNS = f"{_KEY}, document, at"
_IS_KEY = " AND ".join(f"{field.name} = ?" for field in fields(EvidenceKey))


def _inserts(trial: Trial, now: float, study: str) -> Iterator[Statement]:
    row = (trial.number, trial.spec, trial.status, _dump(trial.document), now)
    yield "INSERT INTO trials VALUES (?, ?, ?, ?, ?)", row
    if trial.status == "refused":
        refusal = (trial.spec, study, str(trial.document.get("reason", "")), trial.number, now)
        yield "INSERT INTO refusals VALUES (?, ?, ?, ?, ?)", refusal


def _dump(document: Mapping[str, Any]) -> str:
    return json.dumps(document, allow_nan=False)  # keys keep their order: objectives have one
