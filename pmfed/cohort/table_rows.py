"""Rows of tables, a batch at a time: text, Parquet and spreadsheets give the same columns, numbered as in the file."""

from __future__ import annotations

import csv
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.csv  # type: ignore[import-untyped]
import pyarrow.parquet  # type: ignore[import-untyped]

from pmfed.cohort import statistical_files
from pmfed.cohort.columns import check_columns, check_separator
from pmfed.cohort.contract.written import ViewPath, Written, written_of
from pmfed.cohort.detected import is_utf8, named_separator, open_text, proposal
from pmfed.cohort.spreadsheets import sheet_rows
from pmfed.cohort.views import view_header, view_rows
from pmfed.errors import DataError

BLOCK = 8 << 20
"""Bytes read at a time; no row may be longer."""

ENDINGS = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".parquet", ".pq", ".xlsx", ".xlsm", *statistical_files.ENDINGS)
"""Endings of the names of tables that can be read."""

_SEP = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)
_INTEGERS = {
    pa.int8(): pd.Int8Dtype(), pa.int16(): pd.Int16Dtype(), pa.int32(): pd.Int32Dtype(), pa.int64(): pd.Int64Dtype(),
    pa.uint8(): pd.UInt8Dtype(), pa.uint16(): pd.UInt16Dtype(), pa.uint32(): pd.UInt32Dtype(), pa.uint64(): pd.UInt64Dtype(),
}  # fmt: skip
"""An empty cell makes no decimal number of an id: doubles hold no 19 digits."""


def batches(
    path: Path, columns: Sequence[str], also: Sequence[str] = (), whole: bool = False
) -> Iterator[pd.DataFrame]:
    """Yield some columns of a table, a batch of rows at a time.

    Parameters
    ----------
    path
        ``.csv``, ``.tsv``, either with ``.gz``, ``.parquet``, ``.xlsx``, or of SPSS, Stata or SAS; a `WrittenPath` says how it is written.
        Or a `ViewPath`.
    columns
        Columns that must be there.
    also
        Columns that are read where the table has them.
    whole
        Whether every other column is to follow too, under names of its own: what tells two rows apart.

    Yields
    ------
    DataFrame
        Cells of text stay text; Parquet's numbers stay numbers. The index is the row's number in the file, a text file's
        header being row 1. Rows in which nothing is written are left out.

    Raises
    ------
    DataError
        The file is missing, of another kind, damaged, holds a row longer than `BLOCK`, or lacks columns.
    """
    columns = list(dict.fromkeys(columns))
    if isinstance(path, ViewPath):
        for frame in view_rows(path, columns, also, whole):
            yield _filled(frame)
        return
    if not path.is_file():
        raise DataError(f"{path}: there is no such file.", "Check the path in [data] of site.toml or the source file.")
    name = path.name.lower()
    reader = next((one for ending, one in _READERS.items() if name.removesuffix(".gz").endswith(ending)), None)
    if reader is None or (name.endswith(".gz") and reader is not _text):
        raise DataError(
            f"{path}: is not a kind of table that can be read.",
            "Save it as .csv, .csv.gz, .tsv, .tsv.gz, .parquet, .xlsx, .sav, .dta or .sas7bdat.",
        )
    try:
        for frame in reader(path, columns, also, whole):
            yield _filled(frame)
    except UnicodeDecodeError:
        raise _not_text(path) from None
    except (OSError, EOFError, csv.Error, zlib.error, zipfile.BadZipFile, pa.ArrowException) as error:
        # The library's own words may quote a row, so only what kind of error it was is passed on.
        if "UTF8" in str(error):
            raise _not_text(path) from None
        if "straddl" in str(error):
            raise DataError(
                f"{path}: holds a row of more than {BLOCK >> 20} MB.", "Is a quote opened and never closed?"
            ) from None
        raise DataError(f"{path}: cannot be read ({type(error).__name__}).", "Is the file damaged?") from None


def _filled(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows in which anything is written."""
    return frame[(frame.notna() & (frame != "")).any(axis=1)]


def is_table(path: Path) -> bool:
    """Return whether a file is a table by its name."""
    return path.name.lower().endswith(ENDINGS)


def header_of(path: Path) -> list[str]:
    """Return the names of a table's columns, as they stand there.

    Raises
    ------
    DataError
        The file cannot be read.
    """
    name = path.name.lower().removesuffix(".gz")
    if isinstance(path, ViewPath):
        return view_header(path)
    try:
        if name.endswith((".parquet", ".pq")):
            with pa.parquet.ParquetFile(path) as file:
                return [str(one) for one in file.schema_arrow.names]
        if name.endswith((".xlsx", ".xlsm")):
            return sheet_rows(path, written_of(path).sheet)[0]
        if name.endswith(statistical_files.ENDINGS):
            return statistical_files.header(path)
        return read_head(path, written_of(path)).header
    except UnicodeDecodeError:
        raise _not_text(path) from None
    except (OSError, EOFError, csv.Error, zlib.error, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be read ({type(error).__name__}).", "Is the file damaged?") from None


def _not_text(path: Path) -> DataError:
    encoding = written_of(path).encoding
    told = "UTF-8" if is_utf8(encoding) else encoding
    return DataError(
        f"{path}: is not {told} text.",
        proposal(path) or "Save the table as CSV with encoding UTF-8, or declare its encoding.",
    )


class _Head(NamedTuple):
    header: list[str]
    lines: int  # of the file before the first row
    separator: str
    text: str


def read_head(path: Path, written: Written) -> _Head:
    """Return the names of the columns, and after how many lines the rows begin.

    Raises
    ------
    DataError
        Nothing is written in the file.
    """
    separator, before = written.separator or named_separator(path), 0
    with open_text(path, written.encoding) as file:
        while first := file.readline(BLOCK):
            if (match := _SEP.fullmatch(first.rstrip("\r\n"))) and before == 0:  # which Excel writes for itself
                separator = match[1]
            elif first.strip():
                break
            before += 1
        if not first.strip():
            raise DataError(f"{path}: is empty.", "The first line holds the column names.")
        rest = csv.reader(_chained(first, file), delimiter=separator)
        header = next(rest, [])
        return _Head(header, before + rest.line_num, separator, first)


def _chained(first: str, file: IO[str]) -> Iterator[str]:
    yield first
    while line := file.readline(BLOCK):
        yield line


def _text(path: Path, columns: list[str], also: Sequence[str], whole: bool) -> Iterator[pd.DataFrame]:
    written = written_of(path)
    head = read_head(path, written)
    check_separator(path, head.text, head.separator, columns)
    wanted = check_columns(path, head.header, columns, also)
    names = [str(place) for place in range(len(head.header))]
    kept = [names[place] for place in _places(head.header, wanted, whole)]
    bad: list[int] = []
    blank: set[int] = set()

    def skip(row: pa.csv.InvalidRow) -> str:
        number = (row.number or 0) + (head.lines - 1 if row.number else 0)
        (bad.append if (row.text or "").strip() else blank.add)(number)
        return "skip"

    reader = pa.csv.open_csv(
        path,
        read_options=pa.csv.ReadOptions(  # threads lose the numbers of bad rows
            use_threads=False, block_size=BLOCK, column_names=names, skip_rows=head.lines, encoding=written.encoding
        ),
        parse_options=pa.csv.ParseOptions(
            delimiter=head.separator, newlines_in_values=True, invalid_row_handler=skip, ignore_empty_lines=False
        ),
        convert_options=pa.csv.ConvertOptions(
            include_columns=kept, column_types=dict.fromkeys(kept, pa.string()), strings_can_be_null=False
        ),
    )
    nothing = pd.DataFrame({name: pd.Series(dtype="str") for name in wanted})
    with reader:
        row = head.lines + 1
        yield nothing  # of a table without rows its columns are told
        for batch in reader:
            frame = batch.to_pandas()
            frame.columns = pd.Index([*wanted, *(f"\x1f{name}" for name in kept[len(wanted) :])])
            numbers = [one for one in range(row, row + len(frame) + len(blank)) if one not in blank][: len(frame)]
            row = numbers[-1] + 1 if numbers else row
            frame.index = pd.Index(numbers, dtype="int64")
            yield frame
    if bad:
        raise DataError(
            f"{path}: {len(bad):,} {'row has' if len(bad) == 1 else 'rows have'} another number of fields than the header's "
            f"{len(head.header)} (first at row {bad[0]}).",
            "Was the file cut off, or does a field hold an unquoted separator?",
        )


def _places(header: Sequence[str], wanted: Sequence[str], whole: bool) -> list[int]:
    """Return which columns are read, those wanted first."""
    place_of = {name: place for place, name in enumerate(header)}  # a name that is wanted stands there once
    first = [place_of[name] for name in wanted]
    rest = set(range(len(header))) - set(first) if whole else set()
    return [*first, *sorted(rest)]


def _parquet(path: Path, columns: list[str], also: Sequence[str], whole: bool) -> Iterator[pd.DataFrame]:
    with pa.parquet.ParquetFile(path) as file:
        schema = file.schema_arrow
        wanted = check_columns(path, schema.names, columns, also)
        for name in wanted:
            _check_kind(path, name, schema.field(name).type)
        rest = [one.name for one in schema if whole and one.name not in wanted and _plain(one.type)]
        row = 1
        if not file.metadata.num_rows:
            yield pd.DataFrame({name: pd.Series(dtype="str") for name in wanted})
        for batch in file.iter_batches(columns=[*wanted, *rest]):
            # Without pandas' own metadata, which may be damaged and is of no use here.
            table = pa.Table.from_batches([batch]).select([*wanted, *rest]).replace_schema_metadata(None)
            table.validate(full=True)
            for place, field in enumerate(table.schema):
                table = table.set_column(place, field.name, table.column(place).cast(_target(field.type)))
            frame = table.to_pandas(ignore_metadata=True, types_mapper=_INTEGERS.get)
            frame.columns = pd.Index([*wanted, *(f"\x1f{name}" for name in rest)])
            frame.index = pd.RangeIndex(row, row + len(frame))
            row += len(frame)
            yield frame


def _value_type(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _plain(kind: pa.DataType) -> bool:
    kind = _value_type(kind)
    return not (pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _check_kind(path: Path, name: str, kind: pa.DataType) -> None:
    if not _plain(kind):
        raise DataError(
            f"{path}: column '{name}' holds {_value_type(kind)}, neither numbers nor text.",
            "Store numbers or text in it.",
        )


def _target(kind: pa.DataType) -> pa.DataType:
    kind = _value_type(kind)
    if pa.types.is_decimal(kind):
        return pa.float64() if kind.scale > 0 else pa.string()  # whole ones may be ids of many digits
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        return kind
    return pa.string()  # dates too: as numbers they would be silent nonsense


def _spreadsheet(path: Path, columns: list[str], also: Sequence[str], whole: bool) -> Iterator[pd.DataFrame]:
    header, rows, numbers = sheet_rows(path, written_of(path).sheet)
    wanted = check_columns(path, header, columns, also)
    places = _places(header, wanted, whole)
    cells = np.array(rows, dtype=object).reshape(len(rows), len(header))
    frame = pd.DataFrame(cells[:, places], dtype="str")
    frame.columns = pd.Index([*wanted, *(f"\x1f{place}" for place in places[len(wanted) :])])
    frame.index = pd.Index(numbers, dtype="int64")
    yield frame


_READERS: dict[str, Callable[[Path, list[str], Sequence[str], bool], Iterator[pd.DataFrame]]] = {
    ".csv": _text, ".tsv": _text, ".parquet": _parquet, ".pq": _parquet, ".xlsx": _spreadsheet, ".xlsm": _spreadsheet,
    **dict.fromkeys(statistical_files.ENDINGS, statistical_files.rows),
}  # fmt: skip
