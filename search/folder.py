"""The folder of a search: made, locked for one driver, and written to in whole files only."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from archspec.errors import SpecError
from search.ledger import FILE_NAME, Ledger
from search.lock import FolderLock


@contextlib.contextmanager
def open_folder(out: Path) -> Iterator[Ledger]:
    """The ledger of ``out``, for this driver alone; the folder is made if it is not there."""
    with contextlib.ExitStack() as stack:
        try:
            out.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FolderLock(out))
        except OSError as error:
            raise _unwritable(out, error) from error
        ledger = Ledger(out / FILE_NAME)
        stack.callback(ledger.close)
        yield ledger


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
