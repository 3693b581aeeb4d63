"""Reading SQL databases of any make: only to be read, one state of each, and no query for longer than a site allows.

A password is never part of a message, and neither is what a database itself says of an error: that may quote a row.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from pmfed.errors import DataError

if TYPE_CHECKING:
    import sqlalchemy as sa

BATCH = 50_000
MINUTES = 30.0
"""How long a query may take where the site says nothing."""

_VARIABLE = re.compile(r"\$\{(\w+)\}")
_DRIVERS = {"postgresql": "postgresql+psycopg", "mssql": "mssql+pyodbc"}
_LEVELS = {"postgresql": "REPEATABLE READ", "mssql": "SNAPSHOT"}
"""Under which a transaction sees one state of the database, however long it lasts."""

_PACKAGES = {"postgresql": ("psycopg", "pip install 'pmfed[postgres]'"), "mssql": ("pyodbc", "pip install pyodbc")}


class DatabaseSession:
    """One state of a database, from the first query to `close`.

    Parameters
    ----------
    engine
        Of SQLAlchemy.
    name
        What messages call it.
    minutes
        How long a query may take.

    Guarantee
    ---------
    The transaction is read-only in PostgreSQL, the file is opened read-only in DuckDB: a query that would write fails.
    Elsewhere only the rights of the user keep it from writing; `may_write` tells.
    """

    def __init__(self, engine: sa.Engine, name: str, minutes: float = MINUTES) -> None:
        self.engine, self.name, self.minutes = engine, name, minutes
        self._open: sa.Connection | None = None
        self.shared = False

    @contextmanager
    def reading(self) -> Iterator[DatabaseSession]:
        """End the transaction afterwards, unless others within `one_state` read the same."""
        try:
            yield self
        finally:
            if not self.shared:
                self.give_up()

    def rows(self, query: Any) -> Iterator[Sequence[Any]]:
        """Yield the rows of a query, `BATCH` at a time; never all at once.

        Raises
        ------
        DataError
            The database failed, or took too long; only the kind of the error is told.
        """
        with self.safely():
            with self._timed():
                result = self._connection.execution_options(stream_results=True).execute(query)
            while True:
                with self._timed():
                    rows = result.fetchmany(BATCH)
                if not rows:
                    return
                yield rows

    def columns(self, query: Any) -> list[tuple[str, Any]]:
        """Return name and type of the columns that a query gives, as the driver tells them; DataError as `rows`."""
        with self.safely(), self._timed():
            result = self._connection.execute(query)
            described = result.cursor.description if result.cursor is not None else ()
            found = [(str(name), kind) for name, kind, *_ in described]
            result.close()
        return found

    @property
    def _connection(self) -> sa.Connection:
        if self._open is None:
            import sqlalchemy as sa

            kind = self.engine.dialect.name
            options: dict[str, Any] = {"isolation_level": _LEVELS[kind]} if kind in _LEVELS else {}
            if kind == "postgresql":
                options["postgresql_readonly"] = True
            self._open = self.engine.connect().execution_options(**options)
            if kind == "postgresql":
                most = int(self.minutes * 60_000)
                # the same rows in the same order when they are read again, instants in UTC
                for said in (
                    f"statement_timeout = {most}",
                    f"lock_timeout = {most}",
                    "synchronize_seqscans = off",
                    "TimeZone = 'UTC'",
                ):
                    self._open.execute(sa.text(f"SET LOCAL {said}"))
            elif kind == "mssql":
                self._open.connection.dbapi_connection.timeout = round(self.minutes * 60)  # type: ignore[union-attr]
        return self._open

    def may_write(self, schema: str | None, table: str) -> bool:
        """Return whether this user could change a table; False where the database does not tell."""
        import sqlalchemy as sa

        if self.engine.dialect.name != "postgresql":
            return False
        shown = ".".join('"' + part.replace('"', '""') + '"' for part in (schema, table) if part)
        rights = sa.func.has_table_privilege(shown, "INSERT, UPDATE, DELETE, TRUNCATE")
        return any(bool(one) for rows in self.rows(sa.select(rights)) for (one,) in rows)

    def close(self) -> None:
        """End the transaction."""
        if self._open is not None:
            self._open.close()
            self._open = None

    @contextmanager
    def _timed(self) -> Iterator[None]:
        """Interrupt DuckDB, which has no limit of its own."""
        stop = getattr(getattr(self._connection.connection, "driver_connection", None), "interrupt", None)
        if stop is None or self.engine.dialect.name != "duckdb":
            yield
            return
        timer = threading.Timer(self.minutes * 60, stop)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    @contextmanager
    def safely(self) -> Iterator[None]:
        """Turn whatever a database says into an error that tells only what kind it was."""
        import sqlalchemy as sa

        try:
            yield
        except (sa.exc.SQLAlchemyError, RuntimeError) as error:
            kind = type(getattr(error, "orig", None) or error).__name__
            late = kind in ("QueryCanceled", "LockNotAvailable") or "INTERRUPT" in str(error).upper()[:400]
            self.give_up()
            if late:
                raise DataError(
                    f"{self.name}: a query took longer than {self.minutes:g} minutes.",
                    "Allow more with timeout = MINUTES where the source is described, index what is asked for, or read a copy.",
                ) from None
            raise DataError(
                f"{self.name}: the database cannot be opened or read ({kind}).",
                "Is it running, is the password right, may this user read its tables, and does no other program hold it open?",
            ) from None

    def give_up(self) -> None:
        """Leave a transaction that failed."""
        import sqlalchemy as sa

        try:
            self.close()
        except (sa.exc.SQLAlchemyError, RuntimeError):
            self._open = None

    def __del__(self) -> None:
        self.give_up()
        self.engine.dispose()


_shared: ContextVar[dict[tuple[str, float], DatabaseSession] | None] = ContextVar("sessions", default=None)


@contextmanager
def one_state() -> Iterator[None]:
    """Within it whatever is read of one database, by however many readers, is read of one state of it."""
    if _shared.get() is not None:
        yield
        return
    held: dict[tuple[str, float], DatabaseSession] = {}
    token = _shared.set(held)
    try:
        yield
    finally:
        _shared.reset(token)
        for session in held.values():
            session.shared = False
            session.give_up()


def session_of(key: str, name: str, minutes: float, make: Any) -> DatabaseSession:
    """Return the session of a database, the same one within `one_state`; ``make`` makes its engine."""
    held = _shared.get()
    if held is None:
        return DatabaseSession(make(), name, minutes)
    if (key, minutes) not in held:
        held[key, minutes] = DatabaseSession(make(), name, minutes)
        held[key, minutes].shared = True
    return held[key, minutes]


def server(text: str, minutes: float = MINUTES) -> DatabaseSession:
    """Return the session of a server that an SQLAlchemy URL names.

    Raises
    ------
    DataError
        The URL cannot be read, is of a kind that is not known, or names a variable that is not set; or a package lacks.
    """
    import sqlalchemy as sa

    try:
        url = sa.make_url(text)
    except (sa.exc.ArgumentError, ValueError):
        raise DataError(
            "the URL of a database cannot be read.", "Write it as postgresql://USER:${PASSWORD}@HOST/DATABASE."
        ) from None
    kind = url.get_backend_name()
    if kind not in _DRIVERS:
        raise DataError(f"databases of kind '{kind}' cannot be read.", "PostgreSQL, DuckDB and SQL Server can.")
    url = url.set(
        username=_expanded(url.username),
        password=_expanded(str(url.password) if url.password is not None else None),
        host=_expanded(url.host),
        database=_expanded(url.database),
    )
    package, remedy = _PACKAGES[kind]
    driver = url.drivername.partition("+")[2]
    if not driver or kind == "postgresql":
        url = url.set(drivername=_DRIVERS[kind])
    elif driver != package:
        package, remedy = driver, f"pip install {driver}"

    def engine() -> sa.Engine:
        try:
            return sa.create_engine(url, hide_parameters=True)
        except ImportError:
            raise DataError(
                f"the package that reads {kind}, {package}, is not installed.", f"Install it: {remedy}."
            ) from None

    return session_of(text, f"the database '{url.database}'", minutes, engine)


def duckdb_file(path: str, name: str, minutes: float = MINUTES) -> DatabaseSession:
    """Return the session of a DuckDB file."""
    return session_of(path, name, minutes, lambda: duckdb_engine(path, read_only=True))


def duckdb_engine(path: str, read_only: bool) -> sa.Engine:
    """Return the engine of a DuckDB file, or of ``:memory:``, which opens no network."""
    import sqlalchemy as sa
    from sqlalchemy.pool import StaticPool

    closed = {"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"}
    arguments: dict[str, Any] = {"config": closed} | ({"read_only": True} if read_only else {})
    # a database in memory belongs to its one connection
    pool: dict[str, Any] = {} if read_only else {"poolclass": StaticPool}
    url = sa.URL.create("duckdb", database=path)
    engine = sa.create_engine(url, connect_args=arguments, hide_parameters=True, **pool)

    @sa.event.listens_for(engine, "connect")
    def quieten(connection: Any, _: object) -> None:
        connection.cursor().execute("SET enable_progress_bar = false")

    return engine


def require() -> None:
    """Refuse to go on without the packages that read databases."""
    try:
        import duckdb_engine  # noqa: F401
        import sqlalchemy  # noqa: F401
    except ImportError:
        raise DataError(
            "the packages that read databases are not installed.", "Install them: pip install 'pmfed[ehr]'."
        ) from None


def _expanded(text: str | None) -> str | None:
    """Put the environment's variables in."""
    if text is None:
        return None
    for name in _VARIABLE.findall(text):
        if name not in os.environ:
            raise DataError(
                f"the URL of a database names the environment variable {name}, which is not set.", f"Set {name}."
            )
    return _VARIABLE.sub(lambda match: os.environ[match.group(1)], text)
