"""Events out of a hospital's own tables: long and wide, with dates or offsets, and every way they can be wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from readings import read_events
from worlds import CREATININE, dates

import pmfed.cohort.table_rows as batches
from pmfed.cohort.block import Block
from pmfed.cohort.ehr import open_source
from pmfed.cohort.tables import Problems
from pmfed.errors import DataError
from pmfed.modality.ehr import Events

INDEX = dates("2020-02-01")
LAST = {**CREATININE, "value": "last"}
HEAD = "patient_id,when,code,value,unit\n"


def read(source: Path, features: dict[str, Any], patients: tuple[str, ...] = ("1",), when: Any = INDEX) -> Block:
    problems = Problems("north")
    block = read_events(Events.model_validate({"source": "x", "features": features}), source, patients, when, problems)
    problems.raise_any()
    return block


def table(path: Path, *lines: str, head: str = HEAD) -> Path:
    path.write_text(head + "".join(f"{line}\n" for line in lines))
    return path


def test_one_table_is_enough(tmp_path: Path) -> None:
    path = table(
        tmp_path / "events.csv", "1,2020-01-05,LOINC:2160-0,2.5,mg/dL", "1,,LOINC:2160-0,9,mg/dL", "1,2020-01-06,,,"
    )
    block = read(path, {"x": LAST})
    assert block.inputs[0, 0] == 2.5
    assert block.counts["events without a date"] == 1
    assert block.counts["events without a code of a named system"] == 1


def test_without_a_list_of_patients_absence_is_told_but_is_no_input(tmp_path: Path) -> None:
    """A row from after the index date must not tell that a patient exists."""
    path = table(tmp_path / "events.csv", "1,2020-01-05,LOINC:2160-0,2.5,mg/dL", "2,2020-03-01,LOINC:2160-0,2.5,mg/dL")
    block = read(path, {"x": LAST}, ("1", "2", "3"), dates(*["2020-02-01"] * 3))
    assert block.present.tolist() == [True, True, True]
    assert block.counts["patients that the source does not have"] == 1
    with pytest.raises(DataError, match="none of 1 patient of the cohort is in it"):
        read(path, {"x": LAST}, ("3",))


def test_offsets_wide_tables_and_own_spellings(tmp_path: Path) -> None:
    table(
        tmp_path / "vital.csv",
        "7,30,120,x",
        "7,90,,",
        "7,1441,99,9",
        "8,30,100,16",
        head="stay,minute,systolic,weird\n",
    )
    table(tmp_path / "lab.csv", "7,10,GLU,100,MG%", "7,20,GLU,,", head="stay,minute,item,result,measure\n")
    table(tmp_path / "who.csv", "7,> 89,Female", "8,61,M", head="stay,age,gender\n")
    (tmp_path / "ehr.toml").write_text(
        """
        [units]
        "MG%" = "mg/dL"
        [persons]
        file = "who.csv"
        patient = "stay"
        sex = "gender"
        [[tables]]
        file = "vital.csv"
        patient = "stay"
        when = "minute"
        clock = "minutes"
        [tables.columns]
        systolic = { code = "LOINC:8480-6", unit = "mm[Hg]" }
        weird = { code = "LOCAL:weird", unit = "1" }
        [[tables]]
        file = "lab.csv"
        patient = "stay"
        when = "minute"
        clock = "minutes"
        code = "item"
        system = "LOCAL"
        value = "result"
        unit = "measure"
        """
    )
    features = {
        "glucose": {**LAST, "codes": ["LOCAL:GLU"], "unit": "mmol/L", "maximum": 50, "molar_mass": 180.156},
        "systolic": {**LAST, "codes": ["LOINC:8480-6"], "unit": "mm[Hg]", "maximum": 300, "molar_mass": None},
        "weird": {"codes": ["LOCAL:weird"], "value": "count", "maximum": 9, "mean": 0, "scale": 1},
    }
    spec = Events.model_validate(
        {"source": "x", "age": {"mean": 0, "scale": 1, "indicator": True}, "sex": True, "features": features}
    )
    problems = Problems("north")
    day = np.full(2, np.datetime64(1440 * 60, "s"))
    block = read_events(spec, tmp_path / "ehr.toml", ["7", "8"], day, problems)
    problems.raise_any()
    np.testing.assert_allclose(block.inputs, [[0, 1, 1, 0, 5.5507, 120, 1], [61, 0, 0, 1, 0, 100, 1]], rtol=1e-4)
    assert block.counts["measurements without a number"] == 1
    assert open_source(tmp_path / "ehr.toml").patients() == ["7", "8"]


def test_units_that_do_not_convert_stop_the_study_unless_it_says_otherwise(tmp_path: Path) -> None:
    path = table(
        tmp_path / "e.csv",
        "1,2020-01-05,LOINC:2160-0,2.5,mg/dL",
        "1,2020-01-06,LOINC:2160-0,3,mmHg",
        "1,2020-01-07,LOINC:2160-0,4,",
        "1,2020-01-07,LOINC:2160-0,4,Jane Doe",
        "1,2020-01-07,LOINC:2160-0,4,{Jane}",
    )
    with pytest.raises(DataError, match="'x': 4 values in a unit that does not convert to 'mg/dL'") as caught:
        read(path, {"x": LAST})
    assert "('mmHg': 1, no unit: 1, others: 2)" in str(caught.value)
    assert "Jane" not in str(caught.value)
    block = read(path, {"x": {**LAST, "bad_units": "skip"}})
    assert block.inputs[0, 0] == 2.5
    assert block.counts["values in a unit that does not convert"] == 4
    stated = read(path, {"x": {**LAST, "bad_units": "skip", "units": {"mmHg": 2.0}}})
    assert stated.inputs[0, 0] == 6


def test_a_file_of_many_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "BLOCK", 2000)
    lines = [
        f"{place % 7},2020-01-{1 + place % 28:02}T{place % 24:02}:{place % 59:02},LOINC:2160-0,{place % 5}.0,mg/dL"
        for place in range(2000)
    ]
    patients = tuple(str(one) for one in range(7))
    mean = {
        "x": {**LAST, "value": "mean"},
        "n": {"codes": ["LOINC:*"], "value": "count", "maximum": 999, "mean": 0, "scale": 1},
    }
    small = read(table(tmp_path / "e.csv", *lines), mean, patients, dates(*["2020-02-01"] * 7))
    frame = pd.read_csv(tmp_path / "e.csv")
    np.testing.assert_allclose(small.inputs[:, 0], frame.groupby("patient_id").size())
    np.testing.assert_allclose(small.inputs[:, 1], frame.groupby("patient_id")["value"].mean(), rtol=1e-6)
    frame.astype({"patient_id": float}).to_parquet(tmp_path / "e.parquet", row_group_size=100)  # ids as 1.0, 2.0
    parquet = read(tmp_path / "e.parquet", mean, patients, dates(*["2020-02-01"] * 7))
    np.testing.assert_array_equal(parquet.inputs, small.inputs)
    frame.to_csv(tmp_path / "e.tsv.gz", sep="\t", index=False)
    packed = read(tmp_path / "e.tsv.gz", mean, patients, dates(*["2020-02-01"] * 7))
    np.testing.assert_array_equal(packed.inputs, small.inputs)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        ("patient_id,when,value\n1,2020,3\n", "lacks 1 column that the study names: 'code'"),
        ("patient_id;when;code\n1;2020;LOINC:1\n", "separated by semicolons"),
        (
            HEAD + "1,2020-01-01,LOINC:1,1,mg\n1,2020-01-01,LOINC\n",
            r"1 row has another number of fields .* \(first at row 3\)",
        ),
        (HEAD + '1,2020-01-01,"LOINC:1,1,mg\n' + "x" * 9000, "holds a row of more than|another number of fields"),
        (HEAD.encode() + b"\xff\xfe,2020,LOINC:2160-0,1,mg\n", "is not UTF-8"),
        (b"PAR1 no parquet", "lacks 3 columns|is empty"),
    ],
)
def test_tables_that_cannot_be_read(
    text: str | bytes, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "BLOCK", 4000)
    path = tmp_path / "e.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=says) as caught:
        read(path, {"x": LAST})
    assert "LOINC:1" not in str(caught.value)


def test_a_damaged_parquet(tmp_path: Path) -> None:
    (tmp_path / "e.parquet").write_bytes(b"PAR1 no parquet")
    with pytest.raises(DataError, match="cannot be read"):
        read(tmp_path / "e.parquet", {"x": LAST})


@pytest.mark.parametrize("file", ["../e.csv", "/etc/passwd", "link.csv", "a\\u0000b.csv"])
def test_a_table_outside_the_folder_is_refused(file: str, tmp_path: Path) -> None:
    folder = tmp_path / "site"
    folder.mkdir()
    table(tmp_path / "e.csv", "1,2020-01-05,LOINC:2160-0,2.5,mg/dL")
    (folder / "link.csv").symlink_to(tmp_path / "e.csv")
    (folder / "ehr.toml").write_text(f'[[tables]]\nfile = "{file}"\n')
    with pytest.raises(DataError, match=r"a file listed for it lies outside|tables\.file: holds U\+0000"):
        read(folder / "ehr.toml", {"x": LAST})


def test_two_persons_with_one_id_stop_reading_and_one_written_twice_does_not(tmp_path: Path) -> None:
    table(tmp_path / "events.csv", "1,2020-01-05,LOINC:2160-0,2.5,mg/dL")
    table(tmp_path / "persons.csv", "1,1950-01-01,f", "1,1950-01-01,f", head="patient_id,birth,sex\n")
    assert read(tmp_path, {"x": LAST}).inputs[0, 0] == 2.5
    table(tmp_path / "persons.csv", "1,1950-01-01,f", "1,1960-01-01,f", head="patient_id,birth,sex\n")
    with pytest.raises(DataError, match="1 patient with more than one row that differ") as caught:
        read(tmp_path, {"x": LAST})
    assert "19" not in str(caught.value).split("persons.csv")[1]


def test_a_mistake_in_the_description_names_the_line(tmp_path: Path) -> None:
    (tmp_path / "ehr.toml").write_text('[[tables]]\nfile = "e.csv"\nclok = "minutes"\n')
    with pytest.raises(DataError, match=r"ehr.toml:3: unknown key 'clok'; did you mean 'clock'\?"):
        read(tmp_path / "ehr.toml", {"x": LAST})
