"""Whose sample is whose: the ids of a genomic file against the patients of a cohort."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pmfed.cohort.reading import Reading
from pmfed.cohort.tables import MISSING, Problems, count, labels, read_table
from pmfed.errors import DataError

Ints = NDArray[np.int64]
Times = NDArray[np.datetime64]

MALE, FEMALE, UNKNOWN = 1, 2, 0
_SEXES = {"1": MALE, "m": MALE, "male": MALE, "2": FEMALE, "f": FEMALE, "female": FEMALE, "0": UNKNOWN, "unknown": 0}


@dataclass(frozen=True, repr=False)
class Samples:
    """The S samples of a file that belong to patients of the cohort.

    Attributes
    ----------
    places : (S,) int64
        Where each stands in the file, ascending.
    patient : (S,) int64
        Whose each is: a place among the patients, without repeats, in the order they were given in.
    owner : (R,) int64
        The patient of each record.
    sex : (S,) int64 or None
        1 male, 2 female, 0 unknown, where the table tells.
    taken : (S,) datetime64[s] or None
        When each was taken, where the table tells.
    counts, warnings
        For the reader's block.
    """

    places: Ints
    patient: Ints
    owner: Ints
    sex: Ints | None
    taken: Times | None
    counts: dict[str, int]
    warnings: tuple[str, ...]

    def of_records(self) -> Ints:
        """Return the sample of each record, a place among the S, -1 where its patient has none: one per patient."""
        sample = np.full(int(self.owner.max(initial=-1)) + 1, -1, dtype=np.int64)
        sample[self.patient] = np.arange(len(self.patient))
        found: Ints = sample[self.owner]
        return found


@dataclass(frozen=True)
class Map:
    """The table that says whose sample is whose, and the names of its columns."""

    path: Path
    sample: str
    patient: str
    sex: str | None = None
    date: str | None = None


def map_of(
    reading: Reading[Any], samples: str | None, sample: str, sex: str | None = None, date: str | None = None
) -> Map | None:
    """Return the table of samples that a study names, None where it names none."""
    return None if samples is None else Map(reading.path(samples), sample, reading.patient, sex, date)


def pair_samples(
    path: Path, names: Sequence[str], patients: Sequence[str], table: Map | None, problems: Problems
) -> Samples | None:
    """Find the samples of a file that belong to the cohort.

    Parameters
    ----------
    path, names
        The genomic file and its samples, in its order.
    patients : (R,)
        Patient id of every record.
    table
        Which sample is whose; without it a sample's id is the patient's.
    problems
        Where what is wrong is noted; ids are never told.

    Returns
    -------
    Samples or None
        None when nothing can be read: the problems say why.
    """
    unique = list(dict.fromkeys(patients))
    place_of = {patient: place for place, patient in enumerate(unique)}
    owner = np.array([place_of[patient] for patient in patients], dtype=np.int64)
    if twice := sum(1 for number in Counter(names).values() if number > 1):
        problems.add(
            f"{path}: {count(twice, 'sample id')} standing there more than once.",
            "Rename the samples, or remove all but one of each.",
        )
        return None
    listed = _from_table(table, problems) if table else _Listed(tuple(names), tuple(names), None, None)
    if listed is None:
        return None
    at = {name: place for place, name in enumerate(names)}
    places = np.array([at.get(sample, -1) for sample in listed.samples], dtype=np.int64)
    whose = np.array([place_of.get(patient, -1) for patient in listed.patients], dtype=np.int64)
    used = np.flatnonzero((places >= 0) & (whose >= 0))
    used = used[np.argsort(places[used], kind="stable")]
    strangers = len(names) - len(used)
    if names and unique and not len(used):
        where = f" by {table.path}" if table else ""
        problems.add(
            f"{path}: none of its {count(len(names), 'sample')} belongs to a patient of the cohort{where}.",
            "Do both write ids in the same way? Otherwise name a table of sample and patient ids as 'samples'.",
        )
        return None
    several = int((np.bincount(whose[used], minlength=1) > 1).sum())
    if several and listed.taken is None:
        problems.add(
            f"{table.path if table else path}: {count(several, 'patient')} with more than one sample in {path}.",
            "Keep one sample per patient in the table.",
        )
        return None
    warnings = []
    if strangers:
        warnings.append(f"{path}: {count(strangers, 'sample')} of no patient in the cohort left out.")
    if table and (gone := int(((places < 0) & (whose >= 0)).sum())):
        warnings.append(f"{table.path}: {count(gone, 'sample')} of the cohort's patients not found in {path}.")
    counts = {
        "samples in the file": len(names),
        "samples of no patient": strangers,
        "patients without a sample": len(unique) - len(np.unique(whose[used])),
    }
    return Samples(
        places=places[used],
        patient=whose[used],
        owner=owner,
        sex=None if listed.sex is None else listed.sex[used],
        taken=None if listed.taken is None else listed.taken[used],
        counts=counts,
        warnings=tuple(warnings),
    )


@dataclass(frozen=True, repr=False)
class _Listed:
    samples: tuple[str, ...]
    patients: tuple[str, ...]
    sex: Ints | None
    taken: Times | None


def _from_table(table: Map, problems: Problems) -> _Listed | None:
    extra = [column for column in (table.sex, table.date) if column]
    try:
        frame = read_table(table.path, [table.sample, table.patient, *extra])
    except DataError as error:
        problems.note(error)
        return None
    wrong: list[DataError] = []
    samples, patients = (_texts(frame, column) for column in (table.sample, table.patient))
    for column, texts in ((table.sample, samples), (table.patient, patients)):
        if empty := sum(text in MISSING for text in texts):
            what = f"{table.path}: column '{column}': {count(empty, 'row')} empty."
            wrong.append(DataError(what, "Fill them in or remove the rows."))
    if twice := sum(1 for number in Counter(samples).values() if number > 1):
        what = f"{table.path}: column '{table.sample}': {count(twice, 'sample')} in more than one row."
        wrong.append(DataError(what, "A sample belongs to one patient: keep one row for each."))
    sex = _sexes(table, frame, wrong) if table.sex else None
    taken = _times(table, frame, wrong) if table.date else None
    for one in wrong:
        problems.note(one)
    return None if wrong else _Listed(samples, patients, sex, taken)


def _texts(frame: pd.DataFrame, column: str) -> tuple[str, ...]:
    codes, texts = labels(frame[column])
    return tuple(texts[code] for code in codes)


def _sexes(table: Map, frame: pd.DataFrame, wrong: list[DataError]) -> Ints:
    assert table.sex is not None
    words = _texts(frame, table.sex)
    sexes = [UNKNOWN if word in MISSING else _SEXES.get(word.casefold(), -1) for word in words]
    if others := sexes.count(-1):
        what = f"{table.path}: column '{table.sex}': {count(others, 'row')} with neither male, female nor unknown."
        wrong.append(DataError(what, "Write male, female or unknown; M, F; or 1, 2, 0 as PLINK does."))
    return np.array(sexes, dtype=np.int64)


def _times(table: Map, frame: pd.DataFrame, wrong: list[DataError]) -> Times:
    assert table.date is not None
    texts = pd.Series(_texts(frame, table.date), dtype=object)
    times = pd.to_datetime(texts, errors="coerce", format="ISO8601", utc=True).dt.tz_localize(None)
    if undated := int(times.isna().sum()):
        what = f"{table.path}: column '{table.date}': {count(undated, 'row')} without a date such as 2024-05-31."
        wrong.append(DataError(what, "Write dates as year-month-day; remove samples of unknown date."))
    found: Times = times.to_numpy().astype("datetime64[s]")
    return found
