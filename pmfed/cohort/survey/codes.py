"""Which codes health records have: those of ten patients or more, the most frequent first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pmfed.cohort.contract.identity import digest
from pmfed.cohort.ehr.codes import split
from pmfed.cohort.ehr.event_tables import EventTables
from pmfed.cohort.ehr.events import EventSource
from pmfed.cohort.ehr.exports import Resource
from pmfed.cohort.ehr.fhir import Fhir
from pmfed.cohort.ehr.folder import inside
from pmfed.cohort.ehr.resources import KINDS, at, codings, each, happened, reference, value, word
from pmfed.cohort.survey.code_found import CodeFound
from pmfed.cohort.survey.names import MANY, harmless
from pmfed.cohort.table_rows import batches
from pmfed.cohort.tables import labels, values_of

if TYPE_CHECKING:
    from pmfed.cohort.ehr.omop import Omop

MOST = 40
"""Codes that are proposed of a source."""


@dataclass(frozen=True)
class RecordsFound:
    """Health records.

    Attributes
    ----------
    path
        A database, an export, a folder of tables, or the file that describes one.
    kind
        In words.
    ids
        Digests of the patients' ids; they are compared, never shown.
    written_notes
        Whether there are notes.
    """

    path: Path
    kind: str
    codes: tuple[CodeFound, ...]
    ids: frozenset[int] = field(default_factory=frozenset, repr=False)
    written_notes: bool = False


@dataclass(repr=False)
class _Told:
    """What was seen of one code: whose it is, by digests; names and units by the patients that they were seen with."""

    patients: set[int] = field(default_factory=set)
    numbers: int = 0
    events: int = 0
    units: Counter[str] = field(default_factory=Counter)
    words: Counter[str] = field(default_factory=Counter)

    def add(self, patient: int, number: bool, unit: str, words: str) -> None:
        if patient not in self.patients:  # a word counts once a patient
            self.patients.add(patient)
            self.units[unit] += bool(unit)
            self.words[words] += bool(words)
        self.events += 1
        self.numbers += number


def codes_of(path: Path, source: EventSource) -> RecordsFound:
    """Return the codes of a source."""
    kind, found, notes = _KINDS.get(type(source).__name__, _omop)(source)
    ids = frozenset(digest(one) for one in source.patients())
    return RecordsFound(path, kind, tuple(found)[:MOST], ids, notes)


def _listed(told: dict[str, _Told]) -> Iterator[CodeFound]:
    for code, one in sorted(told.items(), key=lambda item: (-len(item[1].patients), item[0])):
        if len(one.patients) < MANY or not harmless(code):
            continue
        yield CodeFound(code, _common(one.words), 2 * one.numbers > one.events, _common(one.units))


def _common(words: Counter[str]) -> str:
    """Return the most frequent of some words where many patients share it."""
    word, number = max(words.items(), key=lambda one: (one[1], one[0]), default=("", 0))
    return word if number >= MANY and harmless(word) else ""


def _fhir(source: Fhir) -> tuple[str, Iterator[CodeFound], bool]:
    told: dict[str, _Told] = {}
    notes = False
    for document in source.export.documents(frozenset(KINDS) | {"DocumentReference"}):
        for entry in document:
            name = word(entry.resource, "resourceType")
            notes |= name == "DocumentReference"
            if name in KINDS and name != "Encounter" and happened(entry.resource, KINDS[name]):
                _told_by(entry.resource, source.systems, told)
    return "FHIR export", _listed(told), notes


def _told_by(resource: Resource, systems: dict[str, str], told: dict[str, _Told]) -> None:
    patient = digest(reference(resource, "subject") or reference(resource, "patient"))
    kind = KINDS[resource["resourceType"]]
    drug = resource.get("medicationCodeableConcept") or at(resource, "medication.concept")
    parts: list[tuple[Resource, Any]] = [
        (resource, drug if kind.code == ("medication",) else resource.get(kind.code[0]))
    ]
    parts += [(one, one.get("code")) for one in each(resource, "component")]
    for part, concept in parts:
        names = {word(one, "code"): word(one, "display") for one in each(concept, "coding")}
        said = value(part) if resource["resourceType"] == "Observation" else None
        for system, code in codings(concept, systems):
            number = said is not None and not np.isnan(said.number)
            unit = said.unit if said is not None and number else ""
            told.setdefault(f"{system}:{code}", _Told()).add(patient, number, unit, names.get(code, ""))


def _omop(source: Omop) -> tuple[str, Iterator[CodeFound], bool]:
    from pmfed.cohort.survey.omop_codes import listed_codes

    return "OMOP database", listed_codes(source.database), source.database.holds("note")


def _tables(source: EventTables) -> tuple[str, Iterator[CodeFound], bool]:
    told: dict[str, _Told] = {}
    for table in source.file.tables:
        path = inside(source.folder, table.file, source.file.written)
        asked = list(table.columns) if table.columns else [table.code]
        for frame in batches(path, [table.patient, *asked], [table.value, table.unit]):
            columns = {table.code: table.system} if not table.columns else {}
            values = values_of(frame[table.value], source.file.written, table.value) if table.value in frame else None
            units = frame[table.unit].fillna("").astype(str).tolist() if table.unit in frame else [""] * len(frame)
            who, ids = labels(frame[table.patient])
            marks = [digest(one) for one in ids]
            for column, system in columns.items():
                codes, texts = labels(frame[column])
                named = [f"{system}:{text}" if system else text if split(text) else "" for text in texts]
                for row, code in enumerate(codes.tolist()):
                    if named[code]:
                        number = values is not None and bool(values.number[row] == values.number[row])
                        told.setdefault(named[code], _Told()).add(marks[who[row]], number, units[row].strip(), "")
            for column, spec in table.columns.items():
                numbers = ~np.isnan(values_of(frame[column], source.file.written, column).number)
                for row in np.flatnonzero(numbers).tolist():
                    told.setdefault(spec.code, _Told()).add(marks[who[row]], True, spec.unit, column)
    return "table of events", _listed(told), bool(source.file.notes)


_KINDS: dict[str, Callable[[Any], tuple[str, Iterator[CodeFound], bool]]] = {"Fhir": _fhir, "EventTables": _tables}
