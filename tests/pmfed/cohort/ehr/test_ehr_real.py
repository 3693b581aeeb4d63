"""The public data reads: OMOP and FHIR of Synthea, the tables of eICU, the reports of MTSamples."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest
from readings import read_events, read_notes, read_sequence
from worlds import CREATININE

from pmfed.cohort.block import Block
from pmfed.cohort.ehr import derive_cohort, open_source
from pmfed.cohort.tables import Problems
from pmfed.modality.ehr import EventCohort, Events, EventSequence, Notes

WEIGHT = {**CREATININE, "codes": ["LOINC:29463-7"], "unit": "kg", "maximum": 300, "molar_mass": None}
STUDY = Events.model_validate(
    {
        "source": "ehr",
        "age": {},
        "sex": True,
        "features": {
            "weight": {**WEIGHT, "value": "last", "indicator": True},
            "pressure": {**WEIGHT, "codes": ["LOINC:8480-6"], "unit": "kPa", "value": "mean"},
            "trend": {**WEIGHT, "value": "trend", "days": 3650},
            "bronchitis": {"codes": ["SNOMED:10509002"], "domain": "condition", "value": "ever"},
            "paracetamol": {"codes": ["RxNorm:313782"], "value": "count", "maximum": 50},
            "visits": {"codes": ["VISIT:*"], "value": "count", "maximum": 500},
            "never-smoked": {"codes": ["LOINC:72166-2"], "answers": ["SNOMED:266919005"], "value": "ever"},
            "dead": {"codes": ["DEATH:*"], "value": "ever"},
        },
    }
)


def read(spec: Events, source: Path, patients: list[str], when: Any) -> Block:
    problems = Problems("north")
    block = read_events(spec, source, patients, when, problems)
    problems.raise_any()
    return block


@pytest.fixture(scope="module")
def omop(public_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("omop")
    with zipfile.ZipFile(public_data / "omop_synthea27nj" / "Synthea27Nj_5.4.zip") as file:
        for name in ("PERSON", "MEASUREMENT", "CONDITION_OCCURRENCE", "DRUG_EXPOSURE", "OBSERVATION", "PROCEDURE_OCCURRENCE",
                     "VISIT_OCCURRENCE", "DEATH", "CONCEPT", "CONCEPT_RELATIONSHIP", "CONCEPT_ANCESTOR", "NOTE"):  # fmt: skip
            file.extract(f"{name}.csv", folder)
    return folder


@pytest.mark.slow
def test_omop(omop: Path, tmp_path: Path) -> None:
    ids = open_source(omop).patients()
    assert len(ids) == 28
    when = np.full(28, np.datetime64("2023-01-01", "s"))
    block = read(STUDY, omop, ids, when)
    assert block.present.all()
    table = pd.read_csv(omop / "MEASUREMENT.csv")
    weights = (
        table[table["measurement_source_value"] == "29463-7"].sort_values("measurement_datetime").groupby("person_id")
    )
    last = weights["value_as_number"].last().reindex([int(one) for one in ids])
    inputs = dict(zip(STUDY.names, block.inputs.T, strict=True))
    np.testing.assert_allclose(inputs["weight"], last.fillna(0), rtol=1e-5)
    visits = pd.read_csv(omop / "VISIT_OCCURRENCE.csv").groupby("person_id").size().reindex([int(one) for one in ids])
    np.testing.assert_allclose((inputs["visits"] + 1) * 250, visits.fillna(0).clip(upper=500), rtol=1e-4)
    assert inputs["dead"].sum() == 3
    path = tmp_path / "o.duckdb"
    with duckdb.connect(str(path)) as connection:
        for file in omop.glob("*.csv"):
            connection.execute(f"CREATE TABLE {file.stem} AS SELECT * FROM read_csv('{file}', sample_size = -1)")
    np.testing.assert_array_equal(read(STUDY, path, ids, when).inputs, block.inputs)


def test_fhir(public_data: Path) -> None:
    folder = public_data / "fhir_synthea_r4"
    ids = open_source(folder).patients()
    assert len(ids) == 35
    block = read(STUDY, folder, ids, np.full(35, np.datetime64("2022-01-05", "s")))
    inputs = dict(zip(STUDY.names, block.inputs.T, strict=True))
    assert block.present.all()
    assert block.missing["weight"] == 0
    assert 10 < inputs["pressure"].mean() < 20
    assert inputs["never-smoked"].sum() > 10
    assert round(float(((inputs["visits"] + 1) * 250).sum())) == 253  # every Encounter of the bundles
    table, counts = derive_cohort(
        EventCohort.model_validate(
            {"source": "x", "index": {"codes": ["VISIT:*"]}, "outcome": {"codes": ["SNOMED:10509002"]}, "days": 3650}
        ),
        folder,
        Problems("north"),
    )
    assert len(table) == counts["patients"] == 35
    assert 0 < table["outcome"].sum() < 35


def test_eicu(public_data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "eicu"
    folder.mkdir()
    for name in ("patient", "vitalaperiodic", "medication", "diagnosis", "note"):
        (folder / f"{name}.csv.gz").write_bytes((public_data / "eicu_demo" / f"{name}.csv.gz").read_bytes())
    (folder / "ehr.toml").write_text(
        """
        [persons]
        file = "patient.csv.gz"
        patient = "patientunitstayid"
        sex = "gender"

        [[tables]]
        file = "vitalaperiodic.csv.gz"
        patient = "patientunitstayid"
        when = "observationoffset"
        clock = "minutes"
        columns = { noninvasivesystolic = { code = "LOINC:8480-6", unit = "mm[Hg]" } }

        [[tables]]
        file = "medication.csv.gz"
        patient = "patientunitstayid"
        when = "drugstartoffset"
        recorded = "drugorderoffset"
        clock = "minutes"
        code = "drughiclseqno"
        system = "HICL"
        domain = "drug"

        [[notes]]
        file = "note.csv.gz"
        patient = "patientunitstayid"
        when = "noteoffset"
        recorded = "noteenteredoffset"
        clock = "minutes"
        text = "notetext"
        """
    )
    ids = pd.read_csv(folder / "patient.csv.gz", dtype=str)["patientunitstayid"].tolist()
    day = np.full(len(ids), np.datetime64(1440 * 60, "s"))
    pressure = {**WEIGHT, "codes": ["LOINC:8480-6"], "unit": "mm[Hg]"}
    spec = Events.model_validate(
        {"source": "x", "age": {}, "features": {
            "mean": {**pressure, "value": "mean", "days": 1},
            "warfarin": {"codes": ["HICL:2812"], "value": "ever", "domain": "drug"},
        }}
    )  # fmt: skip
    block = read(spec, folder / "ehr.toml", ids, day)
    assert block.present.sum() == 2520
    table = pd.read_csv(folder / "vitalaperiodic.csv.gz")
    early = table[
        (table["observationoffset"] < 1440) & (table["observationoffset"] >= 0) & (table["noninvasivesystolic"] <= 300)
    ]
    means = early.groupby("patientunitstayid")["noninvasivesystolic"].mean().reindex([int(one) for one in ids])
    np.testing.assert_allclose(block.inputs[:, spec.names.index("mean")], means.fillna(0), rtol=1e-4)
    assert block.missing["mean"] == int(means.isna().sum())
    problems = Problems("north")
    sequence = EventSequence.model_validate(
        {"source": "x", "length": 24, "hours": 1, "channels": {"systolic": {**pressure, "value": "last"}}}
    )
    steps = read_sequence(sequence, folder / "ehr.toml", ids, day, problems)
    problems.raise_any()
    assert steps.inputs.shape == (2520, 24, 4)
    notes = read_notes(Notes(source="x", size=256), folder / "ehr.toml", ids, day, problems)
    problems.raise_any()
    assert 2000 < notes.present.sum() <= 2520


def test_mtsamples(public_data: Path, tmp_path: Path) -> None:
    (tmp_path / "mtsamples.csv.gz").write_bytes((public_data / "mtsamples" / "mtsamples.csv.gz").read_bytes())
    (tmp_path / "ehr.toml").write_text(
        '[[notes]]\nfile = "mtsamples.csv.gz"\npatient = "sample_id"\ntext = "transcription"\n'
    )
    ids = pd.read_csv(tmp_path / "mtsamples.csv.gz", dtype=str)["sample_id"].tolist()
    problems = Problems("north")
    words = {"patient": 1.0, "knee": 3.0, "heart": 2.5}
    block = read_notes(Notes(source="x", vocabulary=words), tmp_path / "ehr.toml", ids, None, problems)
    hashed = read_notes(Notes(source="x", size=512), tmp_path / "ehr.toml", ids, None, problems)
    problems.raise_any()
    assert hashed.present.all()
    assert 4000 < block.present.sum() < 4998
