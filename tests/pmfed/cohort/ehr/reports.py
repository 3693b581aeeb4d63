"""The smallest inputs of public reports: parts of FHIR, OMOP and tables, and what a reader makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from readings import read_events

from pmfed.cohort.block import Block
from pmfed.cohort.tables import Problems
from pmfed.modality.ehr import Events

LOINC, SNOMED, UCUM = "http://loinc.org", "http://snomed.info/sct", "http://unitsofmeasure.org"
RXNORM = "http://www.nlm.nih.gov/research/umls/rxnorm"
GLUCOSE: dict[str, Any] = {"codes": ["LOINC:2345-7"], "value": "last", "unit": "mg/dL", "molar_mass": 180.156}
DIABETES: dict[str, Any] = {"codes": ["SNOMED:44054006"], "value": "ever"}
TAKES: dict[str, Any] = {"codes": ["RxNorm:36567"], "value": "ever"}
COUNT: dict[str, Any] = {"codes": ["LOINC:2345-7"], "value": "count"}
STATIN = {"coding": [{"system": RXNORM, "code": "36567"}]}
MED = {"resourceType": "Medication", "id": "d1", "code": STATIN}


def read(
    source: Path, feature: dict[str, Any], patients: tuple[str, ...] = ("1",), when: str = "2021-01-01"
) -> tuple[list[float], str, Block]:
    """Return the value per patient (NaN: missing), the problems in one text, and the block."""
    spec = dict(feature)
    if spec["value"] in ("last", "mean"):
        spec = {"minimum": 0, "maximum": 1e6, "mean": 0, "scale": 1, "indicator": True, **spec}
    if spec["value"] == "count":
        spec = {"maximum": 100, "mean": 0, "scale": 1, **spec}
    events = Events.model_validate({"kind": "events", "source": "r", "features": {"x": spec}})
    problems = Problems("x")
    dates = np.array([when] * len(patients), dtype="datetime64[s]")
    block = read_events(events, source, list(patients), dates, problems)
    lost = block.inputs[:, 1] > 0 if "x missing" in events.names else np.zeros(len(patients), bool)
    values = np.where(block.present & ~lost, block.inputs[:, 0], np.nan).tolist()
    return values, " / ".join(str(error) for error in problems._found), block


def ndjson(path: Path, *resources: Any) -> Path:
    """Write resources, a line each."""
    path.write_text("\n".join(map(json.dumps, resources)) + "\n")
    return path


def patient(one: str = "1", **rest: Any) -> dict[str, Any]:
    """Return a Patient."""
    return {"resourceType": "Patient", "id": one, "gender": "female", "birthDate": "1957-03-04", **rest}


def observation(one: str, value: Any = None, unit: str = "mg/dL", who: str = "1", **rest: Any) -> dict[str, Any]:
    """Return an Observation of glucose."""
    found: dict[str, Any] = {
        "resourceType": "Observation", "id": one, "status": "final", "subject": {"reference": f"Patient/{who}"},
        "code": {"coding": [{"system": LOINC, "code": "2345-7"}]}, "effectiveDateTime": "2020-06-01T10:00:00Z",
    }  # fmt: skip
    if value is not None:
        found["valueQuantity"] = {"value": value, "unit": unit, "system": UCUM, "code": unit}
    return found | rest


def condition(**rest: Any) -> dict[str, Any]:
    """Return a Condition, diabetes."""
    code = {"coding": [{"system": SNOMED, "code": "44054006"}]}
    subject = {"reference": "Patient/1"}
    return {
        "resourceType": "Condition",
        "id": "c",
        "code": code,
        "subject": subject,
        "onsetDateTime": "2019-01-01",
        **rest,
    }


def drug(kind: str = "MedicationRequest", **rest: Any) -> dict[str, Any]:
    """Return a resource about a drug, without the drug."""
    when = {"authoredOn": "2020-01-01"} if kind == "MedicationRequest" else {"effectiveDateTime": "2020-01-01"}
    return {"resourceType": kind, "id": "m", "status": "active", "subject": {"reference": "Patient/1"}, **when, **rest}


def table(path: Path, *rows: str, head: str = "patient_id,when,code,value,unit") -> Path:
    """Write a table of events."""
    path.write_text("".join(f"{row}\n" for row in (head, *rows)), encoding="utf-8")
    return path


def described(path: Path, text: str) -> Path:
    """Write the description of a source."""
    path.write_text(text, encoding="utf-8")
    return path


OMOP = {
    "person": "person_id,gender_concept_id,year_of_birth,month_of_birth,day_of_birth,person_source_value,gender_source_value",
    "condition_occurrence": "condition_occurrence_id,person_id,condition_concept_id,condition_start_date,condition_start_datetime,condition_source_value,condition_source_concept_id",
    "drug_exposure": "drug_exposure_id,person_id,drug_concept_id,drug_exposure_start_date,drug_exposure_start_datetime,drug_source_value,drug_source_concept_id",
    "measurement": "measurement_id,person_id,measurement_concept_id,measurement_date,measurement_datetime,operator_concept_id,value_as_number,value_as_concept_id,unit_concept_id,measurement_source_value,measurement_source_concept_id,unit_source_value,value_source_value",
    "observation": "observation_id,person_id,observation_concept_id,observation_date,observation_datetime,value_as_number,value_as_string,value_as_concept_id,observation_source_value,observation_source_concept_id,unit_concept_id,unit_source_value",
    "procedure_occurrence": "procedure_occurrence_id,person_id,procedure_concept_id,procedure_date,procedure_datetime,procedure_source_value,procedure_source_concept_id",
    "visit_occurrence": "visit_occurrence_id,person_id,visit_concept_id,visit_start_date,visit_start_datetime,visit_end_date",
    "death": "person_id,death_date,death_datetime,cause_concept_id",
    "concept": "concept_id,vocabulary_id,standard_concept,concept_code,invalid_reason",
    "concept_relationship": "concept_id_1,concept_id_2,relationship_id,invalid_reason",
}
VOCABULARY = {
    "concept": [
        "3004501,LOINC,S,2345-7,", "8840,UCUM,S,mg/dL,", "1340204,OMOP Extension,S,OMOP5160861,",
        "45600000,ICD10CM,,Z85.3,", "4112853,SNOMED,S,254837009,", "317009,SNOMED,S,195967001,",
        "45500001,ICD10CM,,I25.110,", "315296,SNOMED,S,4557003,", "317576,SNOMED,S,53741008,",
        "45500002,ICD10CM,,E11.9,", "45500003,ICD10CM,,E11.8,", "201826,SNOMED,S,44054006,",
    ],
    "concept_relationship": [
        "45600000,1340204,Maps to,", "45600000,4112853,Maps to value,", "45500001,315296,Maps to,",
        "45500001,317576,Maps to,", "45500002,201826,Maps to,", "45500003,201826,Maps to,",
    ],
}  # fmt: skip


def omop(folder: Path, **rows: list[str]) -> Path:
    """Write OMOP tables as CSV."""
    told = {"person": ["1,8532,1957,3,4,1,F"], **VOCABULARY, **rows}
    for name, head in OMOP.items():
        (folder / f"{name}.csv").write_text("\n".join([head, *told.get(name, [])]) + "\n")
    return folder


def measured(
    value: object = 100, person: int = 1, date: str = "2020-06-01", moment: str = "2020-06-01 10:00:00",
    operator: object = "", key: int = 1, source: str = "",
) -> str:  # fmt: skip
    """Return a row of the table measurement."""
    return f"{key},{person},3004501,{date},{moment},{operator},{value},,8840,2345-7,0,mg/dL,{source}"
