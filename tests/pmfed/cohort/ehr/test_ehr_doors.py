"""One hospital through every door: whatever its records are kept in, and however oddly, the inputs are the same."""

from __future__ import annotations

import csv
import json
import tempfile
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyreadstat
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from readings import read_events
from worlds import CREATININE, Event, World, dates, fhir_resources, in_utc, omop_tables, statements, write_tables

from pmfed.cohort.tables import Problems
from pmfed.modality.ehr import Events

pytest.importorskip("openpyxl")

PEOPLE = {"1": ("1950-03-02", "female"), "2": ("1961-07-30", "male")}
STUDY = Events.model_validate(
    {
        "source": "x",
        "age": {"mean": 0, "scale": 1},
        "sex": True,
        "features": {
            "last": {**CREATININE, "value": "last", "indicator": True},
            "mean": {**CREATININE, "value": "mean"},
            "diabetes": {"codes": ["SNOMED:44054006"], "value": "ever"},
            "drug": {"codes": ["RxNorm:860975"], "value": "count", "maximum": 9, "mean": 0, "scale": 1},
            "stays": {"codes": ["VISIT:inpatient"], "value": "count", "maximum": 9, "mean": 0, "scale": 1},
            "scan": {"codes": ["SNOMED:40701008"], "domain": "procedure", "value": "ever"},
        },
    }
)
WHEN = dates("2020-02-01T12:00:00", "2020-02-01T12:00:00")
ODD = ("twice", "older versions", "withdrawn", "limits")
"""With "limits" every value is written as "<value": the limit counts as the value, so nothing changes."""


def flat(world: World, folder: Path, odd: frozenset[str]) -> list[list[str]]:
    """Return the rows of events.csv, some of them twice."""
    write_tables(world, folder)
    with (folder / "events.csv").open(newline="") as file:
        head, *rows = list(csv.reader(file))
    at = head.index("value")
    if "limits" in odd:
        rows = [[*row[:at], f"<{row[at]}" if row[at] else "", *row[at + 1 :]] for row in rows]
    return [head, *rows, *(rows if "twice" in odd else [])]


def as_csv(world: World, folder: Path, odd: frozenset[str]) -> Path:
    rows = flat(world, folder, odd)
    with (folder / "events.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder


def as_windows(world: World, folder: Path, odd: frozenset[str]) -> Path:
    rows = flat(world, folder, odd)
    lines = ["sep=;", ";".join([*rows[0], "Ärztin"])]
    for patient, when, code, domain, value, unit, text in rows[1:]:
        day = datetime.fromisoformat(when).strftime("%d.%m.%Y %H:%M:%S")
        lines.append(
            ";".join(
                [patient, day, code, domain, value.replace(".", ","), unit.replace("umol", "µmol"), text, "Müller"]
            )
        )
        lines.append(";;;;;;;")
    (folder / "events.csv").write_bytes("\r\n".join(lines).encode("cp1252"))
    persons = (folder / "persons.csv").read_text().replace(",", ";")
    for birth, _ in PEOPLE.values():
        persons = persons.replace(birth, datetime.fromisoformat(birth).strftime("%d.%m.%Y"))
    (folder / "persons.csv").write_bytes(persons.encode("cp1252"))
    path = folder / "records.toml"
    path.write_text(
        '[written]\nseparator = ";"\nencoding = "cp1252"\ndecimal = ","\ndates = "day-first"\n'
        '[[tables]]\nfile = "events.csv"\n[persons]\nfile = "persons.csv"\n'
    )
    return path


def as_xlsx(world: World, folder: Path, odd: frozenset[str]) -> Path:
    import openpyxl

    rows = flat(world, folder, odd)
    book = openpyxl.Workbook()
    book.active.append(rows[0])
    for patient, when, code, domain, value, unit, text in rows[1:]:
        number = (value if value.startswith("<") else float(value)) if value else None
        book.active.append(
            [int(patient), datetime.fromisoformat(when), code, domain, number, unit or None, text or None]
        )
    (folder / "events.csv").unlink()
    book.save(folder / "events.xlsx")
    return folder


def as_parquet(world: World, folder: Path, odd: frozenset[str]) -> Path:
    head, *rows = flat(world, folder, odd)
    frame = pd.DataFrame(rows, columns=head)
    frame["value"] = frame["value"] if "limits" in odd else pd.to_numeric(frame["value"])
    frame["when"] = pd.to_datetime(frame["when"])
    frame["patient_id"] = frame["patient_id"].astype("Int64")
    (folder / "events.csv").unlink()
    frame.to_parquet(folder / "events.parquet", index=False)
    return folder


def as_statistical(ending: str) -> Callable[[World, Path, frozenset[str]], Path]:
    """Return what writes events as a program for statistics keeps them: codes with labels, dates as numbers."""

    def write(world: World, folder: Path, odd: frozenset[str]) -> Path:
        head, *rows = flat(world, folder, odd)
        frame = pd.DataFrame(rows, columns=head)
        frame["value"] = frame["value"] if "limits" in odd else pd.to_numeric(frame["value"])
        frame["when"] = pd.to_datetime(frame["when"])
        frame["patient_id"] = frame["patient_id"].astype(float)
        named = sorted(set(frame["code"]))
        frame["code"] = frame["code"].map({code: float(place) for place, code in enumerate(named)})
        about = {"variable_value_labels": {"code": dict(enumerate(named))}}
        (folder / "events.csv").unlink()
        (pyreadstat.write_sav if ending == "sav" else pyreadstat.write_dta)(
            frame, str(folder / f"events.{ending}"), **about
        )
        return folder

    return write


def keyed(world: World, odd: frozenset[str]) -> dict[str, pd.DataFrame]:
    """Return the tables of OMOP with their primary keys, some rows twice."""
    out = {}
    for name, frame in omop_tables(world).items():
        if "person_id" in frame and name not in ("person", "death"):
            frame = frame.assign(**{f"{name}_id": range(1, len(frame) + 1)})
            if "value_as_number" in frame:
                sign = frame["value_as_number"].notna() & ("limits" in odd)
                frame = frame.assign(operator_concept_id=sign.map({True: 4171756, False: 0}))
            frame = pd.concat([frame, frame]) if "twice" in odd else frame
        out[name] = frame
    return out


def as_omop(world: World, folder: Path, odd: frozenset[str]) -> Path:
    folder.mkdir()
    with duckdb.connect(str(folder / "o.duckdb")) as connection:
        for create, rows in statements(keyed(world, odd)):
            connection.execute(create)
            if rows:
                marks = ", ".join("?" * len(rows[0]))
                connection.executemany(f"INSERT INTO {create.split()[2]} VALUES ({marks})", rows)
    return folder / "o.duckdb"


def as_omop_folder(world: World, folder: Path, odd: frozenset[str]) -> Path:
    folder.mkdir()
    for name, frame in keyed(world, odd).items():
        frame.to_csv(folder / f"{name}.csv", index=False)
    return folder


def as_stu3(resource: dict[str, Any]) -> dict[str, Any]:
    if resource["resourceType"] == "Condition":
        return {**resource, "verificationStatus": "confirmed", "clinicalStatus": "active"}
    return {**resource, "notDone": False} if resource["resourceType"] == "Procedure" else resource


def as_r5(resource: dict[str, Any]) -> dict[str, Any]:
    out = dict(resource)
    if out["resourceType"] == "MedicationRequest":
        out["medication"] = {"concept": out.pop("medicationCodeableConcept")}
    elif out["resourceType"] == "Procedure":
        out["occurrenceDateTime"] = out.pop("performedDateTime")
    elif out["resourceType"] == "Encounter":
        out |= {"class": [{"coding": [out["class"]]}], "actualPeriod": out.pop("period"), "status": "completed"}
    return out


def as_fhir(release: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[World, Path, frozenset[str]], Path]:
    def write(world: World, folder: Path, odd: frozenset[str]) -> Path:
        folder.mkdir()
        lines: list[dict[str, Any]] = []
        for one in (release(one) for found in fhir_resources(world).values() for one in found):
            if "limits" in odd and "valueQuantity" in one:
                one["valueQuantity"]["comparator"] = "<"
            lines.append({**one, "meta": {"versionId": "2"}})
            if "older versions" in odd and one["resourceType"] == "Observation":
                wrong = {**one.get("valueQuantity", {}), "value": 19.5}
                lines.insert(0, {**one, "status": "preliminary", "meta": {"versionId": "1"}, "valueQuantity": wrong})
            if "withdrawn" in odd and one["resourceType"] in ("Condition", "Observation"):
                gone = {**one, "id": f"gone-{one['id']}"}
                lines.append({**gone, "status": "entered-in-error", "meta": {"versionId": "2"}})
                lines.append({**gone, "meta": {"versionId": "1"}})
        lines *= 1 + ("twice" in odd)
        (folder / "all.ndjson").write_text("".join(json.dumps(one) + "\n" for one in lines))
        return in_utc(folder)

    return write


DOORS: dict[str, Callable[[World, Path, frozenset[str]], Path]] = {
    "csv": as_csv,
    "windows": as_windows,
    "xlsx": as_xlsx,
    "parquet": as_parquet,
    "spss": as_statistical("sav"),
    "stata": as_statistical("dta"),
    "omop": as_omop,
    "omop-folder": as_omop_folder,
    "fhir-stu3": as_fhir(as_stu3),
    "fhir-r4": as_fhir(lambda one: one),
    "fhir-r5": as_fhir(as_r5),
}
MOMENT = st.integers(-40, 30 * 24).map(lambda hours: str(WHEN[0] - np.timedelta64(hours * 3600 + 7, "s")))
DAY = st.integers(-2, 30).map(
    lambda days: str((WHEN[0] - np.timedelta64(days, "D")).astype("datetime64[D]")) + "T00:00:00"
)
EVENT = st.one_of(
    st.builds(
        lambda who, when, value, unit: Event(who, when, "measurement", "LOINC:2160-0", value, unit),
        st.sampled_from("12"), MOMENT | DAY, st.integers(1, 99).map(lambda tenth: tenth / 10), st.sampled_from(["mg/dL", "umol/L"]),
    ),
    st.builds(lambda who, when: Event(who, when, "condition", "SNOMED:44054006"), st.sampled_from("12"), MOMENT | DAY),
    st.builds(lambda who, when: Event(who, when, "drug", "RxNorm:860975"), st.sampled_from("12"), MOMENT | DAY),
    st.builds(lambda who, when: Event(who, when, "procedure", "SNOMED:40701008"), st.sampled_from("12"), MOMENT | DAY),
    st.builds(lambda who, when: Event(who, when, "visit", "VISIT:inpatient"), st.sampled_from("12"), MOMENT | DAY),
)  # fmt: skip


def inputs(door: str, world: World, odd: frozenset[str], folder: Path) -> Any:
    problems = Problems("north")
    block = read_events(STUDY, DOORS[door](world, folder / door, odd), ["1", "2"], WHEN, problems)
    problems.raise_any()
    return block.inputs


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(EVENT, min_size=1, max_size=8, unique_by=lambda one: (one.patient, one.when, one.code)),
    st.frozensets(st.sampled_from(ODD)),
)
def test_one_patient_through_every_door(events: list[Event], odd: frozenset[str]) -> None:
    world = World(PEOPLE, [*events, Event("2", "2019-01-02T03:04:05", "condition", "ICD10:X00")])
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "plain").mkdir()
        expected = inputs("csv", world, frozenset(), Path(folder) / "plain")
        for door in DOORS:
            found = inputs(door, world, odd, Path(folder))
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6, err_msg=door)


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(EVENT, min_size=1, max_size=8, unique_by=lambda one: (one.patient, one.when, one.code)),
    st.frozensets(st.sampled_from(ODD)),
)
def test_and_through_a_server_s(postgres: str, events: list[Event], odd: frozenset[str]) -> None:
    world = World(PEOPLE, [*events, Event("2", "2019-01-02T03:04:05", "condition", "ICD10:X00")])
    psycopg = pytest.importorskip("psycopg")
    with psycopg.connect(postgres.replace("postgresql+psycopg://", "postgresql://"), autocommit=True) as connection:
        connection.execute(
            "SET lock_timeout = '5s'; DROP SCHEMA IF EXISTS doors CASCADE; CREATE SCHEMA doors; SET search_path = doors"
        )
        for create, rows in statements(keyed(world, odd)):
            connection.execute(create)
            if rows:
                with connection.cursor() as cursor:
                    cursor.executemany(
                        f"INSERT INTO {create.split()[2]} VALUES ({', '.join(['%s'] * len(rows[0]))})", rows
                    )
    with tempfile.TemporaryDirectory() as folder:
        expected = inputs("csv", world, frozenset(), Path(folder))
        described = Path(folder) / "records.toml"
        described.write_text(f'[omop]\ndatabase = "{postgres}"\nschema = "doors"\n')
        problems = Problems("north")
        block = read_events(STUDY, described, ["1", "2"], WHEN, problems)
        problems.raise_any()
        np.testing.assert_allclose(block.inputs, expected, rtol=1e-5, atol=1e-6)
