"""A matrix of genes and samples in a table file, streamed block by block: only what is asked for is kept."""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.csv  # type: ignore[import-untyped]
import pyarrow.parquet  # type: ignore[import-untyped]

from pmfed.cohort.tables import count
from pmfed.errors import DataError

T = TypeVar("T")

HEADER_LIMIT = 256 << 20
BLOCK = 16 << 20  # bytes that a line may hold, or eight times the header where that is more
ROWS_LIMIT = 10_000_000
_BATCH = 4096  # rows of a Parquet file at a time

# What spreadsheets make of SEPT2, MARCH1 or DEC1 when they open a table of genes.
_DATE = re.compile(
    r"\d{1,2}-(?:Mar|Sep|Dec|Oct|Apr|Feb)|(?:Mar|Sep|Dec|Oct|Apr|Feb)-\d{2}|\d{4}-\d{2}-\d{2}(?:[ T]00:00:00)?"
)
_ENSEMBL = re.compile(r"(ENS[A-Z]*\d{11})\.\d+")


def versionless(name: str) -> str:
    """Return an Ensembl id without its version (``ENSG00000141510.18``); any other name unchanged."""
    found = _ENSEMBL.fullmatch(name)
    return found[1] if found else name


class Matrix:
    """A table whose rows are genes and columns samples, or the other way round.

    Parameters
    ----------
    path
        ``.csv``, ``.tsv`` (also ``.gz``) or ``.parquet``.
    rows
        What its rows are.
    identifier
        The column of the rows' ids; None for the first.

    Attributes
    ----------
    exact : set of str
        After reading: ids of genes that stood there as the study writes them.
    dated : int
        After reading: how many ids of genes a spreadsheet turned into dates.
    """

    def __init__(self, path: Path, rows: Literal["genes", "samples"], identifier: str | None) -> None:
        self.path, self.rows = path, rows
        if not path.is_file():
            raise DataError(f"{path}: there is no such file.", "Check the path in [data] of site.toml.")
        self._parquet = path.name.lower().endswith((".parquet", ".pq"))
        kind = path.name.lower().removesuffix(".gz")
        if not self._parquet and not kind.endswith((".csv", ".tsv")):
            raise DataError(
                f"{path}: is not a kind of table that can be read.", "Save it as .csv, .tsv (or .gz) or .parquet."
            )
        self._mark = "," if kind.endswith(".csv") else "\t"
        self._width = 0
        header = self._guarded(self._header)
        self.columns = [name.strip() for name in header]
        self._written = dict(zip(self.columns, header, strict=True))
        self.identifier = identifier or (self.columns[0] if self.columns else "")
        if self.identifier not in self.columns:
            raise DataError(
                f"{path}: lacks the column '{self.identifier}' of the {rows}' ids; it has "
                f"{count(len(self.columns), 'column')}.",
                "Correct 'identifier' in the study. Are the columns parted by the mark that the file's name says?",
            )
        if len(self.columns) < 2:
            raise DataError(
                f"{path}: has one column only.", "Save .csv with commas and .tsv with tabs between the columns."
            )
        self.exact: set[str] = set()
        self.dated = 0

    def samples(self) -> tuple[str, ...]:
        """Return the ids of all samples, in the order of the file."""
        if self.rows == "genes":
            return tuple(name for name in self.columns if name != self.identifier)
        ids: list[str] = []
        for block in self._blocks([self.identifier]):
            ids += _texts(block[self.identifier])
        if empty := sum(not name for name in ids):
            raise DataError(f"{self.path}: {count(empty, 'row')} without an id.", "Fill them in or remove the rows.")
        return tuple(ids)

    def read(self, samples: Sequence[str], genes: Mapping[str, str]) -> dict[str, pd.Series]:
        """Return the cells of some genes and samples.

        Parameters
        ----------
        samples : (S,)
            Ids of samples, each once.
        genes
            Id of a gene -> its name in the study.

        Returns
        -------
        dict of (S,) Series
            Name of a gene -> its cells, in the order of ``samples``; genes that are not there are left out.

        Raises
        ------
        DataError
            A gene is there more than once, or the file is damaged.
        """
        return self._by_gene(samples, genes) if self.rows == "genes" else self._by_sample(samples, genes)

    def _by_gene(self, samples: Sequence[str], genes: Mapping[str, str]) -> dict[str, pd.Series]:
        found: dict[str, pd.Series] = {}
        seen: Counter[str] = Counter()
        for block in self._blocks([self.identifier, *samples]):
            ids = _texts(block[self.identifier])
            self.dated += sum(map(bool, map(_DATE.fullmatch, ids)))
            names = [self._wanted(name, genes) for name in ids]
            for row, name in enumerate(names):
                if name is not None:
                    seen[name] += 1
                    found[name] = block.iloc[row][list(samples)].reset_index(drop=True)
        self._check_once(seen)
        return {genes[name]: cells for name, cells in found.items()}

    def _by_sample(self, samples: Sequence[str], genes: Mapping[str, str]) -> dict[str, pd.Series]:
        columns = {column: name for column in self.columns if (name := self._wanted(column, genes)) is not None}
        self._check_once(Counter(columns.values()))
        self.dated = sum(map(bool, map(_DATE.fullmatch, self.columns)))
        place = {name: row for row, name in enumerate(samples)}
        cells: dict[str, list[object]] = {column: [None] * len(samples) for column in columns}
        for block in self._blocks([self.identifier, *columns]):
            rows = [place.get(name, -1) for name in _texts(block[self.identifier])]
            kept = np.flatnonzero(np.array(rows) >= 0)
            for column in columns:
                values = block[column].to_numpy()
                for row in kept:
                    cells[column][rows[row]] = values[row]
        return {genes[name]: pd.Series(cells[column]) for column, name in columns.items()}

    def _wanted(self, name: str, genes: Collection[str]) -> str | None:
        """Return the study's id of a gene of the file; its version need not be written there."""
        if name in genes:
            self.exact.add(name)
            return name
        plain = versionless(name)
        return plain if plain != name and plain in genes else None

    def _check_once(self, seen: Counter[str]) -> None:
        if twice := sorted(name for name, number in seen.items() if number > 1):
            raise DataError(
                f"{self.path}: {count(len(twice), 'gene')} standing there more than once: {', '.join(twice[:20])}.",
                "Keep one row (or column) per gene; name genes by ids that are unique, such as Ensembl's.",
            )

    def _header(self) -> list[str]:
        if self._parquet:
            return list(pa.parquet.ParquetFile(self.path).schema_arrow.names)
        with (gzip.open if self.path.suffix.lower() == ".gz" else open)(
            self.path, "rt", encoding="utf-8-sig", newline=""
        ) as file:
            line = file.readline(HEADER_LIMIT)
        self._width = len(line)
        return next(csv.reader([line], delimiter=self._mark), [])

    def _blocks(self, columns: Sequence[str]) -> Iterator[pd.DataFrame]:
        """Yield blocks of rows; every cell of a text file as text."""
        if twice := sum(1 for number in Counter(self.columns).values() if number > 1):
            raise DataError(
                f"{self.path}: {count(twice, 'column name')} standing there more than once.", "Rename or remove them."
            )
        written = [self._written[name] for name in columns]
        blocks = self._parquet_blocks(written) if self._parquet else self._text_blocks(written)
        rows = 0
        while (block := self._guarded(lambda: next(blocks, None))) is not None:
            rows += len(block)
            if rows > ROWS_LIMIT:
                raise DataError(f"{self.path}: has more than {ROWS_LIMIT:,} rows.", "Is it a matrix of expression?")
            yield block[written].set_axis(list(columns), axis=1)

    def _parquet_blocks(self, columns: Sequence[str]) -> Iterator[pd.DataFrame]:
        with pa.parquet.ParquetFile(self.path) as file:
            for batch in file.iter_batches(batch_size=_BATCH, columns=list(columns), use_threads=False):
                batch.validate(full=True)  # texts that are not UTF-8 would be found out much later
                yield batch.replace_schema_metadata(None).to_pandas()  # which would trust damaged metadata

    def _text_blocks(self, columns: Sequence[str]) -> Iterator[pd.DataFrame]:
        packed = "gzip" if self.path.suffix.lower() == ".gz" else None
        with (
            pa.input_stream(str(self.path), compression=packed) as stream,
            pa.csv.open_csv(
                stream,
                read_options=pa.csv.ReadOptions(use_threads=False, block_size=max(BLOCK, 8 * self._width)),
                parse_options=pa.csv.ParseOptions(delimiter=self._mark),
                convert_options=pa.csv.ConvertOptions(
                    include_columns=list(columns),
                    column_types=dict.fromkeys(columns, pa.string()),
                    strings_can_be_null=False,
                ),
            ) as reader,
        ):
            for batch in reader:
                yield batch.to_pandas()

    def _guarded(self, work: Callable[[], T]) -> T:
        """Do some reading; what a library says about a failure may quote a row, so only its kind is passed on."""
        try:
            return work()
        except UnicodeDecodeError:
            raise DataError(f"{self.path}: is not UTF-8 text.", "Save the table with encoding UTF-8.") from None
        except (OSError, EOFError, csv.Error, zlib.error, pa.ArrowException) as error:
            if "columns, got" in str(error):
                raise DataError(
                    f"{self.path}: has rows with another number of fields than the header's {len(self.columns)}.",
                    "Was the file cut off? R writes a header without the first column's name: give it one.",
                ) from None
            if "straddling" in str(error):
                limit = max(BLOCK, 8 * self._width) >> 20
                raise DataError(
                    f"{self.path}: has a line of more than {limit} MiB.", "This is no ordinary matrix; it was not read."
                ) from None
            raise DataError(f"{self.path}: cannot be read ({type(error).__name__}).", "Is the file damaged?") from None


def _texts(column: pd.Series) -> list[str]:
    return ["" if value is None else str(value).strip() for value in column.tolist()]
