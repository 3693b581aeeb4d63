"""How fast health records become features, beside bare library loops, and how much memory 100,000 patients take."""

from __future__ import annotations

import importlib.util
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pmfed.cohort import read_cohort
from pmfed.cohort.ehr import read_events
from pmfed.cohort.reading import Reading
from pmfed.cohort.tables import Problems
from pmfed.modality.ehr import Events
from pmfed.study import Study
from pmfed_simulations.bench import BenchRow, compare, timed

PATIENTS = 10_000
MANY = 100_000
MOST_MB = 2000.0
EACH = 10
LABS = 8
COLUMNS = 40
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


def rows() -> list[BenchRow]:
    """Measure and return the rows; what cannot run is a row with the reason."""
    if importlib.util.find_spec("duckdb_engine") is None:
        return [BenchRow("health records", 0.0, 0.0, 0.0, None, note="skipped: pip install 'pmfed[ehr]'")]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        events = _events()
        database, export, table = _omop(folder, events), _fhir(folder, events), folder / "events.csv"
        events.assign(code="LOINC:" + events["code"]).to_csv(table, index=False)
        what = f"{PATIENTS:,} patients, {len(events):,} events, {len(SPEC.features)} features"
        work = (PATIENTS, "patients")
        return [
            compare(
                f"{what}: OMOP in DuckDB / bare query", timed(lambda: _read(database)), timed(lambda: _query(database)), None,
                work=work,
            ),
            compare(
                f"{what}: FHIR NDJSON / bare json loop", timed(lambda: _read(export)), timed(lambda: _json(export)), None,
                work=work,
            ),
            compare(
                f"{what}: table of events / pandas", timed(lambda: _read(table)), timed(lambda: pd.read_csv(table)), None,
                work=work,
            ),
            *_large(folder),
        ]  # fmt: skip


def _large(folder: Path) -> list[BenchRow]:
    """Return the memory of a process that reads many patients, beside the most it may take."""
    (folder / "large").mkdir()
    events = _events(MANY)
    sources = {
        f"{MANY:,} patients, {len(events):,} events in DuckDB": _omop(folder / "large", events, MANY),
        f"{MANY:,} patients, a CSV table of {COLUMNS} columns": _table(folder / "large"),
    }
    found = []
    for name, source in sources.items():
        command = [sys.executable, "-m", "pmfed_simulations.bench.readers_ehr", str(source)]
        said = subprocess.run(command, check=True, capture_output=True, text=True)
        seconds, peak = map(float, said.stdout.split())
        whole, ratio = f"{name}: memory of the process / 2 GB", round(peak / MOST_MB, 3)
        found.append(BenchRow(whole, seconds, 0.0, ratio, 1.0, peak, MOST_MB, work=(MANY, "patients")))
    return found


def _measure(source: Path) -> None:
    """Read one large source in a process of its own; print its seconds and the most memory it held, in MB."""
    started = time.perf_counter()
    if source.suffix == ".csv":
        study = Study.read(source.with_name("study.toml"))
        assert read_cohort(study, {"patients": source}, "bench").patients == MANY
    else:
        _read(source, MANY)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    print(round(time.perf_counter() - started, 3), round(peak, 1))


def _table(folder: Path) -> Path:
    """Write a row per patient, and a study of all its columns beside it."""
    values = np.random.default_rng(1).normal(0, 1, (MANY, COLUMNS)).round(3)
    table = pd.DataFrame(values, columns=[f"x{place}" for place in range(COLUMNS)])
    table.insert(0, "patient_id", np.arange(MANY))
    table["outcome"] = np.where(values[:, 0] > 0, "yes", "no")
    table.to_csv(folder / "patients.csv", index=False)
    number = {"type": "numeric", "minimum": -10, "maximum": 10, "mean": 0, "scale": 1}
    study = {
        "study": {"name": "large", "title": "Many patients"},
        "cohort": {"table": "patients", "expected_patients": MANY},
        "outcome": {"column": "outcome", "task": "binary", "classes": ["no", "yes"]},
        "modalities": {
            "values": {
                "kind": "table", "table": "patients", "features": {f"x{place}": number for place in range(COLUMNS)}
            }
        },
        "training": {"rounds": 1, "optimizer": {"name": "sgd", "learning_rate": 0.1}},
        "privacy": {"epsilon": 1.0, "delta": 1e-6, "sampling_rate": 0.1},
        "evaluation": {"split_key": "large"},
    }  # fmt: skip
    (folder / "study.toml").write_text(Study.model_validate(study).to_toml(), encoding="utf-8")
    return folder / "patients.csv"


def _events(patients: int = PATIENTS) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    number = patients * EACH
    days = rng.integers(0, 3000, number).astype("timedelta64[D]") + rng.integers(1, 86_400, number).astype(
        "timedelta64[s]"
    )
    when = np.datetime64("2011-01-01", "s") + days
    return pd.DataFrame(
        {
            "patient_id": np.repeat(np.arange(patients), EACH),
            "when": np.datetime_as_string(when),
            "code": [f"{place}-0" for place in rng.integers(0, LABS, number)],
            "value": rng.uniform(50, 200, number).round(1),
            "unit": "mg/dL",
        }
    )


def _omop(folder: Path, events: pd.DataFrame, patients: int = PATIENTS) -> Path:
    import duckdb

    path = folder / "omop.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.register("events", events)
        connection.execute(
            f"""
            CREATE TABLE person AS SELECT i AS person_id, 8507 + 25 * (i % 2) AS gender_concept_id, 1950 AS year_of_birth
            FROM range({patients}) AS t(i);
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


def _read(source: Path, number: int = PATIENTS) -> None:
    problems = Problems("bench")
    patients = [str(one) for one in range(number)]
    spec = SPEC if source.suffix != ".csv" else SPEC.model_copy(update={"age": None, "sex": False})
    when = np.full(number, WHEN)
    read_events(Reading(spec=spec, sources={spec.source: source}, patients=patients, when=when, problems=problems))
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


if __name__ == "__main__":
    _measure(Path(sys.argv[1]))
