"""FHIR as a source, https://hl7.org/fhir: bulk exports and Bundles, of STU3, R4, R4B and R5."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from pmfed.cohort.contract.identity import Settled, Versions, digest
from pmfed.cohort.contract.numbers import NOTHING, UNDECLARED
from pmfed.cohort.contract.times import dated, middle, span
from pmfed.cohort.contract.uses import (
    MODIFIED,
    NO_DATE,
    NOT_DONE,
    NOT_THEIRS,
    REPEATED,
    REPLACED,
    SYSTEM,
    VOIDED,
    Passed,
)
from pmfed.cohort.ehr.codes import Coding, Matcher
from pmfed.cohort.ehr.described import SourceFile
from pmfed.cohort.ehr.event_tables import SEXES
from pmfed.cohort.ehr.events import CHUNK, Asked, Chunk, EventRows, Ints, Persons, Texts
from pmfed.cohort.ehr.exports import Export, ExportEntry, Resource
from pmfed.cohort.ehr.fhir_people import Registry, server_of, urls_of
from pmfed.cohort.ehr.resources import (
    KINDS,
    VISITS,
    ResourceKind,
    about_another,
    answers,
    at,
    codings,
    date,
    each,
    happened,
    modified,
    reference,
    release,
    target,
    unknown,
    value,
    version,
    word,
)
from pmfed.cohort.tables import count
from pmfed.errors import DataError

NOTE = "DocumentReference"
UNREAD = ("notes that are not plain text within the export", "notes that cannot be decoded")
"""Why a note is lost."""
OLDEST = frozenset({"MedicationOrder"})
"""Types that only DSTU2 has."""

_URI = re.compile(r"(?:https?://|urn:(?:oid|uuid):|urn:)[\w./:#-]{1,80}", re.ASCII)


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
        self.written = file.written
        self.name = str(where)
        self.counts: Counter[str] = Counter()
        self.limits: list[str] = []
        self.spellings = file.units
        self.passed, self.refused, self.commas = Passed(), list[DataError](), list[DataError]()
        self._known: Registry | None = None
        self._referred: Counter[str] = Counter()
        self._unknown: Counter[str] = Counter()
        self._releases: Counter[str] = Counter()
        self._commas: list[int] = []
        if self.export.passed_over:
            self.counts["files that hold no FHIR"] = self.export.passed_over.total()
            endings = ", ".join(f"{ending}: {number:,}" for ending, number in self.export.passed_over.most_common(4))
            self.limits.append(
                f"{self.name}: {count(self.export.passed_over.total(), 'file')} holding no FHIR in JSON passed over ({endings})."
            )

    @property
    def _registry(self) -> Registry:
        """The patients and drugs: what refers to them may stand before them."""
        if self._known is None:
            self._known = Registry(self.export, self.identifier, self.systems, self.name)
            if self._known.without_id:
                self.counts["patients without an identifier of the site's system"] = self._known.without_id
        return self._known

    def patients(self) -> list[str]:
        """Return the ids of all patients, ascending."""
        return self._registry.people.listed()

    def events(self, matcher: Matcher, asked: Asked) -> Iterator[Chunk]:
        """Yield the events that are one of the matcher's concepts, once all versions of all records are known."""
        if any(concept.descendants for concept in matcher.concepts):
            self.limits.append(
                f"{self.name}: a FHIR export does not tell the descendants of a code; only codes as listed count."
            )
        place = self._registry.people.places(asked.ids)
        domains = {concept.domain for concept in matcher.concepts}
        wanted = frozenset(name for name, kind in KINDS.items() if None in domains or domains & kind.domains)
        rows, versions, held = EventRows(), Versions(), list[tuple[Chunk, Ints]]()
        for document in self.export.documents(wanted | {"Patient", "Medication"} | OLDEST):
            urls = urls_of(document)
            for entry in document:
                kind = word(entry.resource, "resourceType")
                if kind in OLDEST:
                    self._releases["DSTU2"] += 1
                elif kind in wanted:
                    self._translate(entry, _added(versions, entry), urls, matcher, place, rows)
            if len(rows) >= CHUNK:
                held.append(rows.chunk())
        held.append(rows.chunk())
        yield from self._settled(held, versions)
        self._finish()
        self._deaths(matcher, place, rows)
        yield rows.chunk()[0]

    def _settled(self, held: list[tuple[Chunk, Ints]], versions: Versions) -> Iterator[Chunk]:
        """Yield the events of the records that count; count the others."""
        settled = self._settle(versions)
        why = {REPEATED: settled.repeated, REPLACED: settled.replaced, VOIDED: settled.voided}
        for chunk, origin in held:
            for reason, marked in why.items():
                self.passed.count(chunk.concept[marked[origin]], reason)
            yield chunk.take(settled.counts[origin])

    def _settle(self, versions: Versions) -> Settled:
        try:
            settled = versions.settle(self.export.place_of)
        except DataError as error:
            raise DataError(f"{self.name}: {error.what}", error.remedy) from None
        told = {
            "records that the export holds again": settled.repeated,
            "older versions of records": settled.replaced,
            "versions of records that were withdrawn": settled.voided,
        }
        for what, marked in told.items():
            if marked.any():
                self.counts[what] += int(marked.sum())
                self.limits.append(
                    f"{self.name}: {int(marked.sum()):,} {what} passed over: the newest version counts, once."
                )
        return settled

    def _finish(self) -> None:
        """Tell what was seen, once every file was read."""
        dangling = sum(number for name, number in self._referred.items() if name not in self._registry.patients)
        if dangling := dangling + self.counts.pop("unresolved", 0):
            self.counts["references to patients the export does not hold"] = dangling
            self.limits.append(
                f"{self.name}: {count(dangling, 'record')} referring to a patient whom the export does not hold."
            )
        if self._unknown:
            named = ", ".join(f"{uri}: {number:,}" for uri, number in self._unknown.most_common(4))
            self.limits.append(
                f"{self.name}: {count(self._unknown.total(), 'code')} of a code system that is not known ({named}). "
                "Name it under [systems] where the source is described."
            )
        other = {name: number for name, number in self._releases.items() if name != "R4"}
        for name, number in sorted(other.items()):
            self.counts[f"records in the shape of FHIR {name}"] = number
            how = "passed over: its orders of drugs are not read" if name == "DSTU2" else "read as such"
            self.limits.append(f"{self.name}: {count(number, 'record')} in the shape of FHIR {name}, {how}.")
        if self._commas:
            self.commas.append(
                DataError(
                    f"{self.name}: {count(len(self._commas), 'value')} written as text with a comma or a blank that may part "
                    f"thousands or decimals (first in {self.export.place_of(self._commas[0])}).",
                    'Say how numbers are written: decimal = "," under [written] where the source is described.',
                )
            )

    def _place(self, resource: Resource, urls: dict[str, str], place: dict[str, int]) -> int | None:
        """Return whose record it is; None for nobody of the cohort."""
        written = reference(resource, "subject") or reference(resource, "patient")
        name = target(written, "Patient", urls) or self._logical(resource, written)
        if not name:
            self.counts["unresolved"] += not written.startswith("Group/")
            return None
        self._referred[name] += 1
        return place.get(name)

    def _logical(self, resource: Resource, written: str) -> str:
        """Return the patient whom a reference names by an identifier of the hospital's system; "" for none."""
        if not self.identifier:
            return ""
        asked = re.fullmatch(r"Patient\?identifier=(.*)\|(.*)", written)
        named = at(resource, "subject.identifier") or at(resource, "patient.identifier")
        system, one = asked.groups() if asked else (word(named, "system"), word(named, "value"))
        return self._registry.people.of_id(one) if system == self.identifier else ""

    def _translate(
        self,
        entry: ExportEntry,
        number: int,
        urls: dict[str, str],
        matcher: Matcher,
        place: dict[str, int],
        rows: EventRows,
    ) -> None:
        """Add what a resource says happened."""
        resource = entry.resource
        kind = KINDS[resource["resourceType"]]
        if word(resource, "status") == "deleted" and "code" not in resource:
            return
        patient = self._place(resource, urls, place)
        if patient is None:
            return
        self._releases[release(resource)] += 1
        never = self._never(resource, kind)
        if never == NOT_DONE:
            self.counts["records of what did not happen"] += 1
        for part, concept, strange in self._parts(resource, urls):
            concepts = matcher.choose(
                (one for coding in concept for one in matcher.of_coding(*coding)),
                kind.domains,
                *(answers(part, self.systems) if matcher.asks_answers else ((), ())),
            )
            if not never:
                self._count_unknown(concept, strange, concepts, matcher)
            if not concepts:
                continue
            if why := never or (MODIFIED if modified(part) else ""):
                self.passed.add(concepts, why)
                continue
            when = span(date(resource, kind.when), "iso", self.zone)
            if when is None:
                self.counts["events without a date"] += 1
                self.passed.add(concepts, NO_DATE)
                continue
            entered = span(date(resource, kind.known), "iso", self.zone)
            said = value(part, self.written)
            if said.why == UNDECLARED and matcher.measured[list(concepts)].any():
                self._commas.append(entry.place)
            known = when.last if entered is None else max(when.last, entered.last)
            adrift = when.adrift or (entered is not None and entered.adrift)
            rows.add(patient, when.last, known, concepts, said, adrift, number)

    def _never(self, resource: Resource, kind: ResourceKind) -> str:
        """Return why a resource tells of nothing that happened to its patient; "" where it does."""
        if not happened(resource, kind):
            return NOT_DONE
        if about_another(resource):
            self.counts["records about another than the patient"] += 1
            return NOT_THEIRS
        if modified(resource):
            self.counts["records with an extension that changes their meaning"] += 1
            return MODIFIED
        return ""

    def _count_unknown(
        self, concept: list[Coding], strange: list[Coding], concepts: Sequence[int], matcher: Matcher
    ) -> None:
        """Count codes of systems that are not known, above all those that look like one the study asks for."""
        if not concept:
            self.counts["events without a code of a known system"] += 1
        for uri, code in strange:
            meant = set(matcher.of_bare(code)) - set(concepts)
            if meant:
                shown = uri if _URI.fullmatch(uri) else "no URI"
                self.passed.add(meant, f"{SYSTEM} ({shown})")
                self._unknown[shown] += 1

    def _parts(self, resource: Resource, urls: dict[str, str]) -> Iterator[tuple[Resource, list[Coding], list[Coding]]]:
        """Yield what a resource tells, with its codes and those of unknown systems: itself, and an Observation's components."""
        name = resource["resourceType"]
        if name == "Encounter":
            found = [coding for one in each(resource, "type") for coding in codings(one, self.systems)]
            classes = [word(resource, "class"), *(word(one, "code") for one in each(resource, "class"))]
            classes += [word(coding, "code") for one in each(resource, "class") for coding in each(one, "coding")]
            kinds = dict.fromkeys(VISITS.get(one, "other") for one in classes if one)
            yield resource, [*found, *(("VISIT", kind) for kind in kinds or ["other"])], []
        elif KINDS[name].code == ("medication",):
            yield resource, *self._drug(resource, urls)
        else:
            concept = resource.get(KINDS[name].code[0])
            yield resource, codings(concept, self.systems), unknown(concept, self.systems)
        for component in each(resource, "component") if name == "Observation" else ():
            concept = component.get("code")
            yield component, codings(concept, self.systems), unknown(concept, self.systems)

    def _drug(self, resource: Resource, urls: dict[str, str]) -> tuple[list[Coding], list[Coding]]:
        concept = resource.get("medicationCodeableConcept") or at(resource, "medication.concept")
        found, strange = codings(concept, self.systems), unknown(concept, self.systems)
        written = reference(resource, "medicationReference") or reference(resource, "medication.reference")
        written = written or reference(resource, "medication")
        if found or not written:
            return found, strange
        for one in each(resource, "contained"):
            if written == f"#{word(one, 'id')}":
                return codings(one.get("code"), self.systems), unknown(one.get("code"), self.systems)
        name = target(written, "Medication", urls)
        if name not in self._registry.drugs:
            self.counts["references to drugs the export does not hold"] += 1
        return list(self._registry.drugs.get(name, ())), strange

    def _deaths(self, matcher: Matcher, place: dict[str, int], rows: EventRows) -> None:
        concepts = matcher.choose(matcher.of_coding("DEATH", "death"), frozenset({"death"}))
        dead: set[int] = set()
        for key, told in self._registry.patients.items() if concepts else ():
            patient = place.get(key)
            if patient is None or not told.death or patient in dead:
                continue
            dead.add(patient)
            when = span(told.death, "iso", self.zone)
            if when is None:
                self.counts["deaths without a date"] += 1
                self.passed.add(concepts, NO_DATE)
            else:
                rows.add(patient, when.last, when.last, concepts, NOTHING, when.adrift)

    def persons(self, asked: Asked) -> Persons:
        """Return who the patients are."""
        place, out = self._registry.people.places(asked.ids), Persons.nobody(len(asked.ids))
        for key, told in self._registry.patients.items():
            if (rank := place.get(key)) is None:
                continue
            out.there[rank] = True
            replaced = bool(told.person.replaced_by)  # the record that took its place has the last word
            if np.isnat(out.birth[rank]) or not replaced:
                out.birth[rank] = middle(told.person.birth) if told.person.birth else out.birth[rank]
            if out.sex[rank] < 0 or not replaced:
                out.sex[rank] = SEXES.get(told.person.sex, out.sex[rank])
        return out

    def notes(self, asked: Asked) -> Iterator[Texts]:
        """Yield the notes of the patients asked for: the text within DocumentReference resources."""
        place, versions = self._registry.people.places(asked.ids), Versions()
        for entry in self._notes_of():
            _added(versions, entry)
        counts = self._settle(versions).counts
        number = -1
        for document in self.export.documents(frozenset({NOTE})):
            urls = urls_of(document)
            patients, dates, texts = [], [], []
            for entry in document:
                if word(entry.resource, "resourceType") != NOTE:
                    continue
                number += 1
                patient = self._place(entry.resource, urls, place) if counts[number] else None
                text = self._note(entry.resource) if patient is not None else ""
                if patient is not None and text:
                    patients.append(patient)
                    dates.append(date(entry.resource, ("date", "created", "indexed", "context.period.end")))
                    texts.append(text)
            if texts:
                when = dated(dates, "iso", self.zone).last
                yield Texts(np.array(patients, dtype=np.int64), when, when, texts)
        self._finish()

    def _notes_of(self) -> Iterator[ExportEntry]:
        for document in self.export.documents(frozenset({NOTE})):
            yield from (entry for entry in document if word(entry.resource, "resourceType") == NOTE)

    def _note(self, resource: Resource) -> str:
        if {word(resource, "status"), word(resource, "docStatus")} & {"entered-in-error", "superseded", "deleted"}:
            self.counts["records of what did not happen"] += 1
            return ""
        found = []
        for content in each(resource, "content"):
            data, kind = word(content, "attachment.data"), word(content, "attachment.contentType")
            if not data or not (kind or "text/plain").startswith("text/plain"):
                self.counts[UNREAD[0]] += 1
                continue
            try:
                found.append(base64.b64decode(data, validate=False).decode("utf-8", errors="replace"))
            except (binascii.Error, ValueError):
                self.counts[UNREAD[1]] += 1
        return "\n".join(found)


def _added(versions: Versions, entry: ExportEntry) -> int:
    """Add a record to those whose versions are told apart; one without an id is all that it says."""
    resource = entry.resource
    kind, one = word(resource, "resourceType"), word(resource, "id")
    content = digest(json.dumps(resource, sort_keys=True, separators=(",", ":")))
    key = digest(f"{server_of(entry.url, kind, one)}\x1f{kind}/{one}") if one else content
    return versions.add(key, content, version(resource), entry.place)
