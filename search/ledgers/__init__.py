"""Where a ledger's rows live: a file of the result folder (SQLite) or a server (PostgreSQL).

``search.ledger.Ledger`` says what is recorded; here is how rows are kept. One SQL text serves both: question
marks for values, ``ON CONFLICT DO NOTHING``, and no function that only one of them has.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

VERSION = 1

Statement = tuple[str, Sequence[Any]]


class Database(Protocol):
    """The tables of one search, and those that several searches share."""

    where: str  # for people: the folder, or the server without its password
    writable: bool
    shared_evidence: str | None  # a table with the evidence of every search; None: this search is alone
    arrival: str  # the column that numbers evidence as it came

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """What a query finds."""

    def write(self, statements: Sequence[Statement]) -> None:
        """All statements in one transaction, which is on disk when this returns, or none of them.

        ``SpecError`` if the place cannot be written; nothing is written twice, whatever is retried.
        """

    def close(self) -> None:
        """Release the place; everything is on disk already."""


def tables(*, counter: str, integer: str, real: str) -> dict[str, str]:
    """Table name -> ``CREATE`` statements of one search, in the database's words for its types.

    ``counter`` is a primary key that counts by itself.
    """
    return {
        "meta": "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);",
        "runs": f"CREATE TABLE runs (id {counter}, document TEXT NOT NULL, at {real} NOT NULL);",
        "asked": f"CREATE TABLE asked (number {integer} PRIMARY KEY, round {integer} NOT NULL, "
        f"spec TEXT NOT NULL, baseline TEXT, document TEXT NOT NULL, at {real} NOT NULL);"
        "CREATE INDEX asked_round ON asked (round);",
        "trials": f"CREATE TABLE trials (number {integer} PRIMARY KEY, spec TEXT NOT NULL, "
        f"status TEXT NOT NULL, document TEXT NOT NULL, at {real} NOT NULL);"
        "CREATE INDEX trials_spec ON trials (spec);",
        "refusals": "CREATE TABLE refusals (spec TEXT NOT NULL, study TEXT NOT NULL, reason TEXT NOT NULL, "
        f"trial {integer} NOT NULL, at {real} NOT NULL);"
        "CREATE INDEX refusals_spec ON refusals (spec, study);",
        "deaths": f"CREATE TABLE deaths (id {counter}, spec TEXT NOT NULL, job TEXT NOT NULL, "
        f"reason TEXT NOT NULL, at {real} NOT NULL);"
        "CREATE INDEX deaths_spec ON deaths (spec);",
    }


def evidence_table(name: str, *, integer: str, real: str, arrival: str = "") -> str:
    """The ``CREATE`` statement of a table of results; ``arrival`` declares a column that numbers them."""
    return (
        f"CREATE TABLE {name} (kind TEXT NOT NULL, spec TEXT NOT NULL, subject TEXT NOT NULL, "
        f"conditions TEXT NOT NULL, fidelity TEXT NOT NULL, seed {integer} NOT NULL, versions TEXT NOT NULL, "
        f"document TEXT NOT NULL, at {real} NOT NULL, {arrival}"
        "PRIMARY KEY (kind, spec, subject, conditions, fidelity, seed, versions));"
    )
