"""One study, every source: OMOP, FHIR and tables give the same inputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from readings import read_events
from worlds import (
    SMALL,
    STUDY,
    Event,
    World,
    dates,
    in_utc,
    omop_tables,
    write_bundles,
    write_ndjson,
    write_omop,
    write_omop_folder,
    write_tables,
)

from pmfed.cohort.block import Block
from pmfed.cohort.ehr import open_source
from pmfed.cohort.tables import Problems
from pmfed.errors import DataError
from pmfed.modality.ehr import Events

WRITERS: dict[str, Callable[[World, Path], Path]] = {
    "csv": write_tables,
    "parquet": lambda world, path: write_tables(world, path, "parquet"),
    "omop": lambda world, path: write_omop(world, path.with_suffix(".duckdb")),
    "omop-folder": write_omop_folder,
    "ndjson": lambda world, path: in_utc(write_ndjson(world, path)),
    "bundles": lambda world, path: in_utc(write_bundles(world, path)),
}
PATIENTS = ["1", "2", "3", "1"]
WHEN = dates("2020-02-01", "2020-02-01", "2020-02-01", "2020-01-21")


def study(**changes: Any) -> Events:
    return Events.model_validate({**STUDY, **changes})


def read(spec: Events, source: Path | str, patients: list[str] = PATIENTS, when: Any = WHEN) -> Block:
    problems = Problems("north")
    block = read_events(spec, source, patients, when, problems)
    problems.raise_any()
    return block


@pytest.mark.parametrize("kind", WRITERS)
def test_every_source_gives_the_inputs_worked_out_by_hand(kind: str, tmp_path: Path) -> None:
    spec = study()
    block = read(spec, WRITERS[kind](SMALL, tmp_path / "source"))
    inputs = dict(zip(spec.names, block.inputs.T, strict=True))
    year = 365.2425
    np.testing.assert_allclose(
        inputs["age"],
        [
            (WHEN[row] - np.datetime64(SMALL.persons[who][0], "s")).astype(int) / 86400 / year
            for row, who in enumerate(PATIENTS)
        ],
        rtol=1e-6,
    )
    assert inputs["sex=female"].tolist() == [1, 0, 1, 1]
    assert inputs["sex=male"].tolist() == [0, 1, 0, 0]
    two = 176.84 * 113.12 / 10_000
    np.testing.assert_allclose(inputs["creatinine"], [4, 2, 0, two], rtol=1e-5)
    assert inputs["creatinine missing"].tolist() == [0, 0, 1, 0]
    np.testing.assert_allclose(inputs["creatinine-mean"], [(5 + two) / 3, 2, 0, (1 + two) / 2], rtol=1e-5)
    days, values = np.array([0, 19, 30]), np.array([1, two, 4])
    slope = np.polyfit(days, values, 1)[0] * 365
    np.testing.assert_allclose(
        inputs["creatinine-trend"], [min(slope, 20), 0, 0, min((two - 1) / 19 * 365, 20)], rtol=1e-4
    )
    assert inputs["diabetes"].tolist() == [1, 0, 0, 1]
    assert inputs["metformin"].tolist() == [0, 1, 0, 0]
    assert inputs["scan"].tolist() == [0, 0, 1, 0]
    assert inputs["stays"].tolist() == [1, 0, 0, 0]
    assert inputs["visits"].tolist() == [2, 0, 1, 1]
    assert inputs["never-smoked"].tolist() == [1, 0, 0, 1]
    assert inputs["smokes"].tolist() == [0, 1, 0, 0]
    assert inputs["dead"].tolist() == [0, 0, 0, 0]
    assert block.present.all()
    assert block.missing["creatinine"] == 1
    assert block.missing["creatinine-trend"] == 2


@pytest.mark.parametrize("kind", WRITERS)
def test_ids_are_listed_and_who_is_not_there_is_counted(kind: str, tmp_path: Path) -> None:
    source = WRITERS[kind](SMALL, tmp_path / "source")
    assert open_source(source).patients() == ["1", "2", "3"]
    block = read(study(), source, ["1", "007", "1x"], dates(*["2020-02-01"] * 3))
    assert block.present.tolist() == [True, False, False]
    assert not block.inputs[1:].any()
    assert block.counts["patients that the source does not have"] == 2
    assert any("2 patients of the cohort not in it" in line for line in block.warnings)
    assert read(study(), source, ["01", "2"], dates(*["2020-02-01"] * 2)).present.tolist() == [False, True]
    with pytest.raises(DataError, match="none of 2 patients of the cohort is in it"):
        read(study(), source, ["8", "9"], dates("2020-02-01", "2020-02-01"))


@pytest.mark.parametrize("kind", WRITERS)
def test_a_record_without_an_index_date_has_nothing(kind: str, tmp_path: Path) -> None:
    block = read(study(), WRITERS[kind](SMALL, tmp_path / "source"), ["1", "2"], dates("2020-02-01", "NaT"))
    assert block.present.tolist() == [True, False]
    assert any("1 record without an index date" in line for line in block.warnings)


def test_an_index_date_is_needed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="need an index date"):
        read(study(), write_tables(SMALL, tmp_path / "t"), ["1"], None)


def test_without_a_vocabulary_codes_are_those_the_source_wrote(tmp_path: Path) -> None:
    path = write_omop(SMALL, tmp_path / "bare.duckdb", vocabulary=False)
    block = read(study(), path)
    np.testing.assert_array_equal(block.inputs[:, :3], read(study(), write_ndjson(SMALL, tmp_path / "f")).inputs[:, :3])
    inputs = dict(zip(study().names, block.inputs.T, strict=True))
    np.testing.assert_allclose(inputs["creatinine"], [4, 2, 0, 176.84 * 113.12 / 10_000], rtol=1e-5)
    assert inputs["diabetes"].tolist() == [1, 0, 0, 1]
    assert inputs["visits"].tolist() == [2, 0, 1, 1]
    assert inputs["smokes"].tolist() == [0, 1, 0, 0]
    assert any("has no table 'concept'" in line for line in block.warnings)
    assert block.counts["events without a mapped code in measurement"] == 5


def one(codes: list[str], **rest: Any) -> Events:
    return study(age=None, sex=False, features={"x": {"codes": codes, "value": "ever", **rest}})


def test_codes_are_followed_to_standard_concepts_and_down_to_descendants_when_asked(tmp_path: Path) -> None:
    path, late = write_omop(SMALL, tmp_path / "o.duckdb"), dates(*["2021-01-01"] * 3)

    def found(spec: Events) -> list[float]:
        return read(spec, path, ["1", "2", "3"], late).inputs[:, 0].tolist()

    assert found(one(["ICD10CM:E11.9"])) == [1, 0, 0]
    assert found(one(["icd-10-cm:E119"])) == [1, 0, 0]
    assert found(one(["SNOMED:44054006"])) == [1, 0, 0]
    assert found(one(["SNOMED:73211009"])) == [0, 0, 0]
    assert found(one(["SNOMED:73211009"], descendants=True)) == [1, 0, 1]
    number = SMALL.codes()["SNOMED:44054006"]
    assert found(one([f"OMOP:{number}"])) == [1, 0, 0]
    assert found(one(["ICD10CM:E11*"], domain="measurement")) == [0, 0, 0]
    with duckdb.connect(str(path)) as connection:  # only what the hospital's ETL made of the codes is left
        connection.execute("UPDATE condition_occurrence SET condition_source_concept_id = 0")
        connection.execute(
            "UPDATE procedure_occurrence SET procedure_concept_id = 0, procedure_source_concept_id = NULL"
        )
    assert found(one(["ICD10CM:E11.9"])) == [1, 0, 0]
    assert found(one(["ICD10CM:E11*"])) == [1, 0, 1]
    assert found(one(["OMOP:0"])) == [0, 0, 0]  # "no matching concept" is not a concept


@pytest.mark.parametrize("kind", ["csv", "ndjson"])
def test_what_a_source_cannot_tell_is_said(kind: str, tmp_path: Path) -> None:
    block = read(one(["SNOMED:73211009"], descendants=True), WRITERS[kind](SMALL, tmp_path / "source"))
    assert any("the descendants of a code; only codes as listed count" in line for line in block.warnings)
    assert any("nobody of the cohort has any of its 1 code" in line for line in block.warnings)


def test_an_empty_table_of_ancestors_is_said(tmp_path: Path) -> None:
    path = write_omop(SMALL, tmp_path / "o.duckdb")
    with duckdb.connect(str(path)) as connection:
        connection.execute("DELETE FROM concept_ancestor")
    block = read(one(["SNOMED:73211009"], descendants=True), path)
    assert any("no rows in 'concept_ancestor'" in line for line in block.warnings)


def test_an_event_that_several_codes_describe_is_counted_once(tmp_path: Path) -> None:
    codes = ["SNOMED:44054006", "ICD10CM:E11*", f"OMOP:{SMALL.codes()['ICD10CM:E11.9']}"]
    spec = one(codes, value="count", maximum=9, mean=0, scale=1)
    assert read(spec, write_omop(SMALL, tmp_path / "o.duckdb")).inputs[:, 0].tolist() == [1, 0, 0, 1]


def test_a_code_that_is_no_concept_id_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'OMOP:abc' of the study is no concept id"):
        read(one(["OMOP:abc"]), write_omop(SMALL, tmp_path / "o.duckdb"))


@pytest.mark.parametrize("table", ["person", "measurement", "visit_occurrence"])
def test_a_database_without_a_needed_table_says_which(table: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"lacks the table '{table}', which the study needs"):
        read(study(), write_omop(SMALL, tmp_path / "o.duckdb", without=[table]))


def test_a_table_that_no_feature_needs_may_be_absent(tmp_path: Path) -> None:
    path = write_omop(SMALL, tmp_path / "o.duckdb", without=["measurement", "death"])
    assert read(one(["ICD10CM:E11*"], domain="condition"), path).inputs[:, 0].tolist() == [1, 0, 0, 1]


def test_two_patients_with_one_id_stop_reading(tmp_path: Path) -> None:
    path = write_omop(SMALL, tmp_path / "o.duckdb")
    with duckdb.connect(str(path)) as connection:
        connection.execute("INSERT INTO person SELECT 1, 8507, 1970, 1, 1, 'MRN-4', 'male'")
    with pytest.raises(DataError, match="table 'person': 1 patient with more than one row") as caught:
        read(study(), path)
    assert "MRN" not in str(caught.value)


def test_medical_record_numbers_can_be_the_ids(tmp_path: Path) -> None:
    mine = ["MRN-1", "MRN-2", "MRN-3", "MRN-1"]
    write_omop(SMALL, tmp_path / "o.duckdb")
    (tmp_path / "omop.toml").write_text('[omop]\ndatabase = "o.duckdb"\npatient = "person_source_value"\n')
    expected = read(study(), tmp_path / "o.duckdb").inputs
    np.testing.assert_array_equal(read(study(), tmp_path / "omop.toml", mine).inputs, expected)
    assert open_source(tmp_path / "omop.toml").patients() == ["MRN-1", "MRN-2", "MRN-3"]
    for folder in (write_ndjson(SMALL, tmp_path / "lines"), write_bundles(SMALL, tmp_path / "bundles")):
        (tmp_path / "fhir.toml").write_text(
            f'timezone = "UTC"\n[fhir]\nfiles = "{folder.name}"\nidentifier = "http://mrn"\n'
        )
        np.testing.assert_allclose(read(study(), tmp_path / "fhir.toml", mine).inputs, expected, rtol=1e-5)


def test_midnight_is_a_day_of_unknown_hour_in_every_source(tmp_path: Path) -> None:
    world = World({"1": ("1950-03-02", "female")}, [Event("1", "2020-01-31T00:00:00", "condition", "ICD10CM:E11.9")])
    spec = one(["ICD10CM:E11*"])
    noon, next_day = dates("2020-01-31T12:00:00"), dates("2020-02-01")
    for kind, write in WRITERS.items():
        path = write(world, tmp_path / kind)
        assert read(spec, path, ["1"], noon).inputs[0, 0] == 0, kind
        assert read(spec, path, ["1"], next_day).inputs[0, 0] == 1, kind


def test_dates_in_the_future_are_told(tmp_path: Path) -> None:
    events = [*SMALL.events, Event("1", "2999-01-01T00:00:01", "measurement", "LOINC:2160-0", 1.0, "mg/dL")]
    block = read(study(), write_tables(World(SMALL.persons, events), tmp_path / "t"))
    assert block.counts["events dated in the future"] == 3  # once for each feature it would be part of
    assert any("dated in the future" in line for line in block.warnings)


def test_a_database_that_is_none_says_only_that(tmp_path: Path) -> None:
    path = tmp_path / "o.duckdb"
    path.write_text("Jane Doe, 1950")
    with pytest.raises(DataError, match="cannot be opened or read") as caught:
        read(study(), path)
    assert "Jane" not in str(caught.value)


def test_a_column_of_another_type_says_only_that(tmp_path: Path) -> None:
    tables = omop_tables(SMALL)
    path = tmp_path / "o.duckdb"
    with duckdb.connect(str(path)) as connection:
        for name, frame in tables.items():
            text = frame.astype(str)
            connection.register("text", text)
            connection.execute(f"CREATE TABLE {name} AS SELECT * FROM text")
            connection.unregister("text")
    with pytest.raises(DataError, match="cannot be opened or read") as caught:
        read(study(), path)
    assert "SELECT" not in str(caught.value)


def test_no_source_is_told_from_the_others(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(DataError, match="holds neither OMOP tables"):
        open_source(tmp_path / "empty")
    with pytest.raises(DataError, match="no source of health records"):
        open_source(tmp_path / "a.txt")
    with pytest.raises(DataError, match="no such file or folder"):
        open_source(tmp_path / "absent")
    (tmp_path / "two.toml").write_text('[omop]\ndatabase = "a"\n[fhir]\nfiles = "b"\n')
    with pytest.raises(DataError, match="describe one source"):
        open_source(tmp_path / "two.toml")
    (tmp_path / "out.toml").write_text('[omop]\ndatabase = "../o.duckdb"\n')
    with pytest.raises(DataError, match="lies outside"):
        open_source(tmp_path / "out.toml")


def test_a_link_out_of_a_folder_of_tables_is_refused(tmp_path: Path) -> None:
    folder = write_omop_folder(SMALL, tmp_path / "omop")
    (folder / "person.csv").rename(tmp_path / "person.csv")
    (folder / "person.csv").symlink_to(tmp_path / "person.csv")
    with pytest.raises(DataError, match="link out of the folder"):
        read(study(), folder)
