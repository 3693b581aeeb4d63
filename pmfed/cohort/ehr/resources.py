"""What FHIR resources say: codes, values, dates and status, in the shapes of STU3, R4, R4B and R5.

Nothing here trusts a resource to fit FHIR's schema: a part of another shape is a part that is missing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo

from pmfed.cohort.contract.identity import NONE, STAGES, Version
from pmfed.cohort.contract.numbers import LIMITS, NO_NUMBER, NOTHING, RANGE, Value, read_value
from pmfed.cohort.contract.times import span
from pmfed.cohort.contract.written import PLAIN, Written
from pmfed.cohort.ehr.codes import Coding, named_system
from pmfed.cohort.ehr.exports import Resource

UCUM = ("http://unitsofmeasure.org", "https://unitsofmeasure.org", "http://unitsofmeasure.org/")
_UTC = ZoneInfo("UTC")
_PART = re.compile(r"\d:\d\d\.(\d+)", re.ASCII)
COMPARATOR = "a comparator that says neither more nor less"


@dataclass(frozen=True)
class ResourceKind:
    """A type of resource as events.

    Attributes
    ----------
    domains
        What kind of event it may be.
    code
        Where its codes are: the first of these that is filled in.
    when
        Where its date is: the first that is filled in.
    known
        Where it says when it was entered: the first that is filled in.
    never
        Values of its status, or of what else says so, that mean it did not happen.
    """

    domains: frozenset[str]
    code: tuple[str, ...]
    when: tuple[str, ...]
    known: tuple[str, ...] = ()
    never: frozenset[str] = frozenset()


_ERROR = frozenset({"entered-in-error", "deleted"})
_DRUG = ("medication",)

KINDS = {
    "Condition": ResourceKind(
        frozenset({"condition"}), ("code",), ("onsetDateTime", "onsetPeriod.start", "recordedDate", "assertedDate"),
        ("recordedDate", "assertedDate"), _ERROR | {"refuted", "differential"},
    ),
    # A value that stands for a period is known at its end.
    "Observation": ResourceKind(
        frozenset({"measurement", "observation"}), ("code",),
        ("effectiveDateTime", "effectiveInstant", "effectivePeriod.end", "effectiveTiming.event", "issued",
         "effectivePeriod.start"),
        ("issued",), _ERROR | {"cancelled"},
    ),
    "MedicationRequest": ResourceKind(
        frozenset({"drug"}), _DRUG, ("authoredOn",), (), _ERROR | {"cancelled", "draft", "proposal", "plan", "option"}
    ),
    "MedicationStatement": ResourceKind(
        frozenset({"drug"}), _DRUG, ("effectiveDateTime", "effectivePeriod.start", "effectiveTiming.event", "dateAsserted"),
        ("dateAsserted",), _ERROR | {"not-taken", "intended", "draft", "n", "na", "not-taking", "never-taken"},
    ),
    "MedicationAdministration": ResourceKind(
        frozenset({"drug"}), _DRUG,
        ("effectiveDateTime", "effectivePeriod.start", "occurenceDateTime", "occurencePeriod.start", "occurrenceDateTime",
         "occurrencePeriod.start", "occurenceTiming.event"),
        ("recorded",), _ERROR | {"not-done"},
    ),
    "MedicationDispense": ResourceKind(
        frozenset({"drug"}), _DRUG, ("whenHandedOver", "whenPrepared"), (),
        _ERROR | {"cancelled", "declined", "preparation"},
    ),
    "Immunization": ResourceKind(
        frozenset({"drug"}), ("vaccineCode",), ("occurrenceDateTime", "date", "recorded"), ("recorded",),
        _ERROR | {"not-done"},
    ),
    "Procedure": ResourceKind(
        frozenset({"procedure"}), ("code",),
        ("performedDateTime", "performedPeriod.start", "occurrenceDateTime", "occurrencePeriod.start",
         "occurrenceTiming.event"),
        ("recorded",), _ERROR | {"not-done", "preparation"},
    ),
    "Encounter": ResourceKind(
        frozenset({"visit"}), ("type",), ("period.start", "actualPeriod.start"), (), _ERROR | {"cancelled", "planned"}
    ),
}  # fmt: skip

VISITS = {
    "IMP": "inpatient", "ACUTE": "inpatient", "NONAC": "inpatient", "SS": "inpatient", "EMER": "emergency",
    "AMB": "outpatient", "VR": "outpatient", "HH": "outpatient", "FLD": "outpatient", "inpatient": "inpatient",
    "outpatient": "outpatient", "ambulatory": "outpatient", "emergency": "emergency",
}  # fmt: skip
"""Kinds of visits by Encounter.class, https://terminology.hl7.org/ValueSet-encounter-class.html, and by DSTU2's words."""

_STU3 = {
    "Condition": ("assertedDate", "context"), "Observation": ("comment", "related", "context"),
    "MedicationRequest": ("context", "definition"), "MedicationStatement": ("taken", "reasonNotTaken"),
    "MedicationAdministration": ("notGiven", "prescription", "reasonNotGiven"), "Immunization": ("notGiven", "date"),
    "Procedure": ("notDone", "context", "notDoneReason"),
}  # fmt: skip
_R5 = {
    "Condition": ("participant",), "Observation": ("triggeredBy", "instantiatesCanonical", "instantiatesReference"),
    "MedicationRequest": ("medication", "renderedDosageInstruction"), "MedicationStatement": ("medication", "adherence"),
    "MedicationAdministration": ("medication", "occurenceDateTime", "occurencePeriod"), "Encounter": ("actualPeriod",),
    "Procedure": ("occurrenceDateTime", "occurrencePeriod"), "MedicationDispense": ("medication",),
}  # fmt: skip


def release(resource: Resource) -> str:
    """Return whose shape a resource has: ``"STU3"``, ``"R5"``, or ``"R4"`` (and R4B) where nothing says otherwise."""
    kind = word(resource, "resourceType")
    plain = any(isinstance(resource.get(name), str) for name in ("verificationStatus", "clinicalStatus"))
    if plain or any(name in resource for name in _STU3.get(kind, ())):
        return "STU3"
    listed = kind == "Encounter" and isinstance(resource.get("class"), list)
    return "R5" if listed or any(name in resource for name in _R5.get(kind, ())) else "R4"


def at(resource: Any, path: str) -> Any:
    """Return what stands at a path of keys, or None."""
    if "." not in path:
        return resource.get(path) if isinstance(resource, dict) else None
    for key in path.split("."):
        resource = resource.get(key) if isinstance(resource, dict) else None
    return resource


def word(resource: Any, path: str) -> str:
    """Return the text at a path, or ""."""
    found = at(resource, path)
    return found if isinstance(found, str) else ""


def each(resource: Any, path: str) -> Iterator[Resource]:
    """Yield the objects of the list at a path, or the object that stands there alone."""
    found = at(resource, path)
    for one in found if isinstance(found, list) else [found]:
        if isinstance(one, dict):
            yield one


def happened(resource: Resource, kind: ResourceKind) -> bool:
    """Return whether a resource says that something happened, by its status and by whatever else its release has."""
    if any(
        resource.get(name) is True for name in ("doNotPerform", "notDone", "notGiven", "wasNotGiven", "wasNotTaken")
    ):
        return False
    said = {word(resource, name) for name in ("status", "intent", "taken", "verificationStatus")}
    said |= {word(coding, "code") for coding in each(resource, "verificationStatus.coding")}
    said |= {word(coding, "code") for coding in each(resource, "adherence.code.coding")}
    return not said & kind.never


def about_another(resource: Resource) -> bool:
    """Return whether a resource is about somebody or something else than its subject: a donor, a child not yet born."""
    own = {reference(resource, "subject"), reference(resource, "patient")}
    return any(word(one, "reference") not in own for one in each(resource, "focus")) and "focus" in resource


def modified(resource: Resource) -> bool:
    """Return whether something says that a resource does not mean what it seems to: FHIR forbids to overlook it."""
    return bool(resource.get("modifierExtension")) or bool(resource.get("implicitRules"))


def version(resource: Resource) -> Version:
    """Return what tells the age of a version."""
    told, number = word(resource, "meta.lastUpdated"), word(resource, "meta.versionId")
    updated, part = span(told, "iso", _UTC), _PART.search(told)
    micro = int(part[1][:6].ljust(6, "0")) if part else 0
    return Version(
        NONE if updated is None else updated.first * 1_000_000 + micro,
        int(number) if number.isascii() and number.isdecimal() and len(number) < 18 else NONE,
        STAGES.get(word(resource, "status"), NONE),
    )


def date(resource: Resource, paths: tuple[str, ...]) -> str:
    """Return the first date that is filled in, as it is written, or ""; of a list of moments the last."""
    for path in paths:
        found = at(resource, path)
        listed = [one for one in found if isinstance(one, str)] if isinstance(found, list) else []
        if text := (max(listed, default="") if listed else word(resource, path)):
            return text
    return ""


def codings(concept: Any, systems: dict[str, str]) -> list[Coding]:
    """Return the codes of a CodeableConcept whose system is known; ``systems`` are the hospital's own URIs."""
    found = []
    for coding in each(concept, "coding"):
        name, code = named_system(word(coding, "system"), systems), word(coding, "code")
        if name and code.strip():
            found.append((name, code))
    return found


def unknown(concept: Any, systems: dict[str, str]) -> list[Coding]:
    """Return URI and code of the codes whose system is not known."""
    listed = [(word(coding, "system"), word(coding, "code")) for coding in each(concept, "coding")]
    return [(uri, code) for uri, code in listed if code.strip() and not named_system(uri, systems)]


def value(observation: Any, written: Written = PLAIN) -> Value:
    """Return the value of an Observation or of a component; ``written`` says how numbers in its texts are written."""
    quantity = at(observation, "valueQuantity")
    number, unit = at(quantity, "value"), word(quantity, "unit")
    if word(quantity, "system") in UCUM or not unit:
        unit = word(quantity, "code") or unit
    if number is None and at(observation, "valueInteger") is not None:
        number, unit = at(observation, "valueInteger"), "1"
    if number is None:
        return _other(observation, written)
    if isinstance(number, str):
        found = read_value(number, written.decimal, written.thousands)
        return found._replace(unit=unit or found.unit)
    sign = word(quantity, "comparator")
    if isinstance(number, bool) or not isinstance(number, int | float):
        return Value(math.nan, why=NO_NUMBER)
    try:
        plain = float(number)
    except OverflowError:
        plain = math.inf
    if not math.isfinite(plain):
        return Value(math.nan, why=NO_NUMBER)
    return Value(plain, LIMITS[sign], unit) if sign in LIMITS else Value(math.nan, why=COMPARATOR)


def _other(observation: Any, written: Written) -> Value:
    """Return a value that is written as something else than a quantity."""
    if isinstance(at(observation, "valueRange"), dict) or isinstance(at(observation, "valueRatio"), dict):
        return Value(math.nan, why=RANGE)
    if text := word(observation, "valueString"):
        return read_value(text, written.decimal, written.thousands)
    return NOTHING


def answers(observation: Any, systems: dict[str, str]) -> tuple[list[Coding], list[str]]:
    """Return what an Observation or a component says in codes and in words."""
    concept = at(observation, "valueCodeableConcept")
    texts = [word(concept, "text"), word(observation, "valueString")]
    texts += [word(coding, "display") for coding in each(concept, "coding")]
    if isinstance(truth := at(observation, "valueBoolean"), bool):
        texts.append("true" if truth else "false")
    return codings(concept, systems), [text for text in texts if text]


def reference(resource: Resource, path: str) -> str:
    """Return a reference as it is written, or ""."""
    return word(resource, f"{path}.reference")


def target(written: str, kind: str, urls: dict[str, str]) -> str:
    """Return the id of the resource that a reference names, or "" where it names none of that type.

    Parameters
    ----------
    written
        ``Patient/1``, ``https://host/fhir/Patient/1``, either with ``/_history/2``, or ``urn:uuid:...``.
    kind
        The type it must be of.
    urls
        Full URLs of the same Bundle -> ``TYPE/ID``.
    """
    parts = urls.get(written, written).split("/")
    if "_history" in parts:
        parts = parts[: parts.index("_history")]
    return parts[-1] if len(parts) >= 2 and parts[-2] == kind else ""
