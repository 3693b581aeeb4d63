"""FHIR R4 as a source, https://hl7.org/fhir/R4: bulk exports and Bundles."""

from __future__ import annotations

import base64
import binascii
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pmfed.cohort.ehr.codes import Coding, Matcher
from pmfed.cohort.ehr.described import SourceFile
from pmfed.cohort.ehr.event_tables import SEXES
from pmfed.cohort.ehr.events import CHUNK, Asked, Chunk, Persons, Rows, Texts
from pmfed.cohort.ehr.exports import Entry, Export, Resource
from pmfed.cohort.ehr.moments import last_second, last_seconds, middle
from pmfed.cohort.ehr.resources import (
    KINDS,
    VISITS,
    answers,
    codings,
    date,
    each,
    happened,
    reference,
    target,
    value,
    word,
)
from pmfed.cohort.tables import count
from pmfed.errors import DataError

NOTE = "DocumentReference"


@dataclass(frozen=True, repr=False)
class _Person:
    patient: str
    birth: str
    sex: str
    death: str


class Fhir:
    """A FHIR export as a source.

    Parameters
    ----------
    where
        Folder or file.
    file
        The site's description.
    """

    def __init__(self, where: Path, file: SourceFile) -> None:
        assert file.fhir is not None
        self.export = Export(where)
        self.identifier, self.zone, self.systems = file.fhir.identifier, file.zone, file.systems
        self.name = str(where)
        self.counts: Counter[str] = Counter()
        self.limits: list[str] = []
        self.spellings = file.units
        self._persons: dict[str, _Person] = {}  # by the id of the resource
        self._twice: set[str] = set()
        self._complete = False
        self._referred: Counter[str] = Counter()
        self._drugs: dict[str, list[Coding]] = {}

    def patients(self) -> list[str]:
        """Return the ids of all patients, ascending."""
        self._read_persons()
        return sorted({person.patient for person in self._persons.values() if person.patient})

    def events(self, matcher: Matcher, asked: Asked) -> Iterator[Chunk]:
        """Yield the events that are one of the matcher's concepts."""
        if any(concept.descendants for concept in matcher.concepts):
            self.limits.append(
                f"{self.name}: a FHIR export does not tell the descendants of a code; only codes as listed count."
            )
        if self.identifier:
            self._read_persons()  # what refers to a patient may stand before the patient
        place = {one: rank for rank, one in enumerate(asked.ids)}
        domains = {concept.domain for concept in matcher.concepts}
        wanted = {name for name, kind in KINDS.items() if None in domains or domains & kind.domains}
        rows = Rows()
        for document in self.export.documents(frozenset({*wanted, "Patient", "Medication"})):
            urls = self._introduce(document)
            for _, resource in document:
                if resource.get("resourceType") in wanted:
                    self._translate(resource, urls, matcher, place, rows)
            if len(rows) >= CHUNK:
                yield rows.chunk()
        self._finish()
        self._deaths(matcher, place, rows)
        yield rows.chunk()

    def _introduce(self, document: list[Entry]) -> dict[str, str]:
        """Learn the patients and drugs of a document; return the full URLs that may be referred to."""
        urls = {}
        for url, resource in document:
            kind, name = word(resource, "resourceType"), word(resource, "id")
            if kind == "Patient":
                self._introduce_patient(resource, name or url)
            elif kind == "Medication":
                self._drugs[name or url] = codings(resource.get("code"), self.systems)
            else:
                continue
            if url:
                urls[url] = f"{kind}/{name or url}"
        return urls

    def _introduce_patient(self, resource: Resource, name: str) -> None:
        known = name
        if self.identifier:
            own = (one for one in each(resource, "identifier") if word(one, "system") == self.identifier)
            known = next((text for one in own if (text := word(one, "value"))), "")
        death = word(resource, "deceasedDateTime") or ("?" if resource.get("deceasedBoolean") is True else "")
        person = _Person(known, word(resource, "birthDate"), word(resource, "gender"), death)
        if self._persons.setdefault(name, person) != person:
            self._twice.add(name)

    def _finish(self) -> None:
        """Judge what was learned, once every file was read."""
        self._complete = True
        if self.identifier:
            births: dict[str, set[tuple[str, str]]] = {}
            for person in self._persons.values():
                births.setdefault(person.patient, set()).add((person.birth, person.sex))
            without = sum(not person.patient for person in self._persons.values())
            self.counts["patients without an identifier of the site's system"] = without
            self._twice |= {name for name, found in births.items() if name and len(found) > 1}
        if self._twice:
            raise DataError(
                f"{self.name}: {count(len(self._twice), 'patient')} with more than one Patient resource that differ.",
                "Two people with one id cannot be told apart: give each an id of their own.",
            )
        dangling = sum(number for name, number in self._referred.items() if name not in self._persons)
        if dangling := dangling + self.counts.pop("unresolved", 0):
            self.counts["references to patients the export does not hold"] = dangling
            self.limits.append(
                f"{self.name}: {count(dangling, 'record')} referring to a patient whom the export does not hold."
            )

    def _place(self, resource: Resource, urls: dict[str, str], place: dict[str, int]) -> int | None:
        """Return whose record it is; None for nobody of the cohort."""
        written = reference(resource, "subject") or reference(resource, "patient")
        name = target(written, "Patient", urls)
        if not name:
            self.counts["unresolved"] += not written.startswith("Group/")
            return None
        self._referred[name] += 1
        if not self.identifier:
            return place.get(name)
        person = self._persons.get(name)
        return place.get(person.patient) if person and person.patient else None

    def _translate(
        self, resource: Resource, urls: dict[str, str], matcher: Matcher, place: dict[str, int], rows: Rows
    ) -> None:
        """Add what a resource says happened."""
        kind = KINDS[resource["resourceType"]]
        patient = self._place(resource, urls, place)
        if patient is None:
            return
        if not happened(resource, kind):
            self.counts["records of what did not happen"] += 1
            return
        for part, concept in self._parts(resource, urls):
            concepts = matcher.choose(
                (place for coding in concept for place in matcher.of_coding(*coding)),
                kind.domains,
                *(answers(part, self.systems) if matcher.asks_answers else ((), ())),
            )
            if not concept:
                self.counts["events without a code of a known system"] += 1
            if not concepts:
                continue
            when = last_second(date(resource, kind), self.zone)
            if when is None:
                self.counts["events without a date"] += 1
                continue
            entered = last_second(word(resource, kind.known), self.zone) if kind.known else None
            number, unit = value(part)
            rows.add(patient, when, when if entered is None else max(when, entered), concepts, number, unit)

    def _parts(self, resource: Resource, urls: dict[str, str]) -> Iterator[tuple[Resource, list[Coding]]]:
        """Yield what a resource tells, with its codes: itself, and the components of an Observation."""
        name = resource["resourceType"]
        if name == "Encounter":
            found = [coding for one in each(resource, "type") for coding in codings(one, self.systems)]
            kinds = [VISITS.get(word(one, "code"), "other") for one in each(resource, "class")]
            yield resource, [*found, *(("VISIT", kind) for kind in kinds or ["other"])]
        elif KINDS[name].code == "medication":
            yield resource, self._drug(resource, urls)
        else:
            yield resource, codings(resource.get(KINDS[name].code), self.systems)
        for component in each(resource, "component") if name == "Observation" else ():
            yield component, codings(component.get("code"), self.systems)

    def _drug(self, resource: Resource, urls: dict[str, str]) -> list[Coding]:
        found = codings(resource.get("medicationCodeableConcept"), self.systems)
        written = reference(resource, "medicationReference")
        if found or not written:
            return found
        for one in each(resource, "contained"):
            if written == f"#{word(one, 'id')}":
                return codings(one.get("code"), self.systems)
        name = target(written, "Medication", urls)
        if name not in self._drugs:
            self.counts["references to drugs the export does not hold"] += 1
        return self._drugs.get(name, [])

    def _deaths(self, matcher: Matcher, place: dict[str, int], rows: Rows) -> None:
        concepts = matcher.choose(matcher.of_coding("DEATH", "death"), frozenset({"death"}))
        for person in self._persons.values() if concepts else ():
            patient = place.get(person.patient)
            if patient is None or not person.death:
                continue
            when = last_second(person.death, self.zone)
            if when is None:
                self.counts["deaths without a date"] += 1
            else:
                rows.add(patient, when, when, concepts, np.nan, "")

    def persons(self, asked: Asked) -> Persons:
        """Return who the patients are."""
        self._read_persons()
        out, place = Persons.nobody(len(asked.ids)), {one: rank for rank, one in enumerate(asked.ids)}
        for person in self._persons.values():
            if (rank := place.get(person.patient)) is not None:
                out.there[rank] = True
                out.birth[rank] = middle(person.birth)
                out.sex[rank] = SEXES.get(person.sex, -1)
        return out

    def _read_persons(self) -> None:
        if not self._complete:
            for document in self.export.documents(frozenset({"Patient", "Medication"})):
                self._introduce(document)
            self._finish()

    def notes(self, asked: Asked) -> Iterator[Texts]:
        """Yield the notes of the patients asked for: the text within DocumentReference resources."""
        if self.identifier:
            self._read_persons()
        place = {one: rank for rank, one in enumerate(asked.ids)}
        for document in self.export.documents(frozenset({NOTE, "Patient"})):
            urls = self._introduce(document)
            patients, dates, texts = [], [], []
            for _, resource in document:
                if resource.get("resourceType") != NOTE:
                    continue
                patient = self._place(resource, urls, place)
                text = self._note(resource) if patient is not None else ""
                if patient is not None and text:
                    patients.append(patient)
                    dates.append(word(resource, "date") or word(resource, "context.period.end"))
                    texts.append(text)
            if texts:
                when = last_seconds(dates, self.zone)
                yield Texts(np.array(patients, dtype=np.int64), when, when, texts)
        self._finish()

    def _note(self, resource: Resource) -> str:
        if {word(resource, "status"), word(resource, "docStatus")} & {"entered-in-error", "superseded"}:
            self.counts["records of what did not happen"] += 1
            return ""
        found = []
        for content in each(resource, "content"):
            data, kind = word(content, "attachment.data"), word(content, "attachment.contentType")
            if not data or not (kind or "text/plain").startswith("text/plain"):
                self.counts["notes that are not plain text within the export"] += 1
                continue
            try:
                found.append(base64.b64decode(data, validate=False).decode("utf-8", errors="replace"))
            except (binascii.Error, ValueError):
                self.counts["notes that cannot be decoded"] += 1
        return "\n".join(found)
