"""The tables on a PostgreSQL server: made where they are not there, refused where they are too new."""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING, Any

from archspec.errors import SpecError
from search.ledgers import VERSION, evidence_table, tables

if TYPE_CHECKING:
    import psycopg

EVIDENCE = "archspec.evidence"

_COUNTER = "BIGINT GENERATED ALWAYS AS IDENTITY"
_WORDS = {"integer": "BIGINT", "real": "DOUBLE PRECISION"}
_MAKING = 0x61726368  # the advisory lock of whoever makes tables

_SHARED = f"""
CREATE SCHEMA IF NOT EXISTS archspec;
CREATE TABLE archspec.versions (version BIGINT NOT NULL);
CREATE TABLE archspec.searches (name TEXT PRIMARY KEY, at DOUBLE PRECISION NOT NULL);
{evidence_table(EVIDENCE, arrival=f"id {_COUNTER}, ", **_WORDS)}
CREATE FUNCTION archspec.refuse_change() RETURNS trigger LANGUAGE plpgsql AS
  $$ BEGIN RAISE EXCEPTION 'the ledger is append-only'; END $$;
"""


def schema_of(search: str) -> str:
    """The schema of a search, whatever is in its name."""
    return f"archspec_{hashlib.sha256(search.encode()).hexdigest()[:16]}"


def make_search(connection: psycopg.Connection[Any], search: str, *, where: str) -> None:
    """Make what is not there: all of it or nothing, one driver at a time."""
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (_MAKING,))
        if _has(connection, "archspec.versions"):
            _check_version(connection, where)
        else:
            _run(connection, _SHARED)
            connection.execute("INSERT INTO archspec.versions VALUES (%s)", (VERSION,))
            for table in ("versions", "searches", "evidence"):
                _run(connection, _triggers(f"archspec.{table}"))
        if not _has(connection, f"{schema_of(search)}.trials"):
            _make_tables(connection, search)


def require_search(connection: psycopg.Connection[Any], search: str, *, where: str) -> None:
    """``SpecError`` if the search is not there."""
    if _has(connection, "archspec.versions"):
        _check_version(connection, where)
        if _has(connection, f"{schema_of(search)}.trials"):
            return
    raise SpecError(f"there is no search at {where}")


def _make_tables(connection: psycopg.Connection[Any], search: str) -> None:
    schema = schema_of(search)
    made = tables(counter=f"{_COUNTER} PRIMARY KEY", **_WORDS)
    made["evidence"] = evidence_table("evidence", arrival=f"id {_COUNTER}, ", **_WORDS)
    made["drivers"] = (
        f"CREATE TABLE drivers (id {_COUNTER} PRIMARY KEY, token TEXT NOT NULL, name TEXT NOT NULL, "
        "at DOUBLE PRECISION NOT NULL);"
    )
    _run(connection, f"CREATE SCHEMA {schema};")  # the search path names it already
    for table, create in made.items():
        _run(connection, create + _triggers(table))
    connection.execute("INSERT INTO archspec.searches VALUES (%s, %s)", (search, time.time()))


def _check_version(connection: psycopg.Connection[Any], where: str) -> None:
    ((version,),) = connection.execute("SELECT MAX(version) FROM archspec.versions").fetchall()
    if version != VERSION:
        raise SpecError(
            f"{where} was written by a newer archspec (ledger {version}, this one reads {VERSION})",
            hint="upgrade archspec, or give another database in --storage",
        )


def _triggers(table: str) -> str:
    return (
        f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
        "FOR EACH STATEMENT EXECUTE FUNCTION archspec.refuse_change();"
    )


def _has(connection: psycopg.Connection[Any], table: str) -> bool:
    ((found,),) = connection.execute("SELECT to_regclass(%s) IS NOT NULL", (table,)).fetchall()
    return bool(found)


def _run(connection: psycopg.Connection[Any], script: str) -> None:
    connection.execute(script.encode())
