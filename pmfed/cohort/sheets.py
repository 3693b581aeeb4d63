"""A site's tables: the columns that a study names, each row once."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pmfed.cohort.contract.refused import Refused
from pmfed.cohort.contract.times import NEVER, Moments
from pmfed.cohort.contract.written import written_of
from pmfed.cohort.detected import proposal
from pmfed.cohort.population import Population
from pmfed.cohort.tables import MISSING, Problems, check_ids, count, dates_of, first_row, labels, read_table, repeated
from pmfed.errors import DataError
from pmfed.modality import Modality
from pmfed.study import Study

Ints = NDArray[np.int64]


@dataclass(frozen=True, repr=False)
class Sheet:
    """A table of the site and the file it was read from."""

    path: Path
    frame: pd.DataFrame

    def texts(self, column: str, rows: Ints) -> list[str]:
        """Return what stands in a column in some rows, "" where there is no row (-1) or nothing in it."""
        codes, texts = labels(self.frame[column])
        said = ["" if text in MISSING else text for text in texts]
        return [said[codes[row]] if row >= 0 else "" for row in rows]

    def moments(self, column: str, rows: Ints, problems: Problems, *, first: bool = False) -> Moments:
        """Return the dates of a column in some rows, NaT where there is no row (-1) or the cell is empty.

        A day without a time, or at midnight, is its last second: what happened that day may have been after anything else.
        With ``first``, for index dates, it is its first: what happened that day may have been after it.
        """
        moments = dates_of(self.frame[column], written_of(self.path), column)
        seconds = moments.first if first else moments.last
        if moments.wrong.any():
            odd = Refused()
            odd.dates(column, self.frame, moments)
            for error in odd.errors(self.path, proposal):
                problems.note(error)
            problems.add(
                f"{self.path}: column '{column}': {count(int(moments.wrong.sum()), 'row')} with no date "
                f"({first_row(self.frame, moments.wrong)}).",
                "Write dates as 2024-07-31 or 2024-07-31T13:05:00, or declare how they are written.",
            )
        if first and moments.adrift.any():
            problems.add(
                f"{self.path}: column '{column}': {count(int(moments.adrift.sum()), 'row')} with an offset (Z, +02:00), and no "
                f"time zone to show it in ({first_row(self.frame, moments.adrift)}).",
                'Say where the hospital is: timezone = "Europe/Berlin" beside the file in [data] of site.toml.',
            )
        return np.where(rows >= 0, seconds[np.maximum(rows, 0)], NEVER)


def path_of(source: Path | str) -> Path:
    """Return a source as a path; one that knows how its table is written stays so."""
    return source if isinstance(source, Path) else Path(source)


def modalities_at(study: Study, sources: Mapping[str, Path | str], warnings: list[str]) -> dict[str, Modality]:
    """Return the modalities whose table (and folder) the site has; warn of the others."""
    here: dict[str, Modality] = {}
    for name, modality in sorted(study.modalities.items()):
        lacking = [source for source in modality.sources if source not in sources]
        if lacking:
            listed = " and ".join(f"'{source}'" for source in lacking)
            warnings.append(f"modality '{name}' is absent: the site has no source {listed}.")
        else:
            here[name] = modality
    return here


def read_sheets(
    study: Study,
    sources: Mapping[str, Path | str],
    here: Mapping[str, Modality],
    population: Population,
    problems: Problems,
    warnings: list[str],
) -> dict[str, Sheet]:
    """Read the columns that are asked for of the cohort table and of every modality's table; a row counts once."""
    cohort, listed = study.cohort, population.listed(study)
    if cohort.table not in sources and listed is None:
        near = difflib.get_close_matches(cohort.table, list(sources), n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        problems.add(
            f"there is no source '{cohort.table}', the study's cohort table{hint}",
            f'Add {cohort.table} = "FILE" to [data] in site.toml.',
        )
        return {}
    columns = {cohort.table: population.columns(study, here)}
    for modality in here.values():
        if modality.joined is not None:
            columns.setdefault(modality.joined, [cohort.patient]).extend(modality.columns)
    sheets = {}
    for source, names in columns.items():
        if source not in sources:
            assert listed is not None
            sheets[source] = Sheet(Path("the patients asked for"), listed)
            continue
        try:
            path = path_of(sources[source])
            frame = read_table(path, names, [cohort.record] if cohort.record else [])
            check_ids(path, cohort.patient, frame)
            again = repeated(path, frame)
            if again.any():
                warnings.append(f"{path}: {count(int(again.sum()), 'row')} repeating another row in full counted once.")
            sheets[source] = Sheet(path, frame[~again])
        except DataError as error:
            problems.note(error)
    return sheets
