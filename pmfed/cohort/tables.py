"""Hospital tables: CSV, TSV, Parquet and spreadsheets into data frames, with errors a person can act on.

Nothing here ever puts a cell of a table into a message: counts, row numbers and column names only.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pmfed.cohort.contract.identity import SeenRows, row_digests
from pmfed.cohort.contract.numbers import MISSING, Values, read_value, read_values
from pmfed.cohort.contract.times import Dated, dated
from pmfed.cohort.contract.written import PLAIN, Written
from pmfed.cohort.table_rows import batches
from pmfed.errors import DataError

__all__ = [
    "MISSING",
    "Problems",
    "check_ids",
    "count",
    "dates_of",
    "decimal_comma",
    "first_row",
    "labels",
    "number",
    "read_table",
    "repeated",
    "values_of",
]

_CUT = re.compile(r"\d([.,]\d+)?[eE]\+?\d+", re.ASCII)  # 1.23E+11
_GUARDED = re.compile(r'="([^"]*)"')
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")


class Problems:
    """What is wrong with a site's files, gathered so that it can be reported all at once.

    Parameters
    ----------
    site
        Name of the site, put before the report.
    """

    def __init__(self, site: str) -> None:
        self.site = site
        self._found: list[DataError] = []

    def __bool__(self) -> bool:
        return bool(self._found)

    def add(self, what: str, remedy: str = "") -> None:
        """Note one problem."""
        self.note(DataError(what, remedy))

    def note(self, error: DataError) -> None:
        """Note one problem that was raised as an error."""
        self._found.append(error)

    def raise_any(self) -> None:
        """Raise one DataError that lists every problem noted so far; do nothing when there is none."""
        if not self._found:
            return
        lines = list(dict.fromkeys(error.what for error in self._found))
        remedies = list(dict.fromkeys(error.remedy for error in self._found if error.remedy))
        if len(lines) == 1:
            raise DataError(f"site '{self.site}': {lines[0]}", " ".join(remedies))
        listed = "\n".join(f"  - {line}" for line in lines)
        raise DataError(f"site '{self.site}': {len(lines)} problems:\n{listed}", "\n  ".join(remedies))


def read_table(path: Path, columns: Sequence[str], also: Sequence[str] = ()) -> pd.DataFrame:
    """Read some columns of a table.

    Parameters
    ----------
    path
        ``.csv``, ``.csv.gz``, ``.tsv``, ``.tsv.gz`` (UTF-8, first line is the header), ``.parquet`` or ``.xlsx``; a
        `WrittenPath` says how it is written where it is written otherwise.
    columns
        Columns that must be there.
    also
        Columns that are read where the table has them.

    Returns
    -------
    DataFrame
        The columns in the order asked for. Cells of text files stay text (so ``007`` is not 7); Parquet
        numbers stay numbers. The index is the row's number in the file, a text file's header being row 1.

    Raises
    ------
    DataError
        The file is missing, of another kind, separated by something else, damaged, or lacks columns.
    """
    return pd.concat(list(batches(path, columns, also)))


def repeated(path: Path, frame: pd.DataFrame) -> NDArray[np.bool_]:
    """Return which rows of a table repeat an earlier one, (T,) bool: all of their columns, read or not, are the same.

    Parameters
    ----------
    path, frame
        The file, and what `read_table` gave of it.
    """
    if not frame.duplicated().any():
        return np.zeros(len(frame), dtype=bool)
    seen = SeenRows()
    return np.concatenate(
        [~seen.new(row_digests(part)) for part in batches(path, [str(name) for name in frame], whole=True)]
    )


def values_of(column: pd.Series, written: Written = PLAIN, name: str = "", *, united: bool = False) -> Values:
    """Return a column as values, one per cell; see `read_value`.

    Parameters
    ----------
    column, written, name
        The cells, how the table is written, and what the column is called there.
    united
        Whether a column of its own holds the unit.
    """
    nothing = written.nothing(name)
    if pd.api.types.is_bool_dtype(column.dtype) or pd.api.types.is_numeric_dtype(column.dtype):
        plain: NDArray[np.float64] = column.to_numpy(dtype=np.float64, na_value=np.nan).copy()
        for code in nothing:
            plain[plain == read_value(code).number] = np.nan
        return Values.of(plain)
    if column.dtype == object and column.map(type).isin((bool, type(None))).all():
        return values_of(column.astype("boolean"), written, name, united=united)
    codes, texts = labels(column)
    return read_values(texts or [""], written.decimal, written.thousands, united, nothing).take(codes)


def dates_of(column: pd.Series, written: Written, name: str, zone: ZoneInfo | None = None) -> Dated:
    """Return what the dates of a column may mean, one per cell; ``zone``, where the hospital is, is else the table's."""
    nothing = written.nothing(name)
    codes, texts = labels(column)
    told = ["" if text in nothing else text for text in texts]
    return dated(told or [""], written.dates, zone or written.zone).take(codes)


def number(
    column: pd.Series, written: Written = PLAIN, name: str = ""
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return a column as numbers.

    Returns
    -------
    values : (T,) float64
        NaN where a cell is missing or holds no number.
    wrong : (T,) bool
        Where a cell holds something that is neither a plain number nor a sign for "missing": a limit or a number with
        its unit is none here.
    """
    found = values_of(column, written, name)
    odd = (found.limit != 0) | (found.unit != 0) | (found.why != 0)
    return np.where(odd, np.nan, found.number), odd


def labels(column: pd.Series) -> tuple[NDArray[np.int64], list[str]]:
    """Return a column as text, each distinct text once.

    Returns
    -------
    codes : (T,) int64
        Which text each row holds.
    texts : list of str
        The distinct texts, stripped; whole numbers without a decimal point; "" for an empty cell.
    """
    codes, distinct = pd.factorize(column, use_na_sentinel=True)
    raw = [_text(value) for value in distinct.tolist()]
    if (codes < 0).any():
        raw.append("")  # an empty cell's code, -1, picks the last
    merged, texts = pd.factorize(np.array(raw, dtype=object))
    return merged.astype(np.int64)[codes], [str(text) for text in texts]


def _text(value: object) -> str:
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(float(value))  # NumPy would name its type
    text = str(value).strip()
    guarded = _GUARDED.fullmatch(text)  # which keeps Excel from taking an id for a number
    return guarded[1].strip() if guarded else text


def check_ids(path: Path, column: str, frame: pd.DataFrame) -> None:
    """Refuse ids that a spreadsheet or a column of decimal numbers has cut: what is left of them may be another's.

    Raises
    ------
    DataError
        An id is written as ``1.23E+11``, or is a decimal number of more digits than those hold.
    """
    cells = frame[column]
    if pd.api.types.is_float_dtype(cells.dtype):
        cut = cells.abs().to_numpy(dtype=np.float64, na_value=0.0) >= 2**53
    elif pd.api.types.is_numeric_dtype(cells.dtype):
        return
    else:
        codes, texts = labels(cells)
        cut = np.array([bool(_CUT.fullmatch(text)) for text in texts] or [False], dtype=bool)[codes]
    if cut.any():
        raise DataError(
            f"{path}: column '{column}': {count(int(cut.sum()), 'id')} whose last digits were cut off "
            f"({first_row(frame, cut)}).",
            "A program took the ids for decimal numbers: export them as text.",
        )


def count(number: int, noun: str) -> str:
    """Return a number with its noun: ``1 row``, ``1,200 rows``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def first_row(frame: pd.DataFrame, where: NDArray[np.bool_]) -> str:
    """Return where the first marked row stands in the file."""
    return f"first at row {frame.index[int(np.argmax(where))]}"


def decimal_comma(column: pd.Series, where: NDArray[np.bool_]) -> bool:
    """Return whether every marked cell is a number written with a decimal comma."""
    return bool(column[where].astype(str).str.strip().str.fullmatch(_DECIMAL_COMMA.pattern).all())
