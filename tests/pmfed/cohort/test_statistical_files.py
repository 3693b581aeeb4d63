"""Files of SPSS, Stata and SAS: labels, what they call missing, dates of each form, ids with zeros before them."""

from __future__ import annotations

from datetime import date, datetime, time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyreadstat
import pytest

from pmfed.cohort import statistical_files
from pmfed.cohort.contract.written import Written, WrittenPath
from pmfed.cohort.survey.columns import look
from pmfed.cohort.table_rows import batches
from pmfed.cohort.tables import check_ids, dates_of, labels, read_table, values_of
from pmfed.errors import DataError

FRAME = pd.DataFrame(
    {
        "pid": [7.0, 12.0, 345.0],
        "sex": [1.0, 2.0, np.nan],
        "glucose": [5.5, 999.0, 6.25],
        "ward": ["A", "", "B"],
        "seen": [date(2020, 6, 1), None, date(1890, 1, 31)],
        "at": [datetime(2020, 6, 1, 13, 5, 7), datetime(2020, 6, 1), None],
    }
)
SEXES = {"sex": {1: "male", 2: "female"}}


def texts(frame: pd.DataFrame, column: str) -> list[str]:
    codes, found = labels(frame[column])
    return [found[code] for code in codes]


def sav(path: Path, frame: pd.DataFrame = FRAME, **about: Any) -> Path:
    about.setdefault("variable_value_labels", SEXES)
    pyreadstat.write_sav(frame, str(path), **about)
    return path


def test_every_program_s_file_reads_alike(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a.sav", "a.zsav", "a.dta", "a.xpt")]
    sav(files[0], missing_ranges={"glucose": [999]})
    sav(files[1], missing_ranges={"glucose": [{"lo": 900, "hi": 999}]}, compress=True)
    pyreadstat.write_dta(FRAME.assign(glucose=[5.5, np.nan, 6.25]), str(files[2]), variable_value_labels=SEXES)
    pyreadstat.write_xport(FRAME.assign(glucose=[5.5, np.nan, 6.25], sex=["male", "female", ""]), str(files[3]))
    for path in files:
        frame = read_table(path, [*FRAME])
        assert texts(frame, "pid") == ["7", "12", "345"], path
        assert texts(frame, "sex") == ["male", "female", ""], path
        assert texts(frame, "ward") == ["A", "", "B"], path
        np.testing.assert_array_equal(values_of(frame["glucose"]).number, [5.5, np.nan, 6.25])
        assert texts(frame, "seen") == ["2020-06-01", "", "1890-01-31"], path
        moments = dates_of(frame["at"], Written(), "at")
        assert moments.first[0] == np.datetime64("2020-06-01T13:05:07")
        assert moments.last[1] == np.datetime64("2020-06-01T23:59:59")  # midnight is a day
        assert np.isnat(moments.last[2])
        assert not moments.wrong.any()
        assert list(frame.index) == [1, 2, 3]


def test_labels_that_some_values_lack_are_declared_or_refused(tmp_path: Path) -> None:
    frame = pd.DataFrame({"pid": ["a", "b", "c"], "score": [3.0, 7.0, 99.0], "grade": [1.0, 2.0, 1.0]})
    told = {"score": {0: "none", 99: "unknown"}, "grade": {1: "low", 2: "high"}}
    path = sav(tmp_path / "a.sav", frame, variable_value_labels=told)
    assert texts(read_table(path, ["grade"]), "grade") == ["low", "high", "low"]
    with pytest.raises(DataError, match="'score': 1 values have a label and 2 have none") as refused:
        read_table(path, ["pid", "score"])
    assert "unknown" not in str(refused.value)
    for declared, seen in (
        (Written(labels="codes"), ["3", "7", "99"]),
        (Written(labels="words"), ["3", "7", "unknown"]),
        (Written(missing={"score": ("99",)}), ["3", "7", ""]),
        (Written(missing={"score": ("unknown",)}), ["3", "7", ""]),
    ):
        assert texts(read_table(WrittenPath(path, written=declared), ["pid", "score"]), "score") == seen
    assert texts(read_table(WrittenPath(path, written=Written(labels="codes")), ["grade"]), "grade") == ["1", "2", "1"]


def test_a_label_further_down_the_file_is_found_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistical_files, "AT_A_TIME", 2)
    frame = pd.DataFrame({"score": [3.0, 7.0, 99.0, 99.0, 2.0]})
    path = sav(tmp_path / "a.sav", frame, variable_value_labels={"score": {99: "unknown"}})
    with pytest.raises(DataError, match="values have a label"):
        list(batches(path, ["score"]))
    plain = sav(tmp_path / "b.sav", frame, variable_value_labels={})
    assert [len(part) for part in batches(plain, ["score"])] == [2, 2, 1]


@pytest.mark.parametrize(("form", "seen"), [("MOYR8", "2020-06"), ("EDATE10", "2020-06-01"), ("SDATE10", "2020-06-01")])
def test_spss_dates_of_every_form(tmp_path: Path, form: str, seen: str) -> None:
    seconds = (np.datetime64("2020-06-01") - np.datetime64("1582-10-14")).astype("timedelta64[s]").astype(float)
    path = sav(
        tmp_path / "a.sav", pd.DataFrame({"x": [seconds]}), variable_format={"x": form}, variable_value_labels={}
    )
    assert texts(read_table(path, ["x"]), "x") == [seen]


@pytest.mark.parametrize(
    ("form", "stored", "seen"),
    [("%tm", 725.0, "2020-06"), ("%tdDD/NN/CCYY", 22067.0, "2020-06-01"), ("%tdD_m_Y", 22067.0, "2020-06-01")],
)
def test_stata_dates_of_every_form(tmp_path: Path, form: str, stored: float, seen: str) -> None:
    pyreadstat.write_dta(pd.DataFrame({"x": [stored]}), str(tmp_path / "a.dta"), variable_format={"x": form})
    assert texts(read_table(tmp_path / "a.dta", ["x"]), "x") == [seen]


@pytest.mark.parametrize(("kind", "form"), [("sav", "QYR6"), ("dta", "%tq"), ("xpt", "YYQ6.")])
def test_quarters_are_refused_not_read_as_numbers(tmp_path: Path, kind: str, form: str) -> None:
    path = tmp_path / f"a.{kind}"
    write = {"sav": pyreadstat.write_sav, "dta": pyreadstat.write_dta, "xpt": pyreadstat.write_xport}[kind]
    write(pd.DataFrame({"x": [241.0]}), str(path), variable_format={"x": form})
    with pytest.raises(DataError, match="a date of a form that is not read"):
        read_table(path, ["x"])


def test_a_time_of_day_is_no_number(tmp_path: Path) -> None:
    path = sav(tmp_path / "a.sav", pd.DataFrame({"x": [time(5, 30)]}), variable_value_labels={})
    assert np.isnan(values_of(read_table(path, ["x"])["x"]).number).all()


def test_ids_keep_their_zeros_and_cut_ones_are_refused(tmp_path: Path) -> None:
    path = sav(
        tmp_path / "a.sav", pd.DataFrame({"pid": [42.0, 7.0]}), variable_format={"pid": "N5"}, variable_value_labels={}
    )
    assert texts(read_table(path, ["pid"]), "pid") == ["00042", "00007"]
    long = sav(tmp_path / "b.sav", pd.DataFrame({"pid": [2.0**60]}), variable_value_labels={})
    with pytest.raises(DataError, match="whose last digits were cut off"):
        check_ids(long, "pid", read_table(long, ["pid"]))


def test_missing_values_of_stata_s_own(tmp_path: Path) -> None:
    frame = pd.DataFrame({"pid": ["p", "q", "r"], "x": pd.Series([1.0, "a", 3.0], dtype=object)})
    pyreadstat.write_dta(frame, str(tmp_path / "a.dta"), missing_user_values={"x": ["a"]})
    np.testing.assert_array_equal(
        values_of(read_table(tmp_path / "a.dta", ["pid", "x"])["x"]).number, [1.0, np.nan, 3.0]
    )


def test_damaged_files_and_a_survey(tmp_path: Path) -> None:
    (tmp_path / "a.sav").write_bytes(b"Zebedee" * 30)
    with pytest.raises(DataError, match="cannot be read") as refused:
        read_table(tmp_path / "a.sav", ["x"])
    assert "Zebedee" not in str(refused.value)
    with pytest.raises(DataError, match="lacks 1 column"):
        read_table(sav(tmp_path / "b.sav"), ["absent"])
    many = pd.DataFrame({"pid": [f"p{one}" for one in range(30)], "sex": [1.0 + one % 2 for one in range(30)]})
    found = look(sav(tmp_path / "c.sav", many), Written(), {})
    assert found.patient == "pid"
    assert [(column.holds, column.words) for column in found.columns] == [("id", ()), ("category", ("female", "male"))]
