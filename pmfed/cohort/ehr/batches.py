"""Tables read in batches, so that a file may be larger than memory."""

from __future__ import annotations

import csv
import gzip
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.csv  # type: ignore[import-untyped]
import pyarrow.parquet  # type: ignore[import-untyped]

from pmfed.cohort.tables import check_columns, check_delimiter, count, split_line
from pmfed.errors import DataError

BLOCK = 8 << 20
"""Bytes read at a time; no row may be longer."""


def batches(path: Path, columns: Sequence[str], also: Sequence[str] = ()) -> Iterator[pd.DataFrame]:
    """Yield some columns of a table, a batch of rows at a time; what `read_table` reads, and in its form.

    Parameters
    ----------
    path
        ``.csv``, ``.tsv``, either with ``.gz``, or ``.parquet``.
    columns
        Columns that must be there.
    also
        Columns that are read where the table has them.

    Raises
    ------
    DataError
        The file is missing, of another kind, damaged, holds a row longer than `BLOCK`, or lacks columns.
    """
    columns = list(dict.fromkeys(columns))
    if not path.is_file():
        raise DataError(f"{path}: there is no such file.", "Check the path in [data] of site.toml or the source file.")
    kind = path.name.lower().removesuffix(".gz")
    try:
        if kind.endswith((".csv", ".tsv")):
            yield from _text(path, columns, also, "," if kind.endswith(".csv") else "\t")
            return
        if path.name.lower().endswith((".parquet", ".pq")):
            yield from _parquet(path, columns, also)
            return
    except UnicodeDecodeError:
        raise DataError(f"{path}: is not UTF-8 text.", "Save the table as CSV with encoding UTF-8.") from None
    except (OSError, EOFError, csv.Error, zlib.error, pa.ArrowException) as error:
        # The library's own words may quote a row, so only what kind of error it was is passed on.
        if "UTF8" in str(error):
            raise DataError(f"{path}: is not UTF-8 text.", "Save the table as CSV with encoding UTF-8.") from None
        if "straddl" in str(error):
            raise DataError(
                f"{path}: holds a row of more than {BLOCK >> 20} MB.", "Is a quote opened and never closed?"
            ) from None
        raise DataError(f"{path}: cannot be read ({type(error).__name__}).", "Is the file damaged?") from None
    raise DataError(
        f"{path}: is not a kind of table that can be read.", "Save it as .csv, .csv.gz, .tsv, .tsv.gz or .parquet."
    )


def _text(path: Path, columns: list[str], also: Sequence[str], delimiter: str) -> Iterator[pd.DataFrame]:
    with (gzip.open if path.suffix.lower() == ".gz" else open)(path, "rt", encoding="utf-8-sig", newline="") as file:
        first = file.readline(BLOCK)
    if not first.strip():
        raise DataError(f"{path}: is empty or starts with an empty line.", "The first line holds the column names.")
    header = split_line(first, delimiter)
    check_delimiter(path, first, delimiter, columns)
    wanted = check_columns(path, header, columns, also)
    bad_rows: list[int] = []

    def skip(row: pa.csv.InvalidRow) -> str:
        bad_rows.append(row.number or 0)
        return "skip"

    reader = pa.csv.open_csv(
        path,
        read_options=pa.csv.ReadOptions(use_threads=False, block_size=BLOCK),
        parse_options=pa.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True, invalid_row_handler=skip),
        convert_options=pa.csv.ConvertOptions(
            include_columns=wanted, column_types=dict.fromkeys(wanted, pa.string()), strings_can_be_null=False
        ),
    )
    with reader:
        for batch in reader:
            yield batch.to_pandas()
    if bad_rows:
        raise DataError(
            f"{path}: {count(len(bad_rows), 'row')} {'has' if len(bad_rows) == 1 else 'have'} another number of "
            f"fields than the header's {len(header)} (first at row {bad_rows[0]}).",
            "Was the file cut off, or does a field hold an unquoted separator?",
        )


def _parquet(path: Path, columns: list[str], also: Sequence[str]) -> Iterator[pd.DataFrame]:
    with pa.parquet.ParquetFile(path) as file:
        wanted = check_columns(path, file.schema_arrow.names, columns, also)
        for batch in file.iter_batches(columns=wanted):
            table = pa.Table.from_batches([batch]).select(wanted)
            for place, field in enumerate(table.schema):
                kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
                number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
                target = pa.float64() if pa.types.is_decimal(kind) else kind if number else pa.string()
                table = table.set_column(place, field.name, table.column(place).cast(target))
            yield table.to_pandas(ignore_metadata=True)


def inside(folder: Path, file: str) -> Path:
    """Return the path of a file of a folder.

    Raises
    ------
    DataError
        It leads out of the folder, by ``..``, as a path from the root or through a link.
    """
    root = os.path.realpath(folder)
    try:
        real = os.path.realpath(os.path.join(root, file))
        outside = os.path.commonpath([root, real]) != root
    except ValueError:  # a NUL byte, or another drive
        outside = True
    if outside:
        raise DataError(
            f"{folder}: a file listed for it lies outside.",
            "List files by their path inside the folder, without links.",
        )
    return Path(real)
