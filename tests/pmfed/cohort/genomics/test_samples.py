"""Whose sample is whose."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pmfed.cohort.genomics.samples import Map, Samples, pair_samples
from pmfed.cohort.tables import Problems
from pmfed.errors import DataError

FILE = Path("calls.vcf.gz")
NAMES = ("S3", "S1", "S2", "S9")


def pair(names: tuple[str, ...], patients: list[str], table: Map | None = None) -> Samples:
    problems = Problems("north")
    paired = pair_samples(FILE, names, patients, table, problems)
    problems.raise_any()
    assert paired is not None
    return paired


def refused(names: tuple[str, ...], patients: list[str], table: Map | None = None) -> str:
    with pytest.raises(DataError) as caught:
        pair(names, patients, table)
    says = str(caught.value)
    assert not any(one in says for one in (*names, *patients, "Q1", "Q2") if one)
    return says


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "samples.csv"
    path.write_text(
        "sample_id,patient_id,sex,drawn\nS1,Q1,male,2024-01-02\nS2,Q2,F,2024-01-03T10:00\nS7,Q7,,2020-01-01\n"
    )
    return path


def mapping(path: Path, **columns: str) -> Map:
    return Map(path, "sample_id", "patient_id", **columns)


def test_ids_of_samples_are_ids_of_patients_without_a_table() -> None:
    paired = pair(NAMES, ["S1", "S1", "nobody", "S3"])
    assert paired.places.tolist() == [0, 1]
    assert paired.of_records().tolist() == [1, 1, -1, 0]
    assert paired.counts == {"samples in the file": 4, "samples of no patient": 2, "patients without a sample": 1}
    assert paired.warnings == (f"{FILE}: 2 samples of no patient in the cohort left out.",)
    assert paired.sex is None
    assert "S1" not in repr(paired)


def test_a_table_maps_samples_to_patients(table: Path) -> None:
    paired = pair(NAMES, ["Q2", "Q1", "Q7", "Q2"], mapping(table, sex="sex", date="drawn"))
    assert paired.places.tolist() == [1, 2]
    assert paired.patient.tolist() == [1, 0]
    assert paired.of_records().tolist() == [1, 0, -1, 1]
    assert paired.sex is not None
    assert paired.sex.tolist() == [1, 2]
    assert paired.taken is not None
    assert paired.taken.astype(str).tolist() == ["2024-01-02T00:00:00", "2024-01-03T10:00:00"]
    assert f"{table}: 1 sample of the cohort's patients not found in {FILE}." in paired.warnings


def test_nobody_in_common(table: Path) -> None:
    assert "none of its 4 samples belongs to a patient of the cohort" in refused(NAMES, ["Z1", "Z2"])
    assert f"of the cohort by {table}" in refused(("S5", "S6"), ["Q1"], mapping(table))


def test_one_sample_twice_in_the_file() -> None:
    assert "1 sample id standing there more than once" in refused(("S1", "S2", "S1"), ["S1", "S2"])


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ("S1,Q1\nS1,Q2", "column 'sample_id': 1 sample in more than one row"),
        ("S1,Q1\nS2,Q1", "1 patient with more than one sample in calls.vcf.gz"),
        ("S1,\nS2,Q2", "column 'patient_id': 1 row empty"),
        (",Q1\nS2,Q2", "column 'sample_id': 1 row empty"),
    ],
)
def test_tables_that_contradict_themselves(tmp_path: Path, rows: str, says: str) -> None:
    path = tmp_path / "samples.csv"
    path.write_text(f"sample_id,patient_id\n{rows}\n")
    assert says in refused(NAMES, ["Q1", "Q2"], mapping(path))


def test_two_samples_of_a_patient_who_is_not_in_the_cohort_do_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "samples.csv"
    path.write_text("sample_id,patient_id\nS1,Q1\nS2,Q2\nS3,Q2\n")
    assert pair(NAMES, ["Q1"], mapping(path)).places.tolist() == [1]


def test_words_for_sexes_and_dates(tmp_path: Path, table: Path) -> None:
    path = tmp_path / "other.csv"
    path.write_text(table.read_text().replace("male", "mannlich").replace("2024-01-02", "02.01.2024"))
    says = refused(NAMES, ["Q1", "Q2"], mapping(path, sex="sex", date="drawn"))
    assert "column 'sex': 1 row with neither male, female nor unknown" in says
    assert "column 'drawn': 1 row without a date" in says
    assert "mannlich" not in says
    assert "02.01" not in says


def test_a_table_that_is_not_there(tmp_path: Path) -> None:
    assert "there is no such file" in refused(NAMES, ["Q1"], mapping(tmp_path / "none.csv"))


def test_numbers_as_ids(tmp_path: Path) -> None:
    path = tmp_path / "samples.csv"
    path.write_text("sample_id,patient_id\n007,12\n7,13\n")
    paired = pair(("7", "007"), ["12", "13"], mapping(path))
    assert paired.of_records().tolist() == [1, 0]
    assert np.array_equal(paired.places, [0, 1])
