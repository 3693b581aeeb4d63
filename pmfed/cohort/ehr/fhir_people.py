"""Patients and drugs of a FHIR export: what other resources refer to, learned before they are read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import TypeVar

import numpy as np

from pmfed.cohort.contract.identity import GONE, NONE, Version, newest
from pmfed.cohort.contract.people import CURRENT, OLD, People, Person
from pmfed.cohort.contract.times import DAY, span, today
from pmfed.cohort.ehr.codes import Coding
from pmfed.cohort.ehr.exports import Export, ExportEntry, Resource
from pmfed.cohort.ehr.resources import codings, each, reference, target, version, word
from pmfed.errors import DataError

_USES = {
    "usual": CURRENT, "official": CURRENT + 1, "": CURRENT + 2, "secondary": CURRENT + 3, "temp": CURRENT + 4, "old": OLD,
}  # fmt: skip
_Said = TypeVar("_Said")


@dataclass(frozen=True, repr=False)
class PersonTold:
    """What one version of a Patient says: who it is, when they died, whom it replaces and which server it is of."""

    person: Person
    death: str
    replaces: tuple[str, ...]
    server: str


class Registry:
    """Who the patients of an export are, and what its drugs are.

    Parameters
    ----------
    export
        The files.
    identifier
        System of the ``Patient.identifier`` that is the patient's id; None: the resource's id is.
    systems
        The hospital's own names of code systems.
    name
        What messages call the source.

    Raises
    ------
    DataError
        Two people have one id, or two resources differ under one id with nothing to tell which is newer.
    """

    def __init__(self, export: Export, identifier: str | None, systems: dict[str, str], name: str) -> None:
        self._identifier = identifier
        patients: dict[str, list[tuple[Version, PersonTold]]] = {}
        drugs: dict[str, list[tuple[Version, tuple[Coding, ...]]]] = {}
        for document in export.documents(frozenset({"Patient", "Medication"})):
            urls = urls_of(document)
            for url, resource, _ in document:
                key = word(resource, "id") or url
                if word(resource, "resourceType") == "Patient":
                    patients.setdefault(key, []).append((version(resource), self._told(resource, key, url, urls)))
                elif word(resource, "resourceType") == "Medication":
                    drugs.setdefault(key, []).append((version(resource), tuple(codings(resource.get("code"), systems))))
        latest = {key: _latest(listed) for key, listed in patients.items()}
        twice = sum(one is None or _two_people(patients[key]) for key, one in latest.items())
        if twice:
            raise DataError(
                f"{name}: {twice:,} {'patient' if twice == 1 else 'patients'} with more than one Patient resource that differ.",
                "Two people with one id cannot be told apart: give each an id of their own. Versions of one person need "
                "meta.versionId or meta.lastUpdated; exports of two servers belong into two sources.",
            )
        self.patients = {key: one[1] for key, one in latest.items() if one is not None and one[0].stage != GONE}
        self.drugs: dict[str, tuple[Coding, ...]] = {}
        for key, listed in drugs.items():
            drug = _latest(listed)
            if drug is None:
                raise DataError(
                    f"{name}: two different Medication resources have one id, and nothing tells which is newer.",
                    "Keep the newest, or export meta.versionId or meta.lastUpdated.",
                )
            self.drugs[key] = drug[1]
        self.people = People(self._linked(), name)
        self.without_id = sum(not told.person.ids for told in self.patients.values())

    def _told(self, resource: Resource, key: str, url: str, urls: dict[str, str]) -> PersonTold:
        links = [
            (word(link, "type") or word(link, "code"), target(reference(link, "other"), "Patient", urls))
            for link in each(resource, "link")
        ]
        after = next(
            (other for kind, other in links if kind in ("replaced-by", "replace") and other not in ("", key)), ""
        )
        ids = tuple(self._ids(resource)) if self._identifier else ((key, CURRENT),)
        return PersonTold(
            Person(ids, word(resource, "birthDate"), word(resource, "gender"), after),
            word(resource, "deceasedDateTime") or ("?" if resource.get("deceasedBoolean") is True else ""),
            tuple(other for kind, other in links if kind == "replaces" and other not in ("", key)),
            server_of(url, "Patient", key),
        )

    def _ids(self, resource: Resource) -> Iterator[tuple[str, int]]:
        """Yield the patient's ids of the hospital's system, each with its rank."""
        now = (today() - date(1970, 1, 1)).days * DAY
        for one in each(resource, "identifier"):
            if word(one, "system") != self._identifier or not word(one, "value").strip():
                continue
            end = span(word(one, "period.end"))
            past = end is not None and end.last < now
            yield word(one, "value").strip(), OLD if past else _USES.get(word(one, "use"), CURRENT + 2)

    def _linked(self) -> dict[str, Person]:
        """Return the people with the links that only the other end names."""
        people = {key: told.person for key, told in self.patients.items()}
        for key, told in self.patients.items():
            for other in told.replaces:
                if other in people and not people[other].replaced_by:
                    people[other] = replace(people[other], replaced_by=key)
        return people


def urls_of(document: Sequence[ExportEntry]) -> dict[str, str]:
    """Return the full URLs of a document that may be referred to -> TYPE/ID."""
    return {
        url: f"{word(resource, 'resourceType')}/{word(resource, 'id') or url}"
        for url, resource, _ in document
        if url and word(resource, "resourceType") in ("Patient", "Medication", "Encounter")
    }


def server_of(url: str, kind: str, key: str) -> str:
    """Return the server that a full URL names, "" where it names none."""
    ending = f"/{kind}/{key}"
    return url.removesuffix(ending) if url.startswith(("http://", "https://")) and url.endswith(ending) else ""


def _latest(listed: list[tuple[Version, _Said]]) -> tuple[Version, _Said] | None:
    """Return the newest version; None when several differ and nothing tells."""
    if all(said == listed[0][1] for _, said in listed):
        return listed[-1] if listed[-1][0].stage == GONE else listed[0]
    columns = [np.array([getattr(one, name) for one, _ in listed], dtype=np.int64) for name in Version._fields]
    at = newest(*columns)
    if at is not None:
        return listed[at]
    distinct = list(dict.fromkeys(listed))  # the same version may be there twice
    if len(distinct) == len(listed):
        return None
    return _latest(distinct)


def _two_people(listed: list[tuple[Version, PersonTold]]) -> bool:
    """Return whether what stands under one id are two people: of two servers, or of one version that differ."""
    if len({told.server for _, told in listed if told.server}) > 1:
        return len({(told.person.birth, told.person.sex) for _, told in listed}) > 1
    numbered: dict[int, set[tuple[str, str]]] = {}
    for one, told in listed:
        numbered.setdefault(one.number, set()).add((told.person.birth, told.person.sex))
    return any(len(told) > 1 for number, told in numbered.items() if number != NONE)
