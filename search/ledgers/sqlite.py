"""A ledger in one file of the result folder: SQLite, write-ahead log, synced to disk at every commit."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from archspec.errors import SpecError
from search.ledgers import VERSION, Statement, evidence_table, tables
from search.lock import on_network


class SqliteDatabase:
    """The file ``path``, made if it is not there; ``writable=False`` only reads and leaves no file behind."""

    shared_evidence: str | None = None
    arrival = "rowid"

    def __init__(self, path: Path, *, writable: bool = True):
        self.where = str(path.parent)
        self.writable = writable
        self._path = path
        self._db = _open(path, writable=writable)
        try:
            with self._told():
                self._prepare()
        except SpecError:
            self._db.close()
            raise

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """What a query finds."""
        with self._told():
            return self._db.execute(sql, values).fetchall()

    def write(self, statements: Sequence[Statement]) -> None:
        """All statements or none; ``SpecError`` where the disk is full or the file damaged."""
        with self._told(), self._db:
            self._db.execute("BEGIN IMMEDIATE")
            for sql, values in statements:
                self._db.execute(sql, values)

    def close(self) -> None:
        """Release the file."""
        self._db.close()

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What the file system or a damaged file does to us is the user's to know."""
        try:
            yield
        except sqlite3.IntegrityError:
            raise
        except sqlite3.OperationalError as error:
            raise SpecError(
                f"{self._path} cannot be {'written' if self.writable else 'read'}: {error}",
                hint="what is finished is safe; make room or give permission, then run it again",
            ) from error
        except sqlite3.DatabaseError as error:
            raise _unreadable(self._path, error) from error

    def _prepare(self) -> None:
        db = self._db
        if self.writable:
            if on_network(self._path):
                db.execute("PRAGMA locking_mode=EXCLUSIVE")
                db.execute("PRAGMA journal_mode=DELETE")
            else:
                db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=FULL")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        (n_tables,) = db.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
        if version > VERSION:
            raise SpecError(
                f"{self._path} was written by a newer archspec (ledger {version}, this one reads {VERSION})",
                hint="upgrade archspec, or choose another --out",
            )
        if n_tables == 0 and self.writable:
            self._create()
        elif version != VERSION:
            raise SpecError(f"{self._path} is no ledger of archspec", hint="choose another --out")
        check = db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if check != "ok":
            raise _unreadable(self._path, check)

    def _create(self) -> None:
        made = tables(counter="INTEGER PRIMARY KEY", integer="INTEGER", real="REAL")
        made["evidence"] = evidence_table("evidence", integer="INTEGER", real="REAL")
        script = "BEGIN IMMEDIATE;" + "".join(made.values())
        for table in made:
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
