"""The folder of a search: made, locked for one driver, and written to in whole files only.

Its ledger is a file in it, or on a PostgreSQL server; then ``storage.json`` says where, without the password.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from archspec.errors import SpecError
from search.ledger import FILE_NAME, Ledger
from search.ledgers.postgres import PostgresDatabase
from search.lock import FolderLock
from search.storage import Storage, parse_storage

_RECORD = "storage.json"


@dataclass(frozen=True)
class OpenFolder:
    """A folder that is this driver's, and the URL to mirror its search to, if any."""

    ledger: Ledger
    mirror: Storage | None
    search: str  # its name among those of a server; "" for a file


@contextlib.contextmanager
def open_folder(
    out: Path,
    *,
    storage: str | None = None,
    search: str = "",
    tell: Callable[[str], None] = lambda text: None,
) -> Iterator[OpenFolder]:
    """The folder ``out`` for this driver alone; it is made if it is not there.

    A ``storage`` on PostgreSQL holds the ledger too: that of the search which the folder has recorded, else
    the one named ``search``. ``tell`` hears of a server's interruptions.
    """
    mirror = None if storage is None else parse_storage(storage)
    with contextlib.ExitStack() as stack:
        try:
            out.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FolderLock(out))
        except OSError as error:
            raise _unwritable(out, error) from error
        server, recorded = _recorded(out)
        if mirror is not None and mirror.is_postgres:
            server = mirror
        if server is None:
            ledger, name = Ledger(out / FILE_NAME), ""
        else:
            if (out / FILE_NAME).exists():
                raise SpecError(
                    f"{out} holds a search whose ledger is a file",
                    hint="choose another --out to search on a server, or go on here without --storage",
                )
            name = recorded or search
            ledger = Ledger(PostgresDatabase(server, name, is_known=bool(recorded), tell=tell))
            record = {"storage": server.shown, "search": name}
            write_whole(out / _RECORD, json.dumps(record, indent=2) + "\n")
        stack.callback(ledger.close)
        yield OpenFolder(ledger, mirror or server, name)


def read_ledger(folder: Path) -> Ledger:
    """The ledger of the search in ``folder``, to read only; ``SpecError`` if there is none."""
    server, search = _recorded(folder)
    if server is None:
        return Ledger(folder / FILE_NAME, writable=False)
    return Ledger(PostgresDatabase(server, search, writable=False))


def holds_search(folder: Path) -> bool:
    """Whether a search was begun in ``folder``."""
    return (folder / FILE_NAME).is_file() or (folder / _RECORD).is_file()


def _recorded(folder: Path) -> tuple[Storage | None, str]:
    """The server and the name of the folder's search; no server where its ledger is a file."""
    path = folder / _RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return parse_storage(record["storage"]), str(record["search"])
    except FileNotFoundError:
        return None, ""
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SpecError(
            f"{path} cannot be read: {error}", hint="restore it, or choose another --out"
        ) from None


def write_whole(path: Path, text: str) -> None:
    """``text`` into ``path``: all of it, or what was there before."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> SpecError:
    return SpecError(
        f"{path} cannot be written: {error.strerror or error}",
        hint="choose another --out, make room, or give permission",
    )
