"""Measured times of blocks in one SQLite file, to be kept, reused by every study, and shared.

An entry answers for exactly one key: the block, the shape, and the conditions, which are device, threads,
dtype, phase, backend, clock, statistic, versions and our own code. Any other key is a miss.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from archspec import SpecError

Kind = Literal["block", "base", "model"]
_APPLICATION = 0x61726C74  # "arlt"
_VERSION = 1


@dataclass(frozen=True)
class Conditions:
    """What a time depends on beside the block and the shape."""

    device: str
    threads: int
    dtype: str
    phase: str
    backend: str
    clock: str
    statistic: str
    versions: str
    code: str


@dataclass(frozen=True)
class Key:
    """``block`` is a hash; ``length`` counts positions of the block's stream, of the input for a model."""

    kind: Kind
    block: str
    batch_size: int
    length: int
    d_model: int


@dataclass(frozen=True)
class Entry:
    """Milliseconds with the 5th and 95th percentile of the estimate, and the work behind it.

    ``parts`` of a model are the keys of its base and blocks (``kind:hash:length``) with their numbers.
    """

    key: Key
    what: str
    ms: float
    low_ms: float
    high_ms: float
    n: int
    flops: int
    bytes_moved: int
    params: int
    measured_at: str = ""
    parts: Mapping[str, int] | None = None


_KEY = tuple(field.name for field in fields(Key))
_CONDITIONS = tuple(field.name for field in fields(Conditions))
_FIGURES = ("what", "ms", "low_ms", "high_ms", "n", "flops", "bytes_moved", "params", "measured_at", "parts")
_COLUMNS = (*_KEY, *_CONDITIONS, *_FIGURES)
_NUMBERS = {"batch_size": "INTEGER", "length": "INTEGER", "d_model": "INTEGER", "threads": "INTEGER",
            "n": "INTEGER", "ms": "REAL", "low_ms": "REAL", "high_ms": "REAL"}  # fmt: skip


class BlockTable:
    """The entries of one file under one set of conditions; the file comes into being with the first entry."""

    def __init__(self, file: str | os.PathLike[str], conditions: Conditions):
        self.file = Path(file)
        self.conditions = conditions
        self._entries: dict[Key, Entry] = {}
        if self.file.exists():
            with self._open() as connection:
                self._entries = {entry.key: entry for entry in _read(connection, conditions)}

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Key) -> Entry | None:
        """The entry of ``key``, None if it was never measured under these conditions."""
        return self._entries.get(key)

    def entries(self, kind: Kind | None = None) -> list[Entry]:
        """All entries, or those of a kind."""
        return [entry for entry in self._entries.values() if kind is None or entry.key.kind == kind]

    def other_lengths(self, key: Key) -> list[Entry]:
        """The same block at other lengths, from the shortest."""
        alike = [
            entry
            for other, entry in self._entries.items()
            if (other.kind, other.block, other.batch_size, other.d_model)
            == (key.kind, key.block, key.batch_size, key.d_model)
            and other.length != key.length
        ]
        return sorted(alike, key=lambda entry: entry.key.length)

    def add(self, entries: Iterable[Entry]) -> None:
        """Keep ``entries`` in the file; what has the same key is replaced."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        rows = []
        for entry in entries:
            self._entries[entry.key] = entry
            parts = None if entry.parts is None else json.dumps(dict(entry.parts), sort_keys=True)
            figures = (entry.what, entry.ms, entry.low_ms, entry.high_ms, entry.n)
            work = (str(entry.flops), str(entry.bytes_moved), str(entry.params))
            rows.append((*astuple(entry.key), *astuple(self.conditions), *figures, *work, now, parts))
        with self._open() as connection:
            marks = ", ".join("?" for _ in _COLUMNS)
            connection.executemany(
                f"INSERT OR REPLACE INTO entries ({', '.join(_COLUMNS)}) VALUES ({marks})",  # noqa: S608
                rows,
            )

    def _open(self) -> _Connection:
        return _Connection(self.file)


class _Connection:
    """A transaction on the file, which is closed after it; a file that is no table is a SpecError."""

    def __init__(self, file: Path):
        self._file = file

    def __enter__(self) -> sqlite3.Connection:
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(self._file, timeout=30.0)
            self._prepare()
        except sqlite3.Error as error:
            raise SpecError(f"{self._file} is no latency table: {error}") from None
        return self._connection

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._connection.commit()
        except sqlite3.Error as failed:
            error = failed
        finally:
            self._connection.close()
        if isinstance(error, sqlite3.Error):
            raise SpecError(f"{self._file}: {error}") from None

    def _prepare(self) -> None:
        (application,) = self._connection.execute("PRAGMA application_id").fetchone()
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        (n_tables,) = self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if application == _APPLICATION and version == _VERSION:
            return
        if n_tables or application:
            self._connection.close()
            what = (
                f"of version {version}, not {_VERSION}" if application == _APPLICATION else "another's file"
            )
            raise SpecError(f"{self._file} is no latency table of ours: it is {what}")
        columns = ", ".join(f"{name} {_NUMBERS.get(name, 'TEXT')}" for name in _COLUMNS)
        unique = ", ".join((*_KEY, *_CONDITIONS))
        self._connection.execute(f"CREATE TABLE entries ({columns}, PRIMARY KEY ({unique}))")
        self._connection.execute(f"PRAGMA application_id = {_APPLICATION}")
        self._connection.execute(f"PRAGMA user_version = {_VERSION}")


def _read(connection: sqlite3.Connection, conditions: Conditions) -> Iterator[Entry]:
    where = " AND ".join(f"{name} = ?" for name in _CONDITIONS)
    wanted = ", ".join((*_KEY, *_FIGURES))
    rows = connection.execute(f"SELECT {wanted} FROM entries WHERE {where}", astuple(conditions))  # noqa: S608
    for row in rows:
        key, figures = row[: len(_KEY)], row[len(_KEY) :]
        yield _entry(Key(*key), dict(zip(_FIGURES, figures, strict=True)))


def _entry(key: Key, found: dict[str, Any]) -> Entry:
    """A row as an entry; SQLite keeps types loosely, and a shared file may hold anything."""
    try:
        parts = None if found["parts"] is None else json.loads(found["parts"])
        return Entry(
            key,
            what=str(found["what"]),
            ms=float(found["ms"]),
            low_ms=float(found["low_ms"]),
            high_ms=float(found["high_ms"]),
            n=int(found["n"]),
            flops=int(found["flops"]),
            bytes_moved=int(found["bytes_moved"]),
            params=int(found["params"]),
            measured_at=str(found["measured_at"]),
            parts=None if parts is None else {str(part): int(n) for part, n in parts.items()},
        )
    except (ValueError, TypeError, AttributeError) as error:
        raise SpecError(f"the latency table has a broken entry for {key.kind} {key.block}: {error}") from None
