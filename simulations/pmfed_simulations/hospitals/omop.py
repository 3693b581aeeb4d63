"""A hospital's records as an OMOP CDM 5.4 database (DuckDB), https://ohdsi.github.io/CommonDataModel/cdm54.html."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pmfed_simulations.hospitals.codes import (
    DIAGNOSES,
    MEASURED,
    OTHER_CONCEPTS,
    SMOKING_ANSWERS,
    SMOKING_STATUS,
    STATINS,
    VISITS,
    WrittenCode,
)
from pmfed_simulations.hospitals.history import BACK, KINDS, Hospital
from pmfed_simulations.hospitals.model import Bools, Ints

EHR = 32817  # the type concept of what stands in a health record

# Columns of CDM 5.4 in its order. What they hold follows from how they end: see _TYPES.
TABLES = {
    "person": "person_id! gender_concept_id! year_of_birth! month_of_birth day_of_birth birth_datetime race_concept_id! "
    "ethnicity_concept_id! location_id provider_id care_site_id person_source_value gender_source_value "
    "gender_source_concept_id race_source_value race_source_concept_id ethnicity_source_value "
    "ethnicity_source_concept_id",
    "observation_period": "observation_period_id! person_id! observation_period_start_date! "
    "observation_period_end_date! period_type_concept_id!",
    "visit_occurrence": "visit_occurrence_id! person_id! visit_concept_id! visit_start_date! visit_start_datetime "
    "visit_end_date! visit_end_datetime visit_type_concept_id! provider_id care_site_id visit_source_value "
    "visit_source_concept_id admitted_from_concept_id admitted_from_source_value discharged_to_concept_id "
    "discharged_to_source_value preceding_visit_occurrence_id",
    "condition_occurrence": "condition_occurrence_id! person_id! condition_concept_id! condition_start_date! "
    "condition_start_datetime condition_end_date condition_end_datetime condition_type_concept_id! "
    "condition_status_concept_id stop_reason provider_id visit_occurrence_id visit_detail_id condition_source_value "
    "condition_source_concept_id condition_status_source_value",
    "drug_exposure": "drug_exposure_id! person_id! drug_concept_id! drug_exposure_start_date! "
    "drug_exposure_start_datetime drug_exposure_end_date! drug_exposure_end_datetime verbatim_end_date "
    "drug_type_concept_id! stop_reason refills quantity days_supply sig route_concept_id lot_number provider_id "
    "visit_occurrence_id visit_detail_id drug_source_value drug_source_concept_id route_source_value "
    "dose_unit_source_value",
    "measurement": "measurement_id! person_id! measurement_concept_id! measurement_date! measurement_datetime "
    "measurement_time measurement_type_concept_id! operator_concept_id value_as_number value_as_concept_id "
    "unit_concept_id range_low range_high provider_id visit_occurrence_id visit_detail_id measurement_source_value "
    "measurement_source_concept_id unit_source_value unit_source_concept_id value_source_value "
    "measurement_event_id meas_event_field_concept_id",
    "observation": "observation_id! person_id! observation_concept_id! observation_date! observation_datetime "
    "observation_type_concept_id! value_as_number value_as_string value_as_concept_id qualifier_concept_id "
    "unit_concept_id provider_id visit_occurrence_id visit_detail_id observation_source_value "
    "observation_source_concept_id unit_source_value qualifier_source_value value_source_value observation_event_id "
    "obs_event_field_concept_id",
    "procedure_occurrence": "procedure_occurrence_id! person_id! procedure_concept_id! procedure_date! "
    "procedure_datetime procedure_end_date procedure_end_datetime procedure_type_concept_id! modifier_concept_id "
    "quantity provider_id visit_occurrence_id visit_detail_id procedure_source_value procedure_source_concept_id "
    "modifier_source_value",
    "death": "person_id! death_date! death_datetime death_type_concept_id cause_concept_id cause_source_value "
    "cause_source_concept_id",
    "cdm_source": "cdm_source_name! cdm_source_abbreviation! cdm_holder! source_description "
    "source_documentation_reference cdm_etl_reference source_release_date! cdm_release_date! cdm_version "
    "cdm_version_concept_id! vocabulary_version!",
    "concept": "concept_id! concept_name! domain_id! vocabulary_id! concept_class_id! standard_concept concept_code! "
    "valid_start_date! valid_end_date! invalid_reason",
    "concept_relationship": "concept_id_1! concept_id_2! relationship_id! valid_start_date! valid_end_date! "
    "invalid_reason",
}
_TEXTS = frozenset({"domain_id", "vocabulary_id", "concept_class_id", "relationship_id"})
_INTEGERS = frozenset({
    "year_of_birth", "month_of_birth", "day_of_birth", "refills", "days_supply", "concept_id_1", "concept_id_2",
})  # fmt: skip
_NUMBERS = frozenset({"value_as_number", "range_low", "range_high", "quantity"})


def write_omop(path: Path, hospital: Hospital) -> None:
    """Write the records of all patients into a new DuckDB file.

    The same arguments give the same rows in the same order; DuckDB's file holds more than its rows, and differs in
    some bytes.
    """
    import duckdb

    with duckdb.connect(str(path), config={"threads": 1}) as database:
        tables = _tables(hospital)
        for name, columns in TABLES.items():
            declared = ", ".join(_declared(column) for column in columns.split())
            database.execute(f"CREATE TABLE {name} ({declared})")
            if name in tables:
                rows = tables[name]
                database.register("rows_to_insert", rows)
                database.execute(f"INSERT INTO {name} BY NAME SELECT * FROM rows_to_insert")
                database.unregister("rows_to_insert")


def _declared(column: str) -> str:
    name = column.removesuffix("!")
    if name.endswith("_datetime"):
        kind = "TIMESTAMP"
    elif name.endswith("_date"):
        kind = "DATE"
    elif name in _NUMBERS:
        kind = "DOUBLE"
    elif name in _INTEGERS or (name.endswith("_id") and name not in _TEXTS):
        kind = "INTEGER"
    else:
        kind = "VARCHAR"
    return f"{name} {kind}{' NOT NULL' if column.endswith('!') else ''}"


def person_ids(hospital: Hospital) -> Ints:
    """Return person_id of every patient: the id itself where that is a number."""
    if hospital.habits.records.numbered:
        return hospital.people["id"].astype(np.int64)
    return np.arange(hospital.size) + 1


def _tables(hospital: Hospital) -> dict[str, pd.DataFrame]:
    people, events, visits = hospital.people, hospital.events, hospital.visits
    persons, dated = person_ids(hospital), hospital.habits.records.dated
    conditions, drugs = np.isin(events.what, list(DIAGNOSES)), events.what == "statin"
    smoking = events.what == "smoking"
    measured = np.isin(events.what, list(MEASURED))

    def rows(where: Bools, table: str, start: str) -> pd.DataFrame:
        """Return the columns that all clinical tables have."""
        visit = events.visit[where]
        return pd.DataFrame(
            {
                f"{table}_id": np.arange(len(visit)) + 1,
                "person_id": persons[visits.owner[visit]],
                **_when(start, visits.start[visit], dated),
                f"{start.removesuffix('_start').removesuffix('_exposure')}_type_concept_id": EHR,
                "visit_occurrence_id": visit + 1,
            }
        )

    birth = people["birth"]
    person = pd.DataFrame(
        {
            "person_id": persons,
            "gender_concept_id": np.where(people["male"] == 1, 8507, 8532),
            "year_of_birth": birth.astype("datetime64[Y]").astype(np.int64) + 1970,
            "month_of_birth": birth.astype("datetime64[M]").astype(np.int64) % 12 + 1,
            "day_of_birth": (birth - birth.astype("datetime64[M]")).astype(np.int64) + 1,
            "race_concept_id": 0,
            "ethnicity_concept_id": 0,
            "person_source_value": people["id"],
            "gender_source_value": np.where(people["male"] == 1, "M", "F"),
        }
    )
    period = pd.DataFrame({"observation_period_id": np.arange(hospital.size) + 1, "person_id": persons})
    period["observation_period_start_date"] = _days(people["index"] - BACK)
    period["observation_period_end_date"] = _days(people["index"] + round(5 * 365.2425))
    period["period_type_concept_id"] = EHR
    number = np.arange(len(visits.owner)) + 1
    visit = pd.DataFrame({"visit_occurrence_id": number, "person_id": persons[visits.owner]})
    visit["visit_concept_id"] = np.array([VISITS[kind][0] for kind in KINDS])[visits.kind]
    stay = np.where(visits.kind == KINDS.index("inpatient"), 4, 0) * np.timedelta64(86_400, "s")
    for name, values in (
        *_when("visit_start", visits.start, dated).items(),
        *_when("visit_end", visits.start + stay, dated).items(),
    ):
        visit[name] = values
    visit["visit_type_concept_id"] = EHR
    condition = rows(conditions, "condition_occurrence", "condition_start")
    icd = hospital.habits.records.icd
    _coded(condition, "condition", [DIAGNOSES[one] for one in events.what[conditions]], icd)
    drug = rows(drugs, "drug_exposure", "drug_exposure_start")
    _coded(drug, "drug", [(STATINS[int(one)],) * 2 for one in events.value[drugs]], False)
    drug["drug_exposure_end_date"] = drug["drug_exposure_start_date"] + pd.Timedelta(days=90)
    drug["days_supply"] = 90
    observation = rows(smoking, "observation", "observation")
    _coded(observation, "observation", [(SMOKING_STATUS,) * 2] * int(smoking.sum()), False)
    answers = [SMOKING_ANSWERS[int(one)] for one in events.value[smoking]]
    observation["value_as_concept_id"] = [answer.concept for answer in answers]
    observation["value_as_string"] = [answer.name for answer in answers]
    return {
        "person": person,
        "observation_period": period,
        "visit_occurrence": visit,
        "condition_occurrence": condition,
        "drug_exposure": drug,
        "measurement": _measurements(hospital, rows(measured, "measurement", "measurement"), measured),
        "observation": observation,
        "death": _deaths(hospital, persons),
        "cdm_source": _source(hospital),
        "concept": _concepts(),
        "concept_relationship": _relationships(),
    }


def _when(start: str, when: NDArray[np.datetime64], dated: bool) -> dict[str, Any]:
    moments = {} if dated else {f"{start}_datetime": when}
    return {f"{start}_date": _days(when), **moments}


def _days(when: NDArray[np.datetime64]) -> NDArray[np.datetime64]:
    return when.astype("datetime64[D]").astype("datetime64[s]")


def _coded(table: pd.DataFrame, start: str, codes: list[tuple[WrittenCode, WrittenCode]], icd: bool) -> None:
    """Add the standard concept, and what the source wrote: the second code where ``icd``, else the first again."""
    table[f"{start}_concept_id"] = [pair[0].concept for pair in codes]
    table[f"{start}_source_value"] = [pair[int(icd)].code for pair in codes]
    table[f"{start}_source_concept_id"] = [pair[int(icd)].concept for pair in codes]


def _measurements(hospital: Hospital, table: pd.DataFrame, measured: Bools) -> pd.DataFrame:
    events, spelled = hospital.events, dict(hospital.habits.records.spelled)
    chosen = [
        MEASURED[str(what)][int(one)]
        for what, one in zip(events.what[measured], events.conventional[measured], strict=True)
    ]
    _coded(table, "measurement", [(code, code) for code, _ in chosen], False)
    table["value_as_number"] = events.written[measured]
    table["value_source_value"] = [
        f"{value:.{unit.decimals}f}" for value, (_, unit) in zip(events.written[measured], chosen, strict=True)
    ]
    # A hospital that spells units its own way did not map them either.
    table["unit_concept_id"] = [0 if unit.code in spelled else unit.concept for _, unit in chosen]
    table["unit_source_value"] = [spelled.get(unit.code, unit.code) for _, unit in chosen]
    return table


def _deaths(hospital: Hospital, persons: Ints) -> pd.DataFrame:
    people = hospital.people
    dead = np.flatnonzero(people["death day"])
    when = people["index"][dead] + people["death day"][dead]
    return pd.DataFrame({"person_id": persons[dead], "death_date": _days(when), "death_type_concept_id": EHR})


def _source(hospital: Hospital) -> pd.DataFrame:
    day = np.datetime64("2025-01-01", "s")
    return pd.DataFrame(
        {
            "cdm_source_name": [f"{hospital.habits.title} (virtual patients)"],
            "cdm_source_abbreviation": [hospital.name],
            "cdm_holder": ["nobody"],
            "source_release_date": [day],
            "cdm_release_date": [day],
            "cdm_version": ["5.4"],
            "cdm_version_concept_id": [756265],
            "vocabulary_version": ["a few concepts of v5.0"],
        }
    )


def _concepts() -> pd.DataFrame:
    """Return the concepts that are used, and no others: a database at a hospital holds the whole vocabulary."""
    codes = [code for pair in DIAGNOSES.values() for code in pair if code.concept]
    codes += [*STATINS, SMOKING_STATUS, *SMOKING_ANSWERS]
    codes += [code for pair in MEASURED.values() for code, _ in pair]
    rows = {code.concept: (code.concept, code.name, code.domain, code.system, code.domain, code.code) for code in codes}
    units = {unit for pair in MEASURED.values() for _, unit in pair}
    rows |= {unit.concept: (unit.concept, unit.code, "Unit", "UCUM", "Unit", unit.code) for unit in units}
    rows |= {row[0]: row for row in OTHER_CONCEPTS}
    names = ["concept_id", "concept_name", "domain_id", "vocabulary_id", "concept_class_id", "concept_code"]
    table = pd.DataFrame([rows[one] for one in sorted(rows)], columns=names)
    table["standard_concept"] = np.where(table["vocabulary_id"] == "ICD10CM", None, "S")  # type: ignore[call-overload]
    return _valid(table)


def _relationships() -> pd.DataFrame:
    """Return to which standard concept the others map."""
    pairs = [(icd.concept, snomed.concept) for snomed, icd in DIAGNOSES.values() if icd.concept]
    table = pd.DataFrame(pairs, columns=["concept_id_1", "concept_id_2"])
    table["relationship_id"] = "Maps to"
    return _valid(table)


def _valid(table: pd.DataFrame) -> pd.DataFrame:
    table["valid_start_date"] = np.datetime64("1970-01-01", "s")
    table["valid_end_date"] = np.datetime64("2099-12-31", "s")
    return table
