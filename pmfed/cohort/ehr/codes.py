"""Codes of clinical vocabularies: how they are spelled, and which of a study's concepts an event is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pmfed.modality.ehr import Concept, EventFeature

Coding = tuple[str, str]
"""System and code, as a source has them."""

URIS = {
    "loinc.org": "LOINC",
    "snomed.info/sct": "SNOMED",
    "snomed.info/id": "SNOMED",
    "www.nlm.nih.gov/research/umls/rxnorm": "RxNorm",
    "hl7.org/fhir/sid/icd-10": "ICD10",
    "hl7.org/fhir/sid/icd-10-cm": "ICD10CM",
    "hl7.org/fhir/sid/icd-10-us": "ICD10CM",
    "hl7.org/fhir/sid/icd-10-de": "ICD10GM",
    "hl7.org/fhir/sid/icd-9-cm": "ICD9CM",
    "hl7.org/fhir/sid/icd-9-cm/diagnosis": "ICD9CM",
    "hl7.org/fhir/sid/icd-9-cm/procedure": "ICD9Proc",
    "www.cms.gov/Medicare/Coding/ICD10": "ICD10PCS",
    "www.icd10data.com/icd10pcs": "ICD10PCS",
    "fhir.de/CodeSystem/bfarm/icd-10-gm": "ICD10GM",
    "fhir.de/CodeSystem/dimdi/icd-10-gm": "ICD10GM",
    "fhir.de/CodeSystem/bfarm/ops": "OPS",
    "fhir.de/CodeSystem/dimdi/ops": "OPS",
    "fhir.de/CodeSystem/bfarm/atc": "ATC",
    "fhir.de/CodeSystem/dimdi/atc": "ATC",
    "fhir.de/CodeSystem/ifa/pzn": "PZN",
    "www.whocc.no/atc": "ATC",
    "www.ama-assn.org/go/cpt": "CPT4",
    "hl7.org/fhir/sid/ndc": "NDC",
    "hl7.org/fhir/sid/cvx": "CVX",
    "urn:oid:2.16.840.1.113883.6.1": "LOINC",
    "urn:oid:2.16.840.1.113883.6.96": "SNOMED",
    "urn:oid:2.16.840.1.113883.6.88": "RxNorm",
    "urn:oid:2.16.840.1.113883.6.3": "ICD10",
    "urn:oid:2.16.840.1.113883.6.90": "ICD10CM",
    "urn:oid:2.16.840.1.113883.6.4": "ICD10PCS",
    "urn:oid:2.16.840.1.113883.6.103": "ICD9CM",
    "urn:oid:2.16.840.1.113883.6.104": "ICD9Proc",
    "urn:oid:2.16.840.1.113883.6.12": "CPT4",
    "urn:oid:2.16.840.1.113883.6.69": "NDC",
    "urn:oid:2.16.840.1.113883.6.73": "ATC",
    "urn:oid:2.16.840.1.113883.6.59": "CVX",
    "urn:oid:2.16.840.1.113883.12.292": "CVX",
}
"""Code systems by the URI that FHIR names them by, https://hl7.org/fhir/R4/terminologies-systems.html, and older ones
that exports still write; without what is written in more than one way: ``http://``, a slash at the end, a version."""

_ALIASES = {"snomedct": "snomed", "sct": "snomed"}
_NOT_IN_NAMES = re.compile(r"[^a-z0-9]")
_CODE = re.compile(r"([A-Za-z][A-Za-z0-9 _-]*):(\S(?:.*\S)?)", re.DOTALL)


class Code(NamedTuple):
    """A code of a study in its one spelling; ``prefix`` means every code that begins so."""

    system: str
    code: str
    prefix: bool


def system_of(name: str) -> str:
    """Return the one spelling of a code system's name: ``ICD-10-CM`` and ``ICD10CM`` are the same."""
    plain = _NOT_IN_NAMES.sub("", name.casefold())
    return _ALIASES.get(plain, plain)


def code_of(system: str, code: str) -> str:
    """Return the one spelling of a code of a system: ICD codes are written with and without their point."""
    return code.strip().upper().replace(".", "") if system.startswith("icd") else code.strip()


_SHORT = {uri.casefold().removeprefix("www."): name for uri, name in URIS.items()}
_NAMES = frozenset(system_of(name) for name in URIS.values()) | {"omop", "visit", "death"}


def named_system(text: str, own: Mapping[str, str]) -> str:
    """Return the name of a code system that a source names by its URI; "" for none that is known.

    Parameters
    ----------
    text
        A URI, however it is spelled: with ``http`` or ``https``, a slash at its end, or ``|`` and a version.
    own
        The hospital's own names and URIs -> the names the study uses.
    """
    if text in own:
        return own[text]
    plain = re.sub(r"^https?://(www\.)?", "", text.strip().partition("|")[0].casefold()).rstrip("/")
    plain = re.sub(r"^(snomed\.info/sct)/.*", r"\1", plain)  # an edition or a version of it
    return _SHORT.get(plain) or _SHORT.get(f"urn:oid:{plain}", "")


def known_system(name: str) -> bool:
    """Return whether a code system's name is one of those that FHIR and OMOP share."""
    return system_of(name) in _NAMES


def split(text: str) -> Coding | None:
    """Return system and code of ``SYSTEM:CODE``, or None when the text is not of that form."""
    match = _CODE.fullmatch(text.strip())
    return (match.group(1), match.group(2)) if match else None


def read(text: str) -> Code:
    """Read a code of a study, which its pattern has checked already."""
    coding = split(text)
    assert coding is not None
    system = system_of(coding[0])
    code = code_of(system, coding[1].removesuffix("*"))
    return Code(system, code, coding[1].endswith("*"))


@dataclass
class _Index:
    """Codes to the concepts that name them."""

    exact: dict[tuple[str, str], tuple[int, ...]]
    prefixes: dict[str, list[tuple[str, int]]]

    @classmethod
    def build(cls, codes: Iterable[tuple[int, Code]]) -> _Index:
        index = cls({}, {})
        for place, (system, code, prefix) in codes:
            if prefix:
                index.prefixes.setdefault(system, []).append((code, place))
            else:
                index.exact[system, code] = (*index.exact.get((system, code), ()), place)
        return index

    def find(self, system: str, code: str) -> tuple[int, ...]:
        starting = [place for start, place in self.prefixes.get(system, ()) if code.startswith(start)]
        return (*self.exact.get((system, code), ()), *starting)


class Matcher:
    """Tells which of some concepts an event is. An event that several codings describe is a concept once.

    Parameters
    ----------
    concepts
        Concepts of a study.

    Attributes
    ----------
    measured : (C,) bool
        Which of them are asked for their values.
    seen
        Those that any event named so far.
    """

    def __init__(self, concepts: Sequence[Concept]) -> None:
        self.concepts = tuple(concepts)
        self.codes = tuple(tuple(read(text) for text in concept.codes) for concept in concepts)
        self.measured = np.array([isinstance(one, EventFeature) and one.measured for one in concepts], dtype=bool)
        self.asks_answers = any(concept.answers for concept in concepts)
        self.seen: set[int] = set()
        codes = [(place, code) for place, listed in enumerate(self.codes) for code in listed]
        self._index = _Index.build(codes)
        self._bare = _Index.build((place, code._replace(system="")) for place, code in codes)
        self._domains = [concept.domain for concept in concepts]
        self._answers = [frozenset(_answers(concept.answers)) for concept in concepts]
        self._known: dict[Coding, tuple[int, ...]] = {}

    def of_coding(self, system: str, code: str) -> tuple[int, ...]:
        """Return the concepts that name a code."""
        found = self._known.get((system, code))
        if found is None:
            spelled = system_of(system)
            found = self._known[system, code] = self._index.find(spelled, code_of(spelled, code))
        return found

    def of_bare(self, code: str) -> tuple[int, ...]:
        """Return the concepts that name a code whose system the source does not tell."""
        return tuple({*self._bare.find("", code.strip()), *self._bare.find("", code_of("icd", code))})

    def choose(
        self,
        places: Iterable[int],
        domains: frozenset[str] = frozenset(),
        answers: Iterable[Coding] = (),
        texts: Iterable[str] = (),
    ) -> tuple[int, ...]:
        """Return which of the concepts that name an event's codes it is.

        Parameters
        ----------
        places
            Concepts that name one of its codes.
        domains
            What kind of event it may be; empty when the source does not tell.
        answers, texts
            What it says, coded and written.
        """
        found = []
        said: frozenset[str] | None = None
        for place in sorted(set(places)):
            self.seen.add(place)
            domain = self._domains[place]
            if domain is not None and domains and domain not in domains:
                continue
            if self._answers[place]:
                if said is None:
                    said = frozenset(_said(answers, texts))
                if not said & self._answers[place]:
                    continue
            found.append(place)
        return tuple(found)


def _answers(listed: Iterable[str]) -> Iterable[str]:
    for text in listed:
        yield text.strip().casefold()
        if coding := split(text):
            yield _coded(*coding)


def _said(answers: Iterable[Coding], texts: Iterable[str]) -> Iterable[str]:
    yield from (_coded(*coding) for coding in answers)
    yield from (text.strip().casefold() for text in texts if text.strip())


def _coded(system: str, code: str) -> str:
    spelled = system_of(system)
    return f"{spelled}\x1f{code_of(spelled, code)}"
