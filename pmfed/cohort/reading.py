"""The one thing that every reader is given, whatever it reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from pmfed.cohort.block import Block
from pmfed.cohort.contract.times import Moments
from pmfed.cohort.imaging.places import Places
from pmfed.cohort.sheets import Sheet, path_of
from pmfed.cohort.tables import Problems
from pmfed.modality import Modality
from pmfed.study.outcome import Masks

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Spec = TypeVar("Spec", bound=Modality)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Reading(Generic[Spec]):
    """One modality, to be read for the R records of a cohort.

    Attributes
    ----------
    spec
        What the study says of the modality.
    sources
        The site's tables, folders and databases by the names the study uses; those of the spec are there.
    patients : (R,) str
        Patient of each record.
    when : (R,) datetime64[s] or None
        Index date of each record, NaT where it has none; None when the study has no index date. Only what happened and
        was known strictly before it may become an input.
    problems
        Where what is wrong is gathered: counts, never a name, a file that is listed, a date or a value of a patient. Inputs
        are meaningless when there is something.
    patient
        The column with the patient's id in tables of the modality.
    places
        Cache, list of unreadable files, progress, network; nothing of it by default.
    sheet, rows
        Of a modality that is joined to the cohort's table (`Modality.joined`): the table it is joined by, and the (R,) row
        of each record, -1 where it has none.
    lenient
        Whether a value that the study does not allow counts as missing and is marked in `Block.outside`, where otherwise it
        is a problem.
    """

    spec: Spec
    sources: Mapping[str, Path | str]
    patients: Sequence[str]
    when: Moments | None
    problems: Problems
    patient: str = "patient_id"
    places: Places = field(default_factory=Places)
    sheet: Sheet | None = None
    rows: Ints | None = None
    lenient: bool = False

    def path(self, source: str) -> Path:
        """Return a source that is a table; it knows how it is written, where the site says so."""
        return path_of(self.sources[source])

    def place(self, source: str) -> Path:
        """Return a source that is a folder or a file of another format."""
        return Path(self.sources[source])

    def absent(self) -> Block:
        """Return the block of a site where no record has the modality."""
        return Block.absent(len(self.patients), self.spec.shape)

    def joined(self) -> tuple[Sheet, Ints]:
        """Return the table the modality is joined by, and the row of each record."""
        assert self.sheet is not None
        assert self.rows is not None
        return self.sheet, self.rows

    def table(self) -> Path:
        """Return the file of the table the modality is joined by, for messages."""
        return self.joined()[0].path

    def listed(self, column: str) -> list[str]:
        """Return what the joined table has in a column for each record, such as the name of a file; "" for nothing."""
        sheet, rows = self.joined()
        return sheet.texts(column, rows)

    def lines(self) -> list[int]:
        """Return the line of the joined table of each record, for messages; 0 where it has none."""
        sheet, rows = self.joined()
        return [int(sheet.frame.index[row]) if row >= 0 else 0 for row in rows]

    def moments(self, column: str) -> Moments:
        """Return the dates that the joined table has in a column, the last moment that each may mean."""
        sheet, rows = self.joined()
        return sheet.moments(column, rows, self.problems)


@dataclass(frozen=True, eq=False, repr=False)
class MaskReading(Generic[Spec]):
    """The masks of a modality of pictures, to be read after it.

    Attributes
    ----------
    reading
        As the modality was read.
    outcome
        What the study says of the masks.
    folder
        Where the masks lie. Nothing outside is opened.
    sheet, rows
        The cohort's table, which lists masks, and the (R,) row of each record.
    present : (R,) bool
        Whether the record has a picture.
    """

    reading: Reading[Spec]
    outcome: Masks
    folder: Path
    sheet: Sheet
    rows: Ints
    present: Bools

    def listed(self, column: str) -> list[str]:
        """Return what the cohort's table has in a column for each record, "" for nothing."""
        return self.sheet.texts(column, self.rows)
