"""What the modules of public data share: reading a source file, and the sites they make of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from pmfed.errors import DataError


@dataclass(frozen=True)
class SiteTables:
    """One site: its tables by source name, as they will lie in its folder, and files that stay where they are."""

    name: str
    title: str
    tables: Mapping[str, pd.DataFrame]
    files: Mapping[str, Path] = field(default_factory=dict)


Sites = Iterator[SiteTables]


def remedy(dataset: str) -> str:
    """Return how to get a public data set."""
    return f"Run 'pmfed data get {dataset} --out DIR' and give --data DIR."


def read_source(path: Path, dataset: str, columns: Sequence[str], *, header: bool = True) -> pd.DataFrame:
    """Read a public CSV file as text, or say how to get it.

    Parameters
    ----------
    path
        The file; ``.gz`` is unpacked.
    dataset
        Name in the catalogue, for the remedy.
    columns
        The columns wanted, by name; without a header, the names of all columns in order.
    header
        Whether the file's first line names its columns.

    Raises
    ------
    DataError
        The file is missing, unreadable or lacks one of the columns.
    """
    if not path.is_file():
        raise DataError(f"{path}: there is no such file (public data '{dataset}').", remedy(dataset))
    try:
        # Only empty cells are missing; pandas would take a category called "NA" or "None" for missing too.
        table = pd.read_csv(
            path, dtype=str, header=0 if header else None, keep_default_na=False, na_values=[""], low_memory=False
        )
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"{path}: cannot be read as CSV ({error}).", remedy(dataset)) from None
    if not header and table.shape[1] == len(columns):
        return table.set_axis(list(columns), axis=1)
    absent = [column for column in columns if column not in table.columns]
    if absent:
        found = f"{table.shape[1]} columns, none of them called '{absent[0]}'"
        raise DataError(f"{path}: {found}; this is not the published file of '{dataset}'.", remedy(dataset))
    return table[list(columns)]
