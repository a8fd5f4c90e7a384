"""One driver per result folder: an advisory lock that dies with its process, and says who holds it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import IO

import psutil

from archspec.errors import SpecError

_NETWORK_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "9p", "lustre", "gpfs", "beegfs", "fuse.sshfs", "ceph"}
)


class FolderLock:
    """Held from ``__enter__`` to ``__exit__``; a second driver gets a ``SpecError`` that names the holder.

    The operating system releases the lock of a killed process, so nothing goes stale on one machine. In a
    network folder, a lock that another machine wrote cannot be checked from here and is believed.
    """

    def __init__(self, folder: Path):
        self._path = folder / "search.lock"
        self._file: IO[str] | None = None

    def __enter__(self) -> FolderLock:
        file = self._path.open("a+", encoding="utf-8")
        holder = _read(file)
        if not _try_lock(file):
            file.close()
            raise SpecError(
                f"{self._path.parent} is being searched by another driver ({_who(holder)})",
                hint="wait until it ends, stop it, or choose another --out",
            )
        if holder and holder.get("host") != socket.gethostname() and on_network(self._path):
            file.close()
            raise SpecError(
                f"{self._path.parent} was left locked by another machine ({_who(holder)})",
                hint=f"if nothing runs there any more, delete {self._path}",
            )
        _write(file, {"pid": os.getpid(), "host": socket.gethostname(), "since": round(time.time())})
        self._file = file
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._file is not None
        _write(self._file, {})
        self._file.close()
        self._file = None


def is_held(folder: Path) -> bool:
    """Whether a driver on this machine has ``folder`` now, or one elsewhere says so."""
    try:
        file = (folder / "search.lock").open("r+", encoding="utf-8")
    except OSError:
        return False
    with file:
        holder = _read(file)
        if holder and holder.get("host") != socket.gethostname():
            return True
        return not _try_lock(file)  # a lock that was got goes with the file


def _try_lock(file: IO[str]) -> bool:
    if sys.platform == "win32":  # no flock there: the folder is protected by its pid and host alone
        return True
    import fcntl

    with contextlib.suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def _read(file: IO[str]) -> dict[str, object]:
    file.seek(0)
    try:
        found = json.loads(file.read(10_000) or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _write(file: IO[str], holder: dict[str, object]) -> None:
    file.seek(0)
    file.truncate()
    file.write(json.dumps(holder))
    file.flush()
    os.fsync(file.fileno())


def _who(holder: dict[str, object]) -> str:
    return f"process {holder.get('pid', 'unknown')} on {holder.get('host', 'an unknown machine')}"


def on_network(path: Path) -> bool:
    """Whether ``path`` is on a network file system, where SQLite's write-ahead log is not safe."""
    folder = path.resolve().parent
    mounts = {part.mountpoint: part.fstype for part in psutil.disk_partitions(all=True)}
    for place in (folder, *folder.parents):
        if (kind := mounts.get(str(place))) is not None:
            return kind in _NETWORK_FILE_SYSTEMS
    return False
