"""Public data, written as the site folders a real hospital has: site.toml beside its tables.

The studies read the result with the same code a hospital runs, so nothing about public data is special after this point.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import tomli_w

from pmfed.errors import DataError

# The smallest sites train on 30 (heart-disease, Zurich and Basel) and some 50 (warfarin, site 13) patients, so
# pmfed's own default holds everywhere. Epsilon is what many runs on one set of site folders may spend.
_MIN_PATIENTS = 20
_EPSILON = 50.0
# A hospital that copies this file should know which of its lines a real policy would not have.
_HEADER = """\
# Written by pmfed for a simulation on PUBLIC data. A real site sets its own policy: a smaller epsilon
# (the total over all runs), and exact or per-site metrics only if its data protection agrees.

"""


@dataclass(frozen=True)
class SiteTables:
    """One site: its tables by source name, as they will lie in its folder, and files that stay where they are."""

    name: str
    title: str
    tables: Mapping[str, pd.DataFrame]
    files: Mapping[str, Path] = field(default_factory=dict)


Sites = Iterator[SiteTables]


@dataclass(frozen=True)
class PublicSites:
    """The sites of public data.

    Parameters
    ----------
    tables
        Makes the sites of the folder with the public files.
    data
        The public data set that is read; None: none is needed.
    delta
        Goes into the policy of every site.
    """

    tables: Callable[[Path], Sites]
    data: str | None
    delta: float

    def write(self, out: Path, data: Path | None, tell: Callable[[str], None]) -> None:
        """Write ``out/SITE/``, each with ``site.toml`` and CSV tables.

        Parameters
        ----------
        out
            Where the site folders go.
        data
            The folder of public data: either the data set's own folder or the one above it.
        tell
            Has nothing to say.

        Raises
        ------
        DataError
            The public files are not there or are not what they should be; the remedy says how to get them.
        """
        folder = self._located(data)
        try:
            sites = tuple(self.tables(folder))
        except (ValueError, KeyError) as error:  # tables of the right columns whose cells are something else
            if self.data is None:
                raise
            raise DataError(
                f"{folder}: the tables do not hold what '{self.data}' publishes ({type(error).__name__}).",
                remedy(self.data),
            ) from None
        for site in sites:
            self._write(out / site.name, site)

    def _write(self, folder: Path, site: SiteTables) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for source, table in site.tables.items():
            table.to_csv(folder / f"{source}.csv", index=False, lineterminator="\n")
        config = {
            "site": {"name": site.name, "title": site.title},
            "data": {source: f"{source}.csv" for source in site.tables}
            | {source: str(file.absolute()) for source, file in site.files.items()},
            "policy": {
                "min_patients": _MIN_PATIENTS,
                "epsilon": _EPSILON,
                "delta": self.delta,
                "exact_metrics": True,
                "per_site_metrics": True,
            },
        }
        if site.files:
            _share_cache(folder / "cache")
        (folder / "site.toml").write_text(_HEADER + tomli_w.dumps(config), encoding="utf-8")

    def _located(self, data: Path | None) -> Path:
        """Return the folder with the public files: ``data`` itself or ``data/<name>``."""
        if self.data is None:
            return Path()
        if data is None:
            raise DataError(f"this study needs the public data '{self.data}'.", remedy(self.data))
        if not data.is_dir():
            raise DataError(f"{data}: there is no such folder (for the public data '{self.data}').", remedy(self.data))
        return data / self.data if (data / self.data).is_dir() else data


def _share_cache(cache: Path) -> None:
    """Let every run of this user find what pictures were turned into: they are public, and it takes minutes.

    A real site's cache lies in its own folder.
    """
    shared = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pmfed" / "public-data"
    shared.mkdir(parents=True, exist_ok=True)
    cache.symlink_to(shared)


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
