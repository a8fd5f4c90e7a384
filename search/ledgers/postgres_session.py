"""One driver's session on a PostgreSQL server: its connection, its lock, its signature."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import socket
import time
from typing import TYPE_CHECKING, Any

from archspec.errors import SpecError
from search.storage import Storage

if TYPE_CHECKING:
    import psycopg

_CONNECT_S = 10
_N_TRIES = 5  # for the lock of a driver that has just been killed
_LONGEST_NAME = 63  # bytes of an application_name


class Session:
    """A connection to the tables of ``schema`` that can be made anew.

    The session's name on the server is who we are: that is what a second driver is told.
    """

    def __init__(self, storage: Storage, schema: str, *, where: str, writable: bool):
        self._storage, self._schema, self._where, self._writable = storage, schema, where, writable
        self._psycopg = psycopg_or_error()
        self._token = secrets.token_hex(4)
        me = f"archspec {self._token} process {os.getpid()} on {socket.gethostname()}"
        self._name = me.encode("ascii", "replace").decode()[:_LONGEST_NAME]
        self._lock_number = int.from_bytes(
            hashlib.sha256(schema.encode()).digest()[:8], byteorder="big", signed=True
        )
        self._connection: psycopg.Connection[Any] | None = None

    @property
    def connection(self) -> psycopg.Connection[Any] | None:
        """The connection, or None where there is none that works."""
        return None if self._connection is None or self._connection.closed else self._connection

    def connect(self) -> psycopg.Connection[Any]:
        """A new connection; one whose other end is silent for half a minute is broken, for both ends."""
        self._discard()
        keepalives = {"keepalives_idle": 15, "keepalives_interval": 5, "keepalives_count": 3}
        connection = self._psycopg.connect(
            self._storage.for_libpq,
            autocommit=True,
            connect_timeout=_CONNECT_S,
            application_name=self._name,
            client_encoding="UTF8",
            tcp_user_timeout=30_000,
            **keepalives,
        )
        self._connection = connection
        for name, value in keepalives.items():
            connection.execute("SELECT set_config(%s, %s, false)", (f"tcp_{name}", str(value)))
        connection.execute("SELECT set_config('search_path', %s, false)", (f'"{self._schema}"',))
        is_off = "WHERE current_setting('synchronous_commit') = 'off'"
        connection.execute(f"SELECT set_config('synchronous_commit', 'on', false) {is_off}")
        read_only = "off" if self._writable else "on"
        connection.execute("SELECT set_config('default_transaction_read_only', %s, false)", (read_only,))
        return connection

    def resume(self) -> psycopg.Connection[Any]:
        """A new connection in the place of a broken one; ``SpecError`` if our search is another's by now."""
        connection = self.connect()
        try:
            if self._writable:
                self.lock(connection)
                self._check_signature(connection)
        except SpecError:
            self._discard()
            raise
        return connection

    def _check_signature(self, connection: psycopg.Connection[Any]) -> None:
        last = connection.execute("SELECT token FROM drivers ORDER BY id DESC LIMIT 1").fetchone()
        if last is None or last[0] != self._token:
            raise SpecError(
                f"another driver took over {self._where} while the connection was lost",
                hint="what is finished is safe; see whether the other one runs",
            )

    def lock(self, connection: psycopg.Connection[Any]) -> None:
        """Hold the search for this session alone; ``SpecError`` that names who has it."""
        for _ in range(_N_TRIES):
            ((is_ours,),) = connection.execute(
                "SELECT pg_try_advisory_lock(%s)", (self._lock_number,)
            ).fetchall()
            if is_ours:
                return
            holder = connection.execute(_HOLDER, (self._lock_number,)).fetchone()
            if holder is not None and holder[1] == self._name:  # ourselves, before the connection broke
                connection.execute("SELECT pg_terminate_backend(%s)", (holder[0],))
            time.sleep(0.4)
        name = "" if holder is None or holder[1] is None else holder[1]
        _, _, who = name.removeprefix("archspec ").partition(" ")
        raise SpecError(
            f"{self._where} is being searched by another driver ({who or 'unknown'})",
            hint="wait until it ends or stop it; another study or --seed shares its results at once",
        )

    def sign(self, connection: psycopg.Connection[Any]) -> None:
        """Put down who works on the search from now on."""
        row = (self._token, self._name, time.time())
        connection.execute("INSERT INTO drivers (token, name, at) VALUES (%s, %s, %s)", row)

    def close(self) -> None:
        """Give the lock back."""
        self._discard()

    def _discard(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(self._psycopg.Error):
                self._connection.close()
        self._connection = None


_HOLDER = """
SELECT activity.pid, activity.application_name
FROM pg_locks JOIN pg_stat_activity AS activity USING (pid)
WHERE locktype = 'advisory' AND granted AND objsubid = 1
  AND pg_locks.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND ((classid::bigint << 32) | objid::bigint) = %s
"""


def psycopg_or_error() -> Any:
    """The library, or an error that names the extra to install."""
    try:
        import psycopg
    except ImportError:
        raise SpecError(
            "a PostgreSQL storage needs psycopg, which is not installed",
            hint="pip install 'archspec-compiler[postgres]'",
        ) from None
    return psycopg
