"""Databases of health records: DuckDB files, folders of tables read through DuckDB, and PostgreSQL servers."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pmfed.cohort.contract.written import PLAIN, Written
from pmfed.cohort.detected import is_utf8
from pmfed.cohort.sql import MINUTES, DatabaseSession, duckdb_engine, duckdb_file, require, server
from pmfed.cohort.table_rows import read_head
from pmfed.errors import DataError

if TYPE_CHECKING:
    import sqlalchemy as sa

_TABLES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet", ".pq")
_WORDS = frozenset({"vocabulary_id", "domain_id", "concept_class_id", "relationship_id"})
_NUMBERS = frozenset({"year_of_birth", "month_of_birth", "day_of_birth", "concept_id_1", "concept_id_2"})


class DatabaseTable:
    """A table of the database with the columns it has, and their types; one it lacks is NULL in every row."""

    def __init__(self, clause: sa.TableClause, columns: dict[str, str], kinds: dict[str, str]) -> None:
        self.clause, self._columns, self._kinds = clause, columns, kinds

    @property
    def schema(self) -> str | None:
        """The schema it is in; None for the database's own default."""
        return getattr(self.clause, "schema", None)

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
    session
        One state of it.
    schemas
        Where to look for tables, in order; empty for the database's own default.

    Raises
    ------
    DataError
        It cannot be reached or listed.
    """

    def __init__(self, session: DatabaseSession, schemas: Sequence[str] = ()) -> None:
        self.session, self.name = session, session.name
        self.tables: dict[str, DatabaseTable] = {}
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
                self.tables.setdefault(table.lower(), DatabaseTable(clause, columns, kinds))

    def rows(self, query: sa.Select[Any]) -> Iterator[Sequence[Any]]:
        """Return the rows of a query, batch by batch; never all at once.

        Raises
        ------
        DataError
            The database failed; only the kind of the error is told.
        """
        return self.session.rows(query)

    def holds(self, table: str) -> bool:
        """Return whether a table is there and has a row."""
        import sqlalchemy as sa

        if table not in self.tables:
            return False
        query = sa.select(sa.literal(1)).select_from(self.tables[table].clause).limit(1)
        return any(len(rows) for rows in self.rows(query))


def among(values: Sequence[int] | Sequence[str]) -> sa.ScalarSelect[Any]:
    """Return a list of any length as a subquery: ``column.in_(among(ids))`` is a hash join in either database."""
    import sqlalchemy as sa
    from sqlalchemy.dialects.postgresql import ARRAY

    kind: Any = sa.Text if values and isinstance(values[0], str) else sa.BigInteger
    return sa.select(sa.func.unnest(sa.bindparam(None, list(values), type_=ARRAY(kind)))).scalar_subquery()


def open_database(
    where: Path | str, schemas: Sequence[str] = (), written: Written = PLAIN, minutes: float = MINUTES
) -> Database:
    """Open a DuckDB file, a folder of tables or an SQLAlchemy URL to be read.

    Parameters
    ----------
    where, schemas
        The place, and where in it to look for tables.
    written
        How a folder's text files are written.
    minutes
        How long a query may take.

    Raises
    ------
    DataError
        A package is missing, or the database cannot be opened.
    """
    require()
    if isinstance(where, str) and not where.startswith("duckdb:"):
        if (kind := where.partition(":")[0].partition("+")[0]) == "mssql":
            raise DataError(f"OMOP in databases of kind '{kind}' cannot be read.", "PostgreSQL and DuckDB can.")
        return Database(server(where, minutes), schemas)
    path = Path(where.removeprefix("duckdb:///")) if isinstance(where, str) else where
    if path.is_dir():
        return _folder(path, written, minutes)
    if not path.is_file():
        raise DataError(f"{path}: there is no such file or folder.", "Check the path in [data] of site.toml.")
    return Database(duckdb_file(str(path.resolve()), str(path), minutes), schemas)


def _folder(folder: Path, written: Written, minutes: float) -> Database:
    """Show the files of a folder as tables, their ids typed by OMOP's rules for names.

    Dates and numbers stay as they are written: what reads them is the same for every source.
    """
    import sqlalchemy as sa

    root = os.path.realpath(folder)
    engine = duckdb_engine(":memory:", read_only=False)
    session = DatabaseSession(engine, str(folder), minutes)
    with session.safely(), engine.begin() as connection:
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
    return Database(session)


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
