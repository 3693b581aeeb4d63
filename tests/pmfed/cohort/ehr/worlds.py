"""One small hospital, written in every form pmfed reads."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
from numpy.typing import NDArray

URI = {
    "LOINC": "http://loinc.org",
    "SNOMED": "http://snomed.info/sct",
    "RxNorm": "http://www.nlm.nih.gov/research/umls/rxnorm",
    "ICD10CM": "http://hl7.org/fhir/sid/icd-10-cm",
}
CLASS = {"inpatient": "IMP", "outpatient": "AMB", "emergency": "EMER"}
VISIT = {"inpatient": 9201, "outpatient": 9202, "emergency": 9203}
TABLE = {
    "condition": ("condition_occurrence", "condition", "condition_start"),
    "drug": ("drug_exposure", "drug", "drug_exposure_start"),
    "measurement": ("measurement", "measurement", "measurement"),
    "observation": ("observation", "observation", "observation"),
    "procedure": ("procedure_occurrence", "procedure", "procedure"),
    "visit": ("visit_occurrence", "visit", "visit_start"),
}


@dataclass(frozen=True)
class Event:
    """Something that happened; ``code`` is SYSTEM:CODE and ``when`` an ISO date with seconds."""

    patient: str
    when: str
    domain: str
    code: str
    value: float = math.nan
    unit: str = ""
    answer: str = ""


@dataclass(frozen=True)
class World:
    """A hospital's patients (id -> birth date and sex) and what happened to them."""

    persons: Mapping[str, tuple[str, str]]
    events: Sequence[Event]
    deaths: Mapping[str, str] = field(default_factory=dict)
    maps: Mapping[str, str] = field(default_factory=dict)
    below: Mapping[str, str] = field(default_factory=dict)

    def codes(self) -> dict[str, int]:
        """Return concept ids."""
        named = {event.code for event in self.events if event.domain != "visit"}
        named |= {event.answer for event in self.events if ":" in event.answer}
        named |= {*self.maps, *self.maps.values(), *self.below, *self.below.values()}
        return {code: 1000 + place for place, code in enumerate(sorted(named))}


def write_tables(world: World, folder: Path, kind: str = "csv") -> Path:
    """Write events.csv (or .parquet) and persons.csv."""
    folder.mkdir(parents=True)
    rows = [
        (
            one.patient,
            one.when,
            one.code,
            one.domain,
            "" if math.isnan(one.value) else repr(one.value),
            one.unit,
            one.answer,
        )
        for one in world.events
    ]
    rows += [(who, when, "DEATH:death", "death", "", "", "") for who, when in world.deaths.items()]
    frame = pd.DataFrame(rows, columns=["patient_id", "when", "code", "domain", "value", "unit", "text"])
    persons = pd.DataFrame(
        [(one, *rest) for one, rest in world.persons.items()], columns=["patient_id", "birth", "sex"]
    )
    if kind == "csv":
        frame.to_csv(folder / "events.csv", index=False)
    else:
        frame["value"] = pd.to_numeric(frame["value"])
        frame["when"] = pd.to_datetime(frame["when"])
        frame.to_parquet(folder / "events.parquet", index=False)
    persons.to_csv(folder / "persons.csv", index=False)
    return folder


def omop_tables(world: World, vocabulary: bool = True) -> dict[str, pd.DataFrame]:
    """Return the tables of an OMOP database."""
    ids = world.codes()
    units = {unit: 5000 + place for place, unit in enumerate(sorted({one.unit for one in world.events if one.unit}))}
    number = {one: int(one) for one in world.persons}
    out = {
        "person": pd.DataFrame(
            [
                (number[one], 8532 if sex == "female" else 8507, *(int(part) for part in birth.split("-")), f"MRN-{one}", sex)
                for one, (birth, sex) in world.persons.items()
            ],
            columns=[
                "person_id", "gender_concept_id", "year_of_birth", "month_of_birth", "day_of_birth",
                "person_source_value", "gender_source_value",
            ],
        ).astype({"person_source_value": str, "gender_source_value": str}),
        "death": pd.DataFrame(
            [(number[who], when[:10], when) for who, when in world.deaths.items()],
            columns=["person_id", "death_date", "death_datetime"],
        ),
    }  # fmt: skip
    for domain, (table, prefix, date) in TABLE.items():
        rows = []
        for one in world.events:
            if one.domain != domain:
                continue
            bare = one.code.split(":", 1)[1]
            concept = VISIT[bare] if domain == "visit" else ids[world.maps.get(one.code, one.code)]
            source = 0 if domain == "visit" else ids[one.code]
            rows.append(
                {
                    "person_id": number[one.patient],
                    f"{prefix}_concept_id": concept if vocabulary or domain == "visit" else 0,
                    f"{prefix}_source_concept_id": source if vocabulary else 0,
                    f"{prefix}_source_value": bare,
                    f"{date}_date": one.when[:10],
                    f"{date}_datetime": one.when,
                    "value_as_number": None if math.isnan(one.value) else one.value,
                    "value_as_concept_id": ids.get(one.answer, 0),
                    "value_as_string": None if one.answer in ids else one.answer or None,
                    "unit_concept_id": units.get(one.unit, 0) if vocabulary else 0,
                    "unit_source_value": None if vocabulary else one.unit,
                }
            )
        columns = ["person_id", f"{prefix}_concept_id", f"{prefix}_source_concept_id", f"{prefix}_source_value"]
        columns += [f"{date}_date", f"{date}_datetime"]
        if domain in ("measurement", "observation"):
            columns += [
                "value_as_number",
                "value_as_concept_id",
                "value_as_string",
                "unit_concept_id",
                "unit_source_value",
            ]
        out[table] = pd.DataFrame(rows, columns=columns)
    if vocabulary:
        standard = set(world.maps.values())
        concepts = [
            (ids[code], *code.split(":", 1), "S" if code in standard or code not in world.maps else None)
            for code in ids
        ]
        concepts += [(one, "UCUM", unit, "S") for unit, one in units.items()]
        out["concept"] = pd.DataFrame(
            concepts, columns=["concept_id", "vocabulary_id", "concept_code", "standard_concept"]
        )
        out["concept_relationship"] = pd.DataFrame(
            [(ids[one], ids[other], "Maps to", None) for one, other in world.maps.items()],
            columns=["concept_id_1", "concept_id_2", "relationship_id", "invalid_reason"],
        )
        out["concept_ancestor"] = pd.DataFrame(
            [(ids[above], ids[one]) for one, above in world.below.items()],
            columns=["ancestor_concept_id", "descendant_concept_id"],
        )
    return out


def sql_type(column: str) -> str:
    """Return the type of a column by OMOP's rules for names."""
    if column.endswith("_datetime"):
        return "timestamp"
    if column.endswith("_date"):
        return "date"
    if column == "value_as_number":
        return "numeric"
    words = ("vocabulary_id", "relationship_id")
    if (column.endswith(("_id", "_id_1", "_id_2")) and column not in words) or column.endswith("of_birth"):
        return "bigint"
    return "varchar"


def statements(tables: Mapping[str, pd.DataFrame]) -> list[tuple[str, list[tuple[Any, ...]]]]:
    """Return CREATE TABLE statements with the rows to put in."""
    out = []
    for name, frame in tables.items():
        columns = ", ".join(f"{column} {sql_type(column)}" for column in frame)
        plain = frame.astype(object).where(frame.notna(), None)
        out.append((f"CREATE TABLE {name} ({columns})", [tuple(row) for row in plain.itertuples(index=False)]))
    return out


def write_omop(world: World, path: Path, vocabulary: bool = True, without: Sequence[str] = ()) -> Path:
    """Write an OMOP database in DuckDB."""
    tables = omop_tables(world, vocabulary)
    with duckdb.connect(str(path)) as connection:
        for (create, rows), name in zip(statements(tables), tables, strict=True):
            if name in without:
                continue
            connection.execute(create)
            if rows:
                marks = ", ".join("?" * len(rows[0]))
                connection.executemany(f"INSERT INTO {name} VALUES ({marks})", rows)
    return path


def write_omop_folder(world: World, folder: Path) -> Path:
    """Write an OMOP database as a folder of CSV files, a part in capitals and a part as Parquet."""
    folder.mkdir()
    for place, (name, frame) in enumerate(omop_tables(world).items()):
        if place % 3 == 2:
            frame.to_parquet(folder / f"{name}.parquet", index=False)
        else:
            frame.to_csv(folder / f"{name.upper() if place % 3 else name}.csv", index=False)
    return folder


def fhir_resources(world: World) -> dict[str, list[dict[str, Any]]]:
    """Return resources by type."""
    out: dict[str, list[dict[str, Any]]] = {"Patient": []}
    for one, (birth, sex) in world.persons.items():
        patient: dict[str, Any] = {"resourceType": "Patient", "id": one, "birthDate": birth, "gender": sex}
        patient["identifier"] = [
            {"system": "http://else", "value": "x"},
            {"system": "http://mrn", "value": f"MRN-{one}"},
        ]
        if one in world.deaths:
            patient["deceasedDateTime"] = world.deaths[one] + "Z"
        out["Patient"].append(patient)
    for place, one in enumerate(world.events):
        system, bare = one.code.split(":", 1)
        subject = {"reference": f"Patient/{one.patient}"}
        concept = {"coding": [{"system": URI.get(system, system), "code": bare}]}
        resource: dict[str, Any] = {"id": str(place), "subject": subject, "status": "final", "code": concept}
        when = one.when + "Z"
        if one.domain == "condition":
            resource |= {"resourceType": "Condition", "onsetDateTime": when}
        elif one.domain == "drug":
            resource |= {"resourceType": "MedicationRequest", "authoredOn": when, "medicationCodeableConcept": concept}
        elif one.domain == "procedure":
            resource |= {"resourceType": "Procedure", "performedDateTime": when}
        elif one.domain == "visit":
            resource |= {"resourceType": "Encounter", "class": {"code": CLASS[bare]}, "period": {"start": when}}
        else:
            resource |= {"resourceType": "Observation", "effectiveDateTime": when}
            if not math.isnan(one.value):
                quantity = {
                    "value": one.value,
                    "unit": "as shown",
                    "system": "http://unitsofmeasure.org",
                    "code": one.unit,
                }
                resource["valueQuantity"] = quantity
            if ":" in one.answer:
                answer = one.answer.split(":", 1)
                resource["valueCodeableConcept"] = {"coding": [{"system": URI[answer[0]], "code": answer[1]}]}
            elif one.answer:
                resource["valueString"] = one.answer
        out.setdefault(resource["resourceType"], []).append(resource)
    return out


def write_ndjson(world: World, folder: Path) -> Path:
    """Write a bulk export."""
    folder.mkdir()
    for kind, resources in fhir_resources(world).items():
        (folder / f"{kind}.ndjson").write_text("".join(json.dumps(one) + "\n" for one in resources))
    return folder


def write_bundles(world: World, folder: Path) -> Path:
    """Write a Bundle per patient, whose resources refer to each other by urn:uuid."""
    folder.mkdir()
    resources = [one for found in fhir_resources(world).values() for one in found]
    for who in world.persons:
        entries = []
        for one in resources:
            if one.get("id") == who and one["resourceType"] == "Patient":
                entries.append({"fullUrl": f"urn:uuid:abc-{who}", "resource": one})
            elif one.get("subject", {}).get("reference") == f"Patient/{who}":
                entries.append({"resource": {**one, "subject": {"reference": f"urn:uuid:abc-{who}"}}})
        bundle = {"resourceType": "Bundle", "type": "transaction", "entry": entries[::-1]}  # the patient comes last
        (folder / f"{who}_Doe.json").write_text(json.dumps(bundle))
    return folder


def in_utc(folder: Path) -> Path:
    """Describe an export of a hospital whose clocks show UTC."""
    path = folder.with_name(f"{folder.name}.toml")
    path.write_text(f'timezone = "UTC"\n[fhir]\nfiles = "{folder.name}"\n')
    return path


def dates(*texts: str) -> NDArray[np.datetime64]:
    """Return index dates."""
    return np.array(texts, dtype="datetime64[s]")


SMALL = World(
    persons={"1": ("1950-03-02", "female"), "2": ("1961-07-30", "male"), "3": ("1999-12-31", "female")},
    deaths={"2": "2021-02-03T04:05:06"},
    events=[
        Event("1", "2020-01-01T10:00:00", "measurement", "LOINC:2160-0", 1.0, "mg/dL"),
        Event("1", "2020-01-20T10:00:00", "measurement", "LOINC:2160-0", 176.84, "umol/L"),
        Event("1", "2020-01-31T10:00:00", "measurement", "LOINC:2160-0", 4.0, "mg/dL"),
        Event("1", "2020-02-01T00:00:01", "measurement", "LOINC:2160-0", 9.0, "mg/dL"),
        Event("1", "2019-05-05T08:00:00", "condition", "ICD10CM:E11.9"),
        Event("1", "2020-01-30T08:00:00", "visit", "VISIT:inpatient"),
        Event("1", "2020-01-15T08:00:00", "visit", "VISIT:outpatient"),
        Event("1", "2020-01-05T08:00:00", "observation", "LOINC:72166-2", answer="SNOMED:266919005"),
        Event("2", "2020-01-02T10:00:00", "measurement", "LOINC:2160-0", 2.0, "mg/dL"),
        Event("2", "2018-01-02T10:00:00", "drug", "RxNorm:860975"),
        Event("2", "2020-01-03T10:00:00", "drug", "RxNorm:860975"),
        Event("2", "2020-01-05T08:00:00", "observation", "LOINC:72166-2", answer="Current smoker"),
        Event("3", "2020-01-05T08:00:00", "procedure", "SNOMED:40701008"),
        Event("3", "2020-03-05T08:00:00", "condition", "ICD10CM:E11.21"),
        Event("3", "2020-01-09T08:00:00", "visit", "VISIT:emergency"),
    ],
    maps={"ICD10CM:E11.9": "SNOMED:44054006", "ICD10CM:E11.21": "SNOMED:421893009"},
    below={"SNOMED:44054006": "SNOMED:73211009", "SNOMED:421893009": "SNOMED:73211009"},
)
"""Three patients; their index date is 2020-02-01."""

CREATININE = {
    "codes": ["LOINC:2160-0"], "unit": "mg/dL", "minimum": 0, "maximum": 20, "mean": 0, "scale": 1, "molar_mass": 113.12,
}  # fmt: skip

STUDY = {
    "source": "ehr",
    "age": {"mean": 0, "scale": 1},
    "sex": True,
    "features": {
        "creatinine": {**CREATININE, "value": "last", "days": 365, "indicator": True},
        "creatinine-mean": {**CREATININE, "value": "mean", "days": 365},
        "creatinine-trend": {**CREATININE, "value": "trend", "days": 365},
        "diabetes": {"codes": ["ICD10CM:E11*"], "value": "ever"},
        "metformin": {"codes": ["RxNorm:860975"], "value": "count", "maximum": 9, "mean": 0, "scale": 1, "days": 365},
        "scan": {"codes": ["SNOMED:40701008"], "domain": "procedure", "value": "ever"},
        "stays": {"codes": ["VISIT:inpatient"], "value": "count", "maximum": 9, "mean": 0, "scale": 1},
        "visits": {"codes": ["VISIT:*"], "value": "count", "maximum": 9, "mean": 0, "scale": 1},
        "never-smoked": {"codes": ["LOINC:72166-2"], "answers": ["SNOMED:266919005"], "value": "ever"},
        "smokes": {"codes": ["LOINC:72166-2"], "answers": ["current smoker"], "value": "ever"},
        "dead": {"codes": ["DEATH:*"], "value": "ever"},
    },
}

PEOPLE_DATES = dates("2020-02-01", "2020-02-01", "2020-02-01")
