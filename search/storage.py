"""``--storage``: the URL of a database, as it may be shown, kept in a file, and given to each library."""

from __future__ import annotations

from dataclasses import dataclass, field

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from archspec.errors import SpecError


@dataclass(frozen=True)
class Storage:
    """A URL of SQLAlchemy that can be read; its password is in ``for_optuna`` and ``for_libpq`` alone."""

    _url: URL = field(repr=False)

    @property
    def is_postgres(self) -> bool:
        """Whether the ledger can live there too."""
        return self._url.get_backend_name() == "postgresql"

    @property
    def shown(self) -> str:
        """For people and files: without the password."""
        query = {key: value for key, value in self._url.query.items() if key != "password"}
        url = URL.create(
            self._url.drivername, self._url.username, None, self._url.host, self._url.port, self._url.database
        )
        return url.set(query=query).render_as_string(hide_password=True)

    @property
    def for_optuna(self) -> str:
        """With a driver that we install, where none is named."""
        is_open = self._url.drivername == "postgresql"
        url = self._url.set(drivername="postgresql+psycopg") if is_open else self._url
        return url.render_as_string(hide_password=False)

    @property
    def for_libpq(self) -> str:
        """A connection URI of PostgreSQL's own library."""
        return self._url.set(drivername="postgresql").render_as_string(hide_password=False)

    def without_secret(self, text: str) -> str:
        """``text`` of somebody else with the password struck out."""
        secrets = {self._url.password, self._url.query.get("password")}
        for secret in secrets:
            if isinstance(secret, str) and secret:
                text = text.replace(secret, "***")
        return text


def parse_storage(url: str) -> Storage:
    """``SpecError`` if ``url`` is none."""
    try:
        if url.startswith("postgres://"):
            url = url.replace("postgres", "postgresql", 1)
        return Storage(make_url(url))
    except (ArgumentError, ValueError):
        raise SpecError(
            "--storage is no URL of a database",
            hint="sqlite:///study.db, or postgresql://user@host/database with the password in PGPASSWORD",
        ) from None
