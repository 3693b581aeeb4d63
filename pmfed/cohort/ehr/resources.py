"""What FHIR R4 resources say: codes, values, dates and status, whatever else they hold.

Nothing here trusts a resource to fit FHIR's schema: a part of another shape is a part that is missing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pmfed.cohort.ehr.codes import URIS, Coding
from pmfed.cohort.ehr.exports import Resource

UCUM = "http://unitsofmeasure.org"


@dataclass(frozen=True)
class Kind:
    """A type of resource as events.

    Attributes
    ----------
    domains
        What kind of event it may be.
    code
        Where its codes are.
    when
        Where its date is: the first that is filled in.
    known
        Where it says when it was entered.
    never
        Values of its status that mean it did not happen.
    """

    domains: frozenset[str]
    code: str
    when: tuple[str, ...]
    known: str = ""
    never: frozenset[str] = frozenset()


_ERROR = frozenset({"entered-in-error"})

KINDS = {
    "Condition": Kind(
        frozenset({"condition"}), "code", ("onsetDateTime", "onsetPeriod.start", "recordedDate"), "recordedDate",
        _ERROR | {"refuted"},
    ),
    # A value that stands for a period is known at its end.
    "Observation": Kind(
        frozenset({"measurement", "observation"}), "code",
        ("effectiveDateTime", "effectiveInstant", "effectivePeriod.end", "issued", "effectivePeriod.start"), "issued",
        _ERROR | {"cancelled"},
    ),
    "MedicationRequest": Kind(
        frozenset({"drug"}), "medication", ("authoredOn",), "", _ERROR | {"cancelled", "draft"}
    ),
    "MedicationStatement": Kind(
        frozenset({"drug"}), "medication", ("effectiveDateTime", "effectivePeriod.start", "dateAsserted"),
        "dateAsserted", _ERROR | {"not-taken", "intended"},
    ),
    "MedicationAdministration": Kind(
        frozenset({"drug"}), "medication", ("effectiveDateTime", "effectivePeriod.start"), "", _ERROR | {"not-done"}
    ),
    "Immunization": Kind(
        frozenset({"drug"}), "vaccineCode", ("occurrenceDateTime", "recorded"), "recorded", _ERROR | {"not-done"}
    ),
    "Procedure": Kind(
        frozenset({"procedure"}), "code", ("performedDateTime", "performedPeriod.start"), "",
        _ERROR | {"not-done", "preparation"},
    ),
    "Encounter": Kind(frozenset({"visit"}), "type", ("period.start",), "", _ERROR | {"cancelled", "planned"}),
}  # fmt: skip

VISITS = {
    "IMP": "inpatient", "ACUTE": "inpatient", "NONAC": "inpatient", "SS": "inpatient", "EMER": "emergency",
    "AMB": "outpatient", "VR": "outpatient", "HH": "outpatient", "FLD": "outpatient",
}  # fmt: skip
"""Kinds of visits by Encounter.class, https://terminology.hl7.org/ValueSet-encounter-class.html."""


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


def happened(resource: Resource, kind: Kind) -> bool:
    """Return whether a resource says that something happened."""
    if resource.get("doNotPerform") is True:
        return False
    said = {word(resource, "status")}
    said |= {word(coding, "code") for coding in each(resource, "verificationStatus.coding")}
    return not said & kind.never


def date(resource: Resource, kind: Kind) -> str:
    """Return the date of a resource as it is written, or ""."""
    return next((text for path in kind.when if (text := word(resource, path))), "")


def codings(concept: Any, systems: dict[str, str]) -> list[Coding]:
    """Return the codes of a CodeableConcept whose system is known; ``systems`` are the hospital's own URIs."""
    found = []
    for coding in each(concept, "coding"):
        uri, code = word(coding, "system"), word(coding, "code")
        name = systems.get(uri) or URIS.get(uri)
        if name and code.strip():
            found.append((name, code))
    return found


def value(observation: Any) -> tuple[float, str]:
    """Return number and unit of an Observation or of a component; NaN without a number."""
    quantity = at(observation, "valueQuantity")
    number, unit = at(quantity, "value"), word(quantity, "unit")
    if word(quantity, "system") == UCUM or not unit:
        unit = word(quantity, "code") or unit
    if number is None:
        number, unit = at(observation, "valueInteger"), "1"
    if isinstance(number, bool) or not isinstance(number, int | float):
        return math.nan, ""
    try:
        plain = float(number)
    except OverflowError:
        return math.nan, ""
    return (plain, unit) if math.isfinite(plain) else (math.nan, "")


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
