"""How fast health records become features: beside a bare database query, a bare JSON loop and a bare table read."""

from __future__ import annotations

import importlib.util
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pmfed.cohort.ehr import read_events
from pmfed.cohort.tables import Problems
from pmfed.modality.ehr import Events
from pmfed_simulations.bench import Row, compare, timed

PATIENTS = 10_000
EACH = 10
LABS = 8
WHEN = np.datetime64("2020-01-01", "s")

SPEC = Events.model_validate(
    {
        "source": "ehr",
        "age": {},
        "sex": True,
        "features": {
            f"lab-{place}-{value}": {
                "codes": [f"LOINC:{place}-0"], "domain": "measurement", "value": value, "unit": "mmol/L", "molar_mass": 180.0,
                "minimum": 0, "maximum": 50, "days": 3650,
            }
            for place in range(LABS) for value in ("last", "trend")
        },
    }
)  # fmt: skip


def rows() -> list[Row]:
    """Measure and return the rows; what cannot run is a row with the reason."""
    if importlib.util.find_spec("duckdb_engine") is None:
        return [Row("health records", 0.0, 0.0, 0.0, None, note="skipped: pip install 'pmfed[ehr]'")]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        events = _events()
        database, export, table = _omop(folder, events), _fhir(folder, events), folder / "events.csv"
        events.assign(code="LOINC:" + events["code"]).to_csv(table, index=False)
        what = f"{PATIENTS:,} patients, {len(events):,} events, {len(SPEC.features)} features"
        return [
            compare(
                f"{what}: OMOP in DuckDB / bare query", timed(lambda: _read(database)), timed(lambda: _query(database)), None
            ),
            compare(f"{what}: FHIR NDJSON / bare json loop", timed(lambda: _read(export)), timed(lambda: _json(export)), None),
            compare(
                f"{what}: table of events / pandas", timed(lambda: _read(table)), timed(lambda: pd.read_csv(table)), None
            ),
        ]  # fmt: skip


def _events() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    number = PATIENTS * EACH
    days = rng.integers(0, 3000, number).astype("timedelta64[D]") + rng.integers(1, 86_400, number).astype(
        "timedelta64[s]"
    )
    when = np.datetime64("2011-01-01", "s") + days
    return pd.DataFrame(
        {
            "patient_id": np.repeat(np.arange(PATIENTS), EACH),
            "when": np.datetime_as_string(when),
            "code": [f"{place}-0" for place in rng.integers(0, LABS, number)],
            "value": rng.uniform(50, 200, number).round(1),
            "unit": "mg/dL",
        }
    )


def _omop(folder: Path, events: pd.DataFrame) -> Path:
    import duckdb

    path = folder / "omop.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.register("events", events)
        connection.execute(
            f"""
            CREATE TABLE person AS SELECT i AS person_id, 8507 + 25 * (i % 2) AS gender_concept_id, 1950 AS year_of_birth
            FROM range({PATIENTS}) AS t(i);
            CREATE TABLE concept AS SELECT i AS concept_id, 'LOINC' AS vocabulary_id, (i - 1) || '-0' AS concept_code
            FROM range(1, {LABS + 1}) AS t(i);
            CREATE TABLE measurement AS SELECT patient_id AS person_id, split_part(code, '-', 1)::INTEGER + 1
            AS measurement_concept_id, "when"::DATE AS measurement_date, "when"::TIMESTAMP AS measurement_datetime,
            value AS value_as_number, 0 AS unit_concept_id, unit AS unit_source_value FROM events;
            """
        )
    return path


def _fhir(folder: Path, events: pd.DataFrame) -> Path:
    export = folder / "fhir"
    export.mkdir()
    people = ({"resourceType": "Patient", "id": str(one), "birthDate": "1950-01-01"} for one in range(PATIENTS))
    (export / "Patient.ndjson").write_text("".join(json.dumps(one) + "\n" for one in people))
    with (export / "Observation.ndjson").open("w") as file:
        for row in events.itertuples(index=False):
            file.write(json.dumps(_observation(row)) + "\n")
    return export


def _observation(row: Any) -> dict[str, Any]:
    quantity = {"value": row.value, "unit": row.unit, "system": "http://unitsofmeasure.org", "code": row.unit}
    return {
        "resourceType": "Observation",
        "status": "final",
        "category": [{"coding": [{"system": "http://terminology.hl7.org/observation-category", "code": "laboratory"}]}],
        "code": {"coding": [{"system": "http://loinc.org", "code": row.code, "display": "A laboratory test"}]},
        "subject": {"reference": f"Patient/{row.patient_id}"},
        "effectiveDateTime": f"{row.when}Z",
        "valueQuantity": quantity,
    }


def _read(source: Path) -> None:
    problems = Problems("bench")
    patients = [str(one) for one in range(PATIENTS)]
    spec = SPEC if source.suffix != ".csv" else SPEC.model_copy(update={"age": None, "sex": False})
    read_events(spec, source, patients, np.full(PATIENTS, WHEN), problems)
    problems.raise_any()


def _query(path: Path) -> None:
    """The rows a reader needs, as Python objects; no units, windows or features."""
    import duckdb

    with duckdb.connect(str(path), read_only=True) as connection:
        connection.execute(
            "SELECT person_id, measurement_concept_id, measurement_datetime, value_as_number, unit_source_value FROM measurement "
            f"WHERE measurement_concept_id BETWEEN 1 AND {LABS}"
        ).fetchall()


def _json(folder: Path) -> None:
    for path in folder.iterdir():
        with path.open("rb") as file:
            for line in file:
                json.loads(line)
