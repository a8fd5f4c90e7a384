"""A ledger on a PostgreSQL server that many searches share, each in a schema of its own.

The schema ``archspec`` holds the list of searches and everybody's evidence; Optuna's study is beside them in
the database's default schema. A driver holds an advisory lock on its search, which dies with its session. A
connection that breaks is made anew for a limited time; whether a transaction that broke at its end was
committed is asked of the server (``txid_status``), so nothing is lost and nothing written twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from archspec.errors import SpecError
from search.ledgers import Statement
from search.ledgers.postgres_schema import EVIDENCE, make_search, require_search, schema_of
from search.ledgers.postgres_session import Session, psycopg_or_error
from search.storage import Storage

if TYPE_CHECKING:
    import psycopg

_PATIENCE_S = 60.0
_LONGEST_PAUSE_S = 2.0
_GONE = ("57P", "08")  # SQLSTATE of a server that goes down or comes up, of a connection that breaks

T = TypeVar("T")
Tell = Callable[[str], None]


class PostgresDatabase:
    """The search named ``search`` on the server; a writer makes what is not there and holds its lock.

    A search that ``is_known`` has to be there. ``tell`` hears of interruptions; ``patience_s`` is how long
    the server may be away.
    """

    shared_evidence: str | None = EVIDENCE
    arrival = "id"

    def __init__(
        self,
        storage: Storage,
        search: str,
        *,
        writable: bool = True,
        is_known: bool = False,
        tell: Tell = lambda text: None,
        patience_s: float = _PATIENCE_S,
    ):
        self.where = f"{storage.shown} (search {search})"
        self.writable = writable
        self._psycopg = psycopg_or_error()
        self._storage, self._tell, self._patience_s = storage, tell, patience_s
        self._session = Session(storage, schema_of(search), where=self.where, writable=writable)
        try:
            self._open(search, is_known=is_known or not writable)
        except BaseException:
            self.close()
            raise

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """What a query finds."""
        return self._persistently(lambda connection: connection.execute(_ours(sql), values).fetchall())

    def write(self, statements: Sequence[Statement]) -> None:
        """All statements in one transaction, or none; it is asked for before it is tried again."""
        begun: list[int] = []  # a transaction whose end was not heard of

        def once(connection: psycopg.Connection[Any]) -> None:
            if begun and self._is_committed(connection, begun[-1]):
                return
            with connection.transaction():
                ((number,),) = connection.execute("SELECT txid_current()").fetchall()
                begun.append(number)
                for sql, values in statements:
                    connection.execute(_ours(sql), [_storable(value) for value in values])

        self._persistently(once)

    def close(self) -> None:
        """Release the lock and the connection."""
        self._session.close()

    def _open(self, search: str, *, is_known: bool) -> None:
        try:
            connection = self._session.connect()
            if is_known:
                require_search(connection, search, where=self.where)
            if self.writable:
                make_search(connection, search, where=self.where)
                self._session.lock(connection)
                self._session.sign(connection)
        except self._psycopg.Error as error:
            raise SpecError(
                f"{self._storage.shown} cannot be used: {self._reason(error)}",
                hint="start the server or correct --storage; a password may be in PGPASSWORD or ~/.pgpass",
            ) from None

    def _persistently(self, work: Callable[[psycopg.Connection[Any]], T]) -> T:
        """``work`` on a connection that may break meanwhile, for as long as we are patient."""
        give_up, pause = 0.0, 0.1
        while True:
            try:
                with self._told():
                    found = work(self._session.connection or self._session.resume())
            except _Lost as lost:
                now = time.monotonic()
                if not give_up:
                    give_up = now + self._patience_s
                    self._tell(
                        f"{self._storage.shown} does not answer; waiting up to {self._patience_s:.0f} s"
                    )
                if now >= give_up:
                    raise SpecError(
                        f"{self._storage.shown} has not answered for {self._patience_s:.0f} s: {lost}",
                        hint="what is finished is safe; start the server, then run the same command again",
                    ) from None
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)
                continue
            if give_up:
                self._tell(f"{self._storage.shown} answers again")
            return found

    @contextmanager
    def _told(self) -> Iterator[None]:
        """A broken connection is ``_Lost``; what a living server refuses is the user's to know."""
        try:
            yield
        except self._psycopg.IntegrityError:
            raise
        except self._psycopg.Error as error:
            if self._session.connection is None or (error.sqlstate or "").startswith(_GONE):
                self._session.close()
                raise _Lost(self._reason(error)) from None
            raise SpecError(
                f"{self.where} cannot be {'written' if self.writable else 'read'}: {self._reason(error)}",
                hint="what is finished is safe; make room or give permission, then run it again",
            ) from None

    def _is_committed(self, connection: psycopg.Connection[Any], number: int) -> bool:
        """How a transaction ended; waits for the end of one whose session the server has not yet missed."""
        while True:
            ((status,),) = connection.execute("SELECT txid_status(%s)", (number,)).fetchall()
            if status != "in progress":
                return bool(status == "committed")
            time.sleep(0.1)

    def _reason(self, error: Exception) -> str:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return self._storage.without_secret(first)


class _Lost(Exception):
    """The server is gone, or the way to it."""


def _ours(sql: str) -> Any:
    return sql.replace("?", "%s")


def _storable(value: Any) -> Any:
    """PostgreSQL keeps no NUL and no half of a surrogate pair in a text."""
    if not isinstance(value, str):
        return value
    return value.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()
