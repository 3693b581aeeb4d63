"""Hospital tables: CSV, TSV and Parquet files into data frames, with errors a person can act on.

Nothing here ever puts a cell of a table into a message: counts, row numbers and column names only.
"""

from __future__ import annotations

import csv
import difflib
import gzip
import re
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.csv  # type: ignore[import-untyped]
import pyarrow.parquet  # type: ignore[import-untyped]
from numpy.typing import NDArray

from pmfed.errors import DataError

MISSING = frozenset({"", "NA", "N/A", "na", "n/a", "NaN", "nan", "NULL", "null", "<NA>"})

_DELIMITERS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "vertical bars"}
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
        ``.csv``, ``.csv.gz``, ``.tsv``, ``.tsv.gz`` (UTF-8, first line is the header) or ``.parquet``.
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
    columns = list(dict.fromkeys(columns))
    if not path.is_file():
        raise DataError(f"{path}: there is no such file.", "Check the path in [data] of site.toml.")
    kind = path.name.lower().removesuffix(".gz")
    try:
        if kind.endswith((".csv", ".tsv")):
            return _read_text(path, columns, also, "," if kind.endswith(".csv") else "\t")
        if path.name.lower().endswith((".parquet", ".pq")):
            return _read_parquet(path, columns, also)
    except UnicodeDecodeError:
        raise DataError(f"{path}: is not UTF-8 text.", "Save the table as CSV with encoding UTF-8.") from None
    except (OSError, EOFError, csv.Error, zlib.error, pa.ArrowException) as error:
        # The library's own words may quote a row, so only the kind of the error is passed on.
        if "invalid UTF8" in str(error):
            raise DataError(f"{path}: is not UTF-8 text.", "Save the table as CSV with encoding UTF-8.") from None
        raise DataError(f"{path}: cannot be read ({type(error).__name__}).", "Is the file damaged?") from None
    raise DataError(
        f"{path}: is not a kind of table that can be read.",
        "Save it as .csv, .csv.gz, .tsv, .tsv.gz or .parquet.",
    )


def _read_text(path: Path, columns: list[str], also: Sequence[str], delimiter: str) -> pd.DataFrame:
    with (gzip.open if path.suffix.lower() == ".gz" else open)(path, "rt", encoding="utf-8-sig", newline="") as file:
        first = file.readline()
    if not first.strip():
        raise DataError(f"{path}: is empty or starts with an empty line.", "The first line holds the column names.")
    header = split_line(first, delimiter)
    check_delimiter(path, first, delimiter, columns)
    wanted = check_columns(path, header, columns, also)

    bad_rows: list[int] = []

    def skip(row: pa.csv.InvalidRow) -> str:
        bad_rows.append(row.number or 0)
        return "skip"

    table = pa.csv.read_csv(
        path,
        read_options=pa.csv.ReadOptions(use_threads=False),  # threads lose the numbers of bad rows
        parse_options=pa.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True, invalid_row_handler=skip),
        convert_options=pa.csv.ConvertOptions(
            include_columns=wanted, column_types=dict.fromkeys(wanted, pa.string()), strings_can_be_null=False
        ),
    )
    if bad_rows:
        raise DataError(
            f"{path}: {count(len(bad_rows), 'row')} {'has' if len(bad_rows) == 1 else 'have'} another number of "
            f"fields than the header's {len(header)} (first at row {bad_rows[0]}).",
            "Was the file cut off, or does a field hold an unquoted separator?",
        )
    return _frame(table, wanted, 2)


def split_line(line: str, delimiter: str) -> list[str]:
    """Return the fields of one line of text."""
    return next(csv.reader([line], delimiter=delimiter), [])


def check_delimiter(path: Path, first: str, delimiter: str, columns: list[str]) -> None:
    """Refuse a table that is separated by something else than its name says."""
    hits = {mark: len(set(columns) & set(split_line(first, mark))) for mark in _DELIMITERS}
    best = max(hits, key=lambda mark: (hits[mark], mark == delimiter))
    if best != delimiter:
        raise DataError(
            f"{path}: is separated by {_DELIMITERS[best]}, where {_DELIMITERS[delimiter]} are expected.",
            "Save it as .csv with commas or as .tsv with tabs.",
        )


def check_columns(path: Path, header: Sequence[str], columns: list[str], also: Sequence[str]) -> list[str]:
    """Return the columns to read. The header is not listed: a file without one shows a patient there."""
    missing = [name for name in columns if name not in header]
    if missing:
        named = []
        for name in missing:
            by_form = {_form(known): known for known in header}
            near = [by_form[_form(name)]] if _form(name) in by_form else []
            near = near or difflib.get_close_matches(name, header, n=1, cutoff=0.75)
            named.append(f"'{name}' (did you mean '{near[0]}'?)" if near else f"'{name}'")
        remedy = "Correct the column names in the table or in the study."
        if len(missing) == len(columns):
            remedy += " Is the first line of the file its header?"
        raise DataError(
            f"{path}: lacks {count(len(missing), 'column')} that the study names: {', '.join(named)}; "
            f"the table has {count(len(header), 'column')}.",
            remedy,
        )
    wanted = columns + [name for name in dict.fromkeys(also) if name in header and name not in columns]
    if twice := [name for name in wanted if list(header).count(name) > 1]:
        raise DataError(
            f"{path}: {'columns are' if len(twice) > 1 else 'a column is'} there more than once: "
            f"{', '.join(repr(name) for name in twice)}.",
            "Rename or remove one of them.",
        )
    return wanted


def _form(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold())


def _read_parquet(path: Path, columns: list[str], also: Sequence[str]) -> pd.DataFrame:
    file = pa.parquet.ParquetFile(path)
    wanted = check_columns(path, file.schema_arrow.names, columns, also)
    # Without pandas' own metadata, which may be damaged and is of no use here.
    table = file.read(columns=wanted).replace_schema_metadata(None)
    table.validate(full=True)
    for place, field in enumerate(table.schema):
        kind = field.type
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        if pa.types.is_decimal(kind):
            target = pa.float64()
        elif pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
            target = kind
        elif pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            raise DataError(
                f"{path}: column '{field.name}' holds {kind}, neither numbers nor text.",
                "Store numbers or text in it.",
            )
        else:
            target = pa.string()  # dates too: as numbers they would be silent nonsense
        table = table.set_column(place, field.name, table.column(place).cast(target))
    return _frame(table, wanted, 1)


def _frame(table: pa.Table, wanted: list[str], first: int) -> pd.DataFrame:
    frame: pd.DataFrame = table.select(wanted).to_pandas(ignore_metadata=True)
    frame.index = pd.RangeIndex(first, first + len(frame))
    return frame


def number(column: pd.Series) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return a column as numbers.

    Returns
    -------
    values : (T,) float64
        NaN where a cell is missing or holds no number.
    wrong : (T,) bool
        Where a cell holds something that is neither a number nor a sign for "missing".
    """
    if pd.api.types.is_bool_dtype(column.dtype) or pd.api.types.is_numeric_dtype(column.dtype):
        plain: NDArray[np.float64] = column.to_numpy(dtype=np.float64, na_value=np.nan)
        return plain, np.zeros(len(column), dtype=bool)
    if column.dtype == object and column.map(type).isin((bool, type(None))).all():
        return number(column.astype("boolean"))
    text = column.fillna("").astype(str).str.strip()
    values: NDArray[np.float64] = pd.to_numeric(text, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    wrong: NDArray[np.bool_] = np.isnan(values) & ~text.isin(MISSING).to_numpy(dtype=bool)
    return values, wrong


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
        return str(int(value)) if value.is_integer() else repr(value)
    return str(value).strip()


def count(number: int, noun: str) -> str:
    """Return a number with its noun: ``1 row``, ``1,200 rows``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def first_row(frame: pd.DataFrame, where: NDArray[np.bool_]) -> str:
    """Return where the first marked row stands in the file."""
    return f"first at row {frame.index[int(np.argmax(where))]}"


def decimal_comma(column: pd.Series, where: NDArray[np.bool_]) -> bool:
    """Return whether every marked cell is a number written with a decimal comma."""
    return bool(column[where].astype(str).str.strip().str.fullmatch(_DECIMAL_COMMA.pattern).all())
