"""Databases of health records: DuckDB files, folders of tables read through DuckDB, and PostgreSQL servers.

Everything is opened to be read, never to be written. A password is never part of a message, and neither is what the
database itself says of an error: that may quote a row.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pmfed.cohort.contract.written import PLAIN, Written
from pmfed.cohort.detected import is_utf8
from pmfed.cohort.table_rows import read_head
from pmfed.errors import DataError

if TYPE_CHECKING:
    import sqlalchemy as sa

BATCH = 50_000

_VARIABLE = re.compile(r"\$\{(\w+)\}")
_TABLES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet", ".pq")
_WORDS = frozenset({"vocabulary_id", "domain_id", "concept_class_id", "relationship_id"})
_NUMBERS = frozenset({"year_of_birth", "month_of_birth", "day_of_birth", "concept_id_1", "concept_id_2"})


class Table:
    """A table of the database with the columns it has, and their types; one it lacks is NULL in every row."""

    def __init__(self, clause: sa.TableClause, columns: dict[str, str], kinds: dict[str, str]) -> None:
        self.clause, self._columns, self._kinds = clause, columns, kinds

    @property
    def names(self) -> list[str]:
        """The columns, in small letters."""
        return list(self._columns)

    def written(self, name: str) -> bool:
        """Return whether a column holds text."""
        return self._kinds.get(name, "").startswith(("char", "varchar", "text", "string"))

    def zoned(self, name: str) -> bool:
        """Return whether a column holds instants with a time zone: the same wherever they are shown."""
        return "with time zone" in self._kinds.get(name, "") or "timestamptz" in self._kinds.get(name, "")

    def __contains__(self, name: str) -> bool:
        return name in self._columns

    def __getitem__(self, name: str) -> sa.ColumnElement[Any]:
        import sqlalchemy as sa

        return self.clause.c[self._columns[name]] if name in self._columns else sa.null()


class Database:
    """An open database.

    Parameters
    ----------
    engine
        Of SQLAlchemy.
    name
        What messages call it.
    schemas
        Where to look for tables, in order; empty for the database's own default.

    Raises
    ------
    DataError
        It cannot be reached or listed.
    """

    def __init__(self, engine: sa.Engine, name: str, schemas: Sequence[str] = ()) -> None:
        self.engine, self.name = engine, name
        self.tables: dict[str, Table] = {}
        self._list(schemas)

    def _list(self, schemas: Sequence[str]) -> None:
        import sqlalchemy as sa

        known = sa.table(
            "columns",
            *(sa.column(name) for name in ("table_catalog", "table_schema", "table_name", "column_name", "data_type")),
            schema="information_schema",
        )
        for schema in schemas or (None,):
            own = known.c.table_schema == (schema if schema else sa.func.current_schema())
            query = sa.select(known.c.table_name, known.c.column_name, known.c.data_type).where(
                own, known.c.table_catalog == sa.func.current_database()
            )
            found: dict[str, dict[str, tuple[str, str]]] = {}
            for table, column, kind in (row for rows in self.rows(query) for row in rows):
                found.setdefault(table, {})[column.lower()] = (column, str(kind).lower())
            for table, told in sorted(found.items()):
                columns = {low: name for low, (name, _) in told.items()}
                clause = sa.table(table, *(sa.column(name) for name in columns.values()), schema=schema)
                kinds = {low: kind for low, (_, kind) in told.items()}
                self.tables.setdefault(table.lower(), Table(clause, columns, kinds))

    def rows(self, query: sa.Select[Any]) -> Iterator[Sequence[Any]]:
        """Yield the rows of a query, `BATCH` at a time; never all at once.

        Raises
        ------
        DataError
            The database failed; only the kind of the error is told.
        """
        with _safely(self.name), self.engine.connect() as connection:
            if self.engine.dialect.driver == "psycopg":
                connection = connection.execution_options(postgresql_readonly=True)
            result = connection.execution_options(stream_results=True).execute(query)
            yield from result.partitions(BATCH)

    def holds(self, table: str) -> bool:
        """Return whether a table is there and has a row."""
        import sqlalchemy as sa

        if table not in self.tables:
            return False
        query = sa.select(sa.literal(1)).select_from(self.tables[table].clause).limit(1)
        return any(len(rows) for rows in self.rows(query))

    def __del__(self) -> None:
        engine = getattr(self, "engine", None)
        if engine is not None:
            engine.dispose()


def among(values: Sequence[int] | Sequence[str]) -> sa.ScalarSelect[Any]:
    """Return a list of any length as a subquery: ``column.in_(among(ids))`` is a hash join in either database."""
    import sqlalchemy as sa
    from sqlalchemy.dialects.postgresql import ARRAY

    kind: Any = sa.Text if values and isinstance(values[0], str) else sa.BigInteger
    return sa.select(sa.func.unnest(sa.bindparam(None, list(values), type_=ARRAY(kind)))).scalar_subquery()


def open_database(where: Path | str, schemas: Sequence[str] = (), written: Written = PLAIN) -> Database:
    """Open a DuckDB file, a folder of tables or an SQLAlchemy URL to be read; ``written`` is of a folder's text files.

    Raises
    ------
    DataError
        A package is missing, or the database cannot be opened.
    """
    try:
        import duckdb_engine  # noqa: F401
        import sqlalchemy  # noqa: F401
    except ImportError:
        raise DataError(
            "the packages that read databases are not installed.", "Install them: pip install 'pmfed[ehr]'."
        ) from None
    if isinstance(where, str):
        return _server(where, schemas)
    if where.is_dir():
        return _folder(where, written)
    if not where.is_file():
        raise DataError(f"{where}: there is no such file or folder.", "Check the path in [data] of site.toml.")
    return Database(_duckdb(str(where.resolve()), read_only=True), str(where), schemas)


def _duckdb(path: str, read_only: bool) -> sa.Engine:
    import sqlalchemy as sa
    from sqlalchemy.pool import StaticPool

    closed = {"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"}  # no network
    arguments: dict[str, Any] = {"config": closed} | ({"read_only": True} if read_only else {})
    # a database in memory belongs to its one connection
    pool: dict[str, Any] = {} if read_only else {"poolclass": StaticPool}
    url = sa.URL.create("duckdb", database=path)
    engine = sa.create_engine(url, connect_args=arguments, hide_parameters=True, **pool)

    @sa.event.listens_for(engine, "connect")
    def quieten(connection: Any, _: object) -> None:
        connection.cursor().execute("SET enable_progress_bar = false")

    return engine


def _folder(folder: Path, written: Written) -> Database:
    """Show the files of a folder as tables, their ids typed by OMOP's rules for names.

    Dates and numbers stay as they are written: what reads them is the same for every source.
    """
    import sqlalchemy as sa

    root = os.path.realpath(folder)
    engine = _duckdb(":memory:", read_only=False)
    with _safely(str(folder)), engine.begin() as connection:
        for path in sorted(folder.iterdir()):
            if not path.name.lower().endswith(_TABLES):
                continue
            real = os.path.realpath(path)
            if os.path.commonpath([root, real]) != root:
                raise DataError(f"{folder}: a table is a link out of the folder.", "Put the file itself there.")
            table = path.name.lower().split(".")[0]
            quoted = "'" + real.replace("'", "''") + "'"
            parquet = path.suffix.lower() in (".parquet", ".pq")
            scan = f"read_parquet({quoted})" if parquet else _scan(quoted, path, written)
            columns = [row[0] for row in connection.execute(sa.text(f"DESCRIBE SELECT * FROM {_plain(scan)}"))]
            _check_ids(connection, path, scan, columns)
            typed = ", ".join(f"{_cast(one, parquet)} AS {_name(one.lower())}" for one in columns)
            connection.execute(sa.text(f"CREATE VIEW {_name(table)} AS SELECT {typed} FROM {_plain(scan)}"))
    return Database(engine, str(folder))


def _scan(quoted: str, path: Path, written: Written) -> str:
    mark = read_head(path, written).separator
    encoding = "" if is_utf8(written.encoding) else f", encoding='{written.encoding}'"
    return f"read_csv({quoted}, all_varchar=true, header=true, delim='{mark}'{encoding})"


def _check_ids(connection: sa.Connection, path: Path, scan: str, columns: Sequence[str]) -> None:
    """Refuse ids of persons that are no whole numbers, or were cut by a spreadsheet."""
    import sqlalchemy as sa

    for column in columns:
        if column.lower() != "person_id":
            continue
        text = f"CAST({_name(column)} AS VARCHAR)"
        query = f"SELECT count(*) FROM {_plain(scan)} WHERE NOT regexp_full_match(coalesce({text}, ''), '(-?[0-9]+([.]0+)?)?')"
        if odd := int(connection.execute(sa.text(query)).scalar() or 0):
            raise DataError(
                f"{path}: column 'person_id': {odd:,} {'cell' if odd == 1 else 'cells'} with no whole number.",
                "OMOP's ids of persons are whole numbers; a spreadsheet cuts long ones (1.23E+18): export them as text.",
            )


def _plain(scan: str) -> str:
    return scan.replace(":", "\\:")  # which SQLAlchemy would take for a parameter


def _name(word: str) -> str:
    return '"' + word.replace('"', '""').replace(":", "\\:") + '"'


def _cast(column: str, parquet: bool) -> str:
    """Return a column as it is shown: ids as whole numbers, dates and numbers as the file has them."""
    name = column.lower()
    if name in _NUMBERS or (name.endswith("_id") and name not in _WORDS):
        return f"TRY_CAST({_name(column)} AS BIGINT)"
    if parquet and (name.endswith(("_datetime", "_date")) or name == "value_as_number"):
        return _name(column)
    return f"CAST({_name(column)} AS VARCHAR)"


def _server(text: str, schemas: Sequence[str]) -> Database:
    import sqlalchemy as sa

    try:
        url = sa.make_url(text)
    except (sa.exc.ArgumentError, ValueError):
        raise DataError(
            "the URL of a database cannot be read.", "Write it as postgresql://USER:${PASSWORD}@HOST/DATABASE."
        ) from None
    kind = url.get_backend_name()
    if kind not in ("postgresql", "duckdb"):
        raise DataError(f"databases of kind '{kind}' cannot be read.", "PostgreSQL and DuckDB can.")
    url = url.set(
        username=_expanded(url.username),
        password=_expanded(str(url.password) if url.password is not None else None),
        host=_expanded(url.host),
        database=_expanded(url.database),
    )
    if kind == "duckdb":
        return open_database(Path(url.database or ""), schemas)
    try:
        import psycopg  # noqa: F401
    except ImportError:
        raise DataError(
            "the package that reads PostgreSQL is not installed.", "Install it: pip install 'pmfed[postgres]'."
        ) from None
    engine = sa.create_engine(url.set(drivername="postgresql+psycopg"), hide_parameters=True)
    return Database(engine, f"the database '{url.database}'", schemas)


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


@contextmanager
def _safely(name: str) -> Iterator[None]:
    """Turn whatever a database says into an error that tells only what kind it was."""
    import sqlalchemy as sa

    try:
        yield
    except sa.exc.SQLAlchemyError as error:
        kind = type(getattr(error, "orig", None) or error).__name__
        raise DataError(
            f"{name}: the database cannot be opened or read ({kind}).",
            "Is it running, is the password right, may this user read its tables, and does no other program hold it open?",
        ) from None
