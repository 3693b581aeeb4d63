"""A hospital's records as a FHIR R4 bulk export: a file of NDJSON per type, https://hl7.org/fhir/uv/bulkdata."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np

from pmfed_simulations.hospitals.codes import (
    BLOOD_PRESSURE,
    DIAGNOSES,
    MEASURED,
    SMOKING_ANSWERS,
    SMOKING_STATUS,
    STATINS,
    VISITS,
    Unit,
    WrittenCode,
)
from pmfed_simulations.hospitals.history import KINDS, Hospital

Resource = dict[str, Any]

URIS = {
    "LOINC": "http://loinc.org",
    "SNOMED": "http://snomed.info/sct",
    "RxNorm": "http://www.nlm.nih.gov/research/umls/rxnorm",
    "ICD10CM": "http://hl7.org/fhir/sid/icd-10-cm",
}
TERMINOLOGY = "http://terminology.hl7.org/CodeSystem/"
UCUM = "http://unitsofmeasure.org"
ZONE = ZoneInfo("Europe/Berlin")  # of hospitals that write an offset with every time
MISTAKEN = 0.01  # share of values that were withdrawn as entered in error


def identifiers(hospital: Hospital) -> str:
    """Return the system of the hospital's own patient ids."""
    return f"https://{hospital.name}.example/patients"


def write_fhir(folder: Path, hospital: Hospital) -> None:
    """Write the records of all patients into a new folder; the same arguments give the same bytes."""
    folder.mkdir(parents=True)
    names = _names(hospital)
    files = {
        "Patient": _patients(hospital, names),
        "Encounter": _encounters(hospital, names),
        "Medication": _medications(),
        "Condition": _conditions(hospital, names),
        "MedicationRequest": _requests(hospital, names),
        "Observation": _observations(hospital, names),
    }
    for kind, resources in files.items():
        with (folder / f"{kind}.ndjson").open("w", encoding="utf-8", newline="\n") as file:
            for place, resource in enumerate(resources, 1):
                named = {"resourceType": kind, "id": resource.pop("id", f"{kind.lower()}-{place}"), **resource}
                file.write(json.dumps(named, separators=(",", ":")) + "\n")


def _names(hospital: Hospital) -> list[str]:
    """Return the ids of Patient resources: numbers of the server's, which say nothing to the hospital."""
    return [f"p{place}" for place in hospital.rng(6).permutation(hospital.size) + 1]


def _patients(hospital: Hospital, names: list[str]) -> Iterator[Resource]:
    people = hospital.people
    for place, name in enumerate(names):
        resource: Resource = {
            "id": name,
            "identifier": [{"system": identifiers(hospital), "value": str(people["id"][place])}],
            "gender": "male" if people["male"][place] else "female",
            "birthDate": str(people["birth"][place]),
        }
        if people["death day"][place]:
            resource["deceasedDateTime"] = str(people["index"][place] + people["death day"][place])
        yield resource


def _encounters(hospital: Hospital, names: list[str]) -> Iterator[Resource]:
    visits = hospital.visits
    for owner, start, kind in zip(visits.owner, visits.start, visits.kind, strict=True):
        said = KINDS[kind]
        end = start + np.timedelta64(4 * 86_400 if said == "inpatient" else 1800, "s")
        yield {
            "status": "finished",
            "class": {"system": TERMINOLOGY + "v3-ActCode", "code": VISITS[said][2]},
            "subject": {"reference": f"Patient/{names[owner]}"},
            "period": {"start": _time(start), "end": _time(end)},
        }


def _medications() -> Iterator[Resource]:
    for drug in STATINS:
        yield {"id": f"rx{drug.code}", "code": _concept(drug)}


def _conditions(hospital: Hospital, names: list[str]) -> Iterator[Resource]:
    for event in _of(hospital, tuple(DIAGNOSES)):
        code = DIAGNOSES[str(hospital.events.what[event])][int(hospital.habits.records.icd)]
        common = _common(hospital, names, event)
        yield {
            "clinicalStatus": {"coding": [{"system": TERMINOLOGY + "condition-clinical", "code": "active"}]},
            "verificationStatus": {"coding": [{"system": TERMINOLOGY + "condition-ver-status", "code": "confirmed"}]},
            "code": _concept(code),
            **common,
            "onsetDateTime": _moment(hospital, event),
            "recordedDate": _moment(hospital, event),
        }


def _requests(hospital: Hospital, names: list[str]) -> Iterator[Resource]:
    for event in _of(hospital, ("statin",)):
        drug = STATINS[int(hospital.events.value[event])]
        # One hospital names drugs in place, the other refers to its list.
        said = (
            {"medicationCodeableConcept": _concept(drug)}
            if hospital.habits.records.icd
            else {"medicationReference": {"reference": f"Medication/rx{drug.code}"}}
        )
        common = _common(hospital, names, event)
        yield {"status": "active", "intent": "order", **said, **common, "authoredOn": _moment(hospital, event)}


def _observations(hospital: Hospital, names: list[str]) -> Iterator[Resource]:
    events, rng = hospital.events, hospital.rng(7)
    for event in _of(hospital, (*MEASURED, "smoking")):
        what = str(events.what[event])
        common = {**_common(hospital, names, event), "effectiveDateTime": _moment(hospital, event)}
        if what == "smoking":
            answer = {"valueCodeableConcept": _concept(SMOKING_ANSWERS[int(events.value[event])])}
            yield {"status": "final", "code": _concept(SMOKING_STATUS), **common, **answer}
            continue
        code, unit = MEASURED[what][int(events.conventional[event])]
        value = _quantity(events.written[event], unit)
        if rng.random() < MISTAKEN:
            wrong = _quantity(10 * events.written[event], unit)
            yield {"status": "entered-in-error", "code": _concept(code), **common, "valueQuantity": wrong}
        if what == "systolic":
            part = {"code": _concept(code), "valueQuantity": value}
            yield {"status": "final", "code": _concept(BLOOD_PRESSURE), **common, "component": [part]}
        else:
            yield {"status": "final", "code": _concept(code), **common, "valueQuantity": value}


def _of(hospital: Hospital, names: tuple[str, ...]) -> list[int]:
    found: list[int] = np.flatnonzero(np.isin(hospital.events.what, names)).tolist()
    return found


def _common(hospital: Hospital, names: list[str], event: int) -> Resource:
    visit = hospital.events.visit[event]
    return {
        "subject": {"reference": f"Patient/{names[hospital.visits.owner[visit]]}"},
        "encounter": {"reference": f"Encounter/encounter-{visit + 1}"},
    }


def _moment(hospital: Hospital, event: int) -> str:
    return _time(hospital.visits.start[hospital.events.visit[event]])


def _time(moment: np.datetime64) -> str:
    """Return a time of the hospital's clock, with its offset from UTC as FHIR wants it."""
    local: datetime = moment.astype("datetime64[s]").item()
    return local.replace(tzinfo=ZONE).isoformat()


def _concept(code: WrittenCode) -> Resource:
    return {"coding": [{"system": URIS[code.system], "code": code.code, "display": code.name}]}


def _quantity(value: float, unit: Unit) -> Resource:
    return {"value": round(float(value), unit.decimals), "unit": unit.code, "system": UCUM, "code": unit.code}
