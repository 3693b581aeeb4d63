"""Whose a DICOM file is: its PatientID, or what a table of the site says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath

from pmfed.cohort.imaging.header import Header
from pmfed.cohort.reading import Reading
from pmfed.cohort.tables import MISSING, count, labels, read_table
from pmfed.errors import DataError
from pmfed.modality.scans import Dicom, Link


@dataclass(frozen=True, repr=False)
class Owners:
    """Names the patient of a picture: by PatientID when ``by`` is None, else by a table's key -> patient."""

    by: str | None
    known: Mapping[str, str]

    @classmethod
    def read(cls, reading: Reading[Dicom]) -> Owners | None:
        """Read the table of a study's link; None where there is something wrong with it."""
        link = reading.spec.link
        if link is None:
            return cls(None, {})
        try:
            return cls(link.by, _read(link, reading.path(link.table), reading.patient))
        except DataError as error:
            reading.problems.note(error)
            return None

    def of(self, path: str, header: Header) -> str:
        """Return the patient's id, "" when nobody is named."""
        if self.by is None:
            return header.patient
        if self.by == "folder":
            above = map(str, PurePath(path).parents)  # the nearest first
            return next((self.known[folder] for folder in above if folder in self.known), "")
        if self.by == "patient" and (named := self.known.get(_issued(header))):
            return named
        return self.known.get(str(getattr(header, self.by)), "")

    def unnamed_issuer(self, header: Header) -> str:
        """Return who gave the id that a picture's owner was told by, "" where that is no matter or named in the table."""
        if self.by not in (None, "patient") or _issued(header) in self.known:
            return ""
        return header.issuer


def _issued(header: Header) -> str:
    """Return a patient's id with its issuer, as HL7 writes it."""
    return f"{header.patient}^^^{header.issuer}"


def _read(link: Link, table: Path, patient: str) -> dict[str, str]:
    """Read key -> patient; a key that stands for two patients is refused."""
    frame = read_table(table, [patient, link.column])
    texts = []
    for column in (link.column, patient):
        codes, distinct = labels(frame[column])
        texts.append([distinct[code] for code in codes])
    known: dict[str, str] = {}
    torn = set()
    for key, owner in zip(*texts, strict=True):
        if key in MISSING or owner in MISSING:
            continue
        key = str(PurePath(key)) if link.by == "folder" else key
        if known.setdefault(key, owner) != owner:
            torn.add(key)
    if torn:
        raise DataError(
            f"{table}: column '{link.column}': {count(len(torn), 'value')} of it stand for two patients or more.",
            "A scan belongs to one patient: correct the table.",
        )
    return known
