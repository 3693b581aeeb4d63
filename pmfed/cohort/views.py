"""Views of SQL databases as tables: the same columns as a file's, whatever the database calls their types."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from pmfed.cohort.columns import check_columns
from pmfed.cohort.contract.written import View, ViewPath
from pmfed.cohort.sql import DatabaseSession, duckdb_file, require, server
from pmfed.errors import DataError

if TYPE_CHECKING:
    import sqlalchemy as sa

_ZONED = (1184, "TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ")  # as psycopg and DuckDB tell it


def view_header(path: ViewPath) -> list[str]:
    """Return the names of a view's columns.

    Raises
    ------
    DataError
        The database cannot be read, or has no such view.
    """
    with _session(path.view).reading() as session:
        return [name for name, _ in _columns(session, path.view)]


def view_rows(path: ViewPath, columns: Sequence[str], also: Sequence[str], whole: bool) -> Iterator[pd.DataFrame]:
    """Yield columns of a view; see `pmfed.cohort.table_rows.batches`. Rows are numbered in the order of their cells.

    Raises
    ------
    DataError
        The database cannot be read, has no such view, or columns lack.
    """
    with _session(path.view).reading() as session:
        yield from _rows(session, path, list(dict.fromkeys(columns)), also, whole)


def _rows(
    session: DatabaseSession, path: ViewPath, columns: list[str], also: Sequence[str], whole: bool
) -> Iterator[pd.DataFrame]:
    import sqlalchemy as sa

    kinds = dict(_columns(session, path.view))
    wanted = check_columns(path, list(kinds), columns, also)
    rest = [name for name in kinds if whole and name not in wanted]
    clause = _clause(path.view, list(kinds))
    cells = [_cell(clause.c[name], kinds[name]) for name in (*wanted, *rest)]
    # read again, the rows stand in the same order: a database keeps none by itself
    query: sa.Select[Any] = sa.select(*cells).order_by(*(clause.c[name] for name in wanted))
    names, row = [*wanted, *(f"\x1f{name}" for name in rest)], 1
    for rows in session.rows(query):
        listed = list(zip(*rows, strict=True))
        frame = pd.DataFrame(
            {name: _series(found, kinds[key]) for name, found, key in zip(names, listed, (*wanted, *rest), strict=True)}
        )
        frame.index = pd.RangeIndex(row, row + len(frame))
        row += len(frame)
        yield frame
    if row == 1:  # of a table without rows its columns are told
        yield pd.DataFrame({name: pd.Series(dtype="str") for name in names})


def _session(view: View) -> DatabaseSession:
    require()
    if view.database.startswith("duckdb:"):
        file = Path(view.database.removeprefix("duckdb:///"))
        if not file.is_file():
            raise DataError(f"{file}: there is no such file.", "Check the URL in [data] of site.toml.")
        return duckdb_file(str(file.resolve()), str(file), view.timeout)
    return server(view.database, view.timeout)


def _clause(view: View, columns: Sequence[str]) -> sa.TableClause:
    import sqlalchemy as sa

    schema, _, name = view.view.rpartition(".")
    return sa.table(name, *(sa.column(one) for one in columns), schema=schema or None)


def _columns(session: DatabaseSession, view: View) -> list[tuple[str, Any]]:
    """Return name and type of each column, as the driver tells them."""
    import sqlalchemy as sa

    query: sa.Select[Any] = (
        sa.select(sa.literal_column("*"))
        .select_from(_clause(view, []))
        .where(sa.literal_column("1") == sa.literal_column("0"))
    )
    return session.columns(query)


def _zoned(kind: Any) -> bool:
    return kind == _ZONED[0] or str(kind).upper() in _ZONED[1:]


def _cell(column: sa.ColumnElement[Any], kind: Any) -> sa.ColumnElement[Any]:
    """Return what is asked for: instants by their seconds, which drivers show where the process thinks it is."""
    import sqlalchemy as sa

    return sa.extract("epoch", column) if _zoned(kind) else column


def _series(cells: Sequence[Any], kind: Any) -> pd.Series:
    """Return cells as numbers where all of them are, otherwise as text; nothing for NULL."""
    if _zoned(kind):
        return pd.Series(["" if one is None else _instant(float(one)) for one in cells], dtype="str")
    kinds = {type(one) for one in cells if one is not None}
    if kinds == {bool}:
        return pd.Series(cells, dtype="boolean")
    if kinds == {int} and all(one is None or abs(one) < 2**63 for one in cells):
        return pd.Series(cells, dtype="Int64")
    if kinds and kinds <= {float, Decimal, int} and any(map(_broken, cells)):
        return pd.Series([None if one is None else float(one) for one in cells], dtype="float64")
    return pd.Series(["" if one is None else _text(one) for one in cells], dtype="str")


def _broken(value: Any) -> bool:
    """Return whether a number has decimals; whole ones may be ids of many digits."""
    return isinstance(value, float) or (isinstance(value, Decimal) and value != value.to_integral_value())


def _instant(seconds: float) -> str:
    return f"{datetime(1970, 1, 1) + timedelta(microseconds=round(seconds * 1e6)):%Y-%m-%dT%H:%M:%S.%f}Z"


def _text(value: Any) -> str:
    if isinstance(value, datetime):
        day = value.tzinfo is None and value.time() == time(0)
        return value.date().isoformat() if day else value.isoformat()
    return value.isoformat() if isinstance(value, date | time) else str(value)
