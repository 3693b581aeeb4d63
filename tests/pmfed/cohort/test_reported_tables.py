"""Tables as public bug reports tell of them, each the smallest of its kind: the right cell, or a refusal.

The name of a case is where it was reported; `docs/formats.md` lists them with what comes of each.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openpyxl
import pandas as pd
import pyreadstat
import pytest

from pmfed.cohort.contract.numbers import UNDECLARED
from pmfed.cohort.contract.written import PLAIN, Written
from pmfed.cohort.tables import check_ids, dates_of, labels, read_table, values_of
from pmfed.errors import DataError

DAY_FIRST = Written(dates="day-first")


def texts(frame: pd.DataFrame, column: str = "x") -> list[str]:
    codes, found = labels(frame[column])
    return [found[code] for code in codes]


def days(cells: list[str], written: Written = PLAIN) -> list[str]:
    return [str(one)[:10] for one in dates_of(pd.Series(cells, dtype="str"), written, "x").first]


@pytest.mark.parametrize(
    ("cells", "written", "seen"),
    [
        pytest.param(["10/9/2016", "30/9/2016"], PLAIN, ["NaT", "NaT"], id="pandas#14301 undeclared"),
        pytest.param(["10/9/2016", "30/9/2016"], DAY_FIRST, ["2016-09-10", "2016-09-30"], id="pandas#14301"),
        pytest.param(["27.03.2003 14:55:00.000", "03.08.2003 15:20:00.000"], DAY_FIRST, ["2003-03-27", "2003-08-03"], id="pandas#2586"),
        pytest.param(["13/14/2003"], DAY_FIRST, ["NaT"], id="pandas#2586 neither"),
        pytest.param(["2013,11,04", "Nov 14,2013"], PLAIN, ["NaT", "NaT"], id="pandas#17265"),
        pytest.param(["2013,11,04"], Written(dates="month-first"), ["NaT"], id="pandas#17265 month-first"),
    ],
)  # fmt: skip
def test_dates(cells: list[str], written: Written, seen: list[str]) -> None:
    assert days(cells, written) == seen


def test_pandas_59299_thousands_that_nobody_declared() -> None:
    told = values_of(pd.Series(["1,20", "1.234,56", "1.234"], dtype="str"), Written(decimal=","), "x")
    assert told.number[0] == 1.2
    assert np.isnan(told.number[1:]).all()
    assert [told.reasons[why] for why in told.why[1:]] == [UNDECLARED, UNDECLARED]
    both = values_of(pd.Series(["1,20", "1.234,56"], dtype="str"), Written(decimal=",", thousands="."), "x")
    assert both.number.tolist() == [1.2, 1234.56]


def book(path: Path, cells: list[Any], form: str = "General") -> pd.DataFrame:
    made = openpyxl.Workbook()
    made.active.append(["x", "other"])
    for cell in cells:
        made.active.append([cell, 1])
        made.active.cell(made.active.max_row, 1).number_format = form
    made.save(path)
    return read_table(path, ["x", "other"])


@pytest.mark.parametrize(
    ("cells", "form", "seen"),
    [
        pytest.param([123, 12, 1], "0000000", ["0000123", "0000012", "0000001"], id="readxl#389"),
        pytest.param(["02494", 12010], "General", ["02494", "12010"], id="pandas#46895"),
        pytest.param(["02"], "@", ["02"], id="pandas#12186"),
        pytest.param(["020099", None, "000007"], "@", ["020099", "", "000007"], id="pandas#20828"),
        pytest.param(["_x0033_40.00"], "General", ["340.00"], id="pandas#40469"),
    ],
)
def test_spreadsheets(tmp_path: Path, cells: list[Any], form: str, seen: list[str]) -> None:
    frame = book(tmp_path / "a.xlsx", cells, form)
    assert texts(frame) == seen


def test_pandas_55105_ids_that_excel_was_kept_from_reading(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('pid;x\n="0084451620643540001";1\n="007";2\n')
    frame = read_table(semicolons(tmp_path / "a.csv"), ["pid"])
    assert texts(frame, "pid") == ["0084451620643540001", "007"]
    check_ids(tmp_path / "a.csv", "pid", frame)


def semicolons(path: Path) -> Path:
    from pmfed.cohort.contract.written import WrittenPath

    return WrittenPath(path, written=Written(separator=";"))


def stored(day: str) -> float:
    return float((np.datetime64(day) - np.datetime64("1582-10-14")).astype("timedelta64[s]").astype(float))


@pytest.mark.parametrize("form", ["ADATE10", "ADATE8", "EDATE10", "DATE11", "SDATE10", "JDATE5"])
def test_pyreadstat_170_every_form_of_date_in_spss(tmp_path: Path, form: str) -> None:
    frame = pd.DataFrame({"x": [stored("2020-02-01")]})
    pyreadstat.write_sav(frame, str(tmp_path / "a.sav"), variable_format={"x": form})
    assert texts(read_table(tmp_path / "a.sav", ["x"])) == ["2020-02-01"]


def test_haven_505_a_labelled_date_is_no_date(tmp_path: Path) -> None:
    frame = pd.DataFrame({"x": [stored("1990-01-01"), 99999999999.0]})
    about = {"variable_format": {"x": "DATE11"}, "variable_value_labels": {"x": {99999999999.0: "unknown"}}}
    pyreadstat.write_sav(frame, str(tmp_path / "a.sav"), **about)
    read = read_table(tmp_path / "a.sav", ["x"])
    assert texts(read) == ["1990-01-01", "unknown"]
    assert dates_of(read["x"], PLAIN, "x").wrong.tolist() == [False, True]


def test_haven_645_and_pyreadstat_42_labels_for_some_values(tmp_path: Path) -> None:
    frame = pd.DataFrame({"x": [-5.0, 3.0, -1.0]})
    labelled = {"x": {-5.0: "missing; other", -1.0: "not asked"}}
    pyreadstat.write_dta(frame, str(tmp_path / "a.dta"), variable_value_labels=labelled)
    with pytest.raises(DataError, match="2 values have a label and 1 have none"):
        read_table(tmp_path / "a.dta", ["x"])


@pytest.mark.parametrize("missing", [["NA"], ["refused"]])
def test_readstat_266_texts_that_are_missing_by_declaration(tmp_path: Path, missing: list[str]) -> None:
    frame = pd.DataFrame({"pid": ["a", "b"], "x": [missing[0], "yes"]})
    pyreadstat.write_sav(frame, str(tmp_path / "a.sav"), missing_ranges={"x": missing})
    assert texts(read_table(tmp_path / "a.sav", ["pid", "x"])) == ["", "yes"]


def test_readstat_323_labels_of_texts(tmp_path: Path) -> None:
    frame = pd.DataFrame({"x": ["m", "f"]})
    pyreadstat.write_sav(frame, str(tmp_path / "a.sav"), variable_value_labels={"x": {"m": "male", "f": "female"}})  # type: ignore[dict-item]
    assert texts(read_table(tmp_path / "a.sav", ["x"])) == ["male", "female"]


@pytest.mark.parametrize("tag", ["l", "n", "m", "d"])
def test_haven_763_missing_values_of_several_kinds(tmp_path: Path, tag: str) -> None:
    frame = pd.DataFrame({"pid": ["a", "b"], "x": pd.Series([2.0, tag], dtype=object)})
    pyreadstat.write_dta(frame, str(tmp_path / "a.dta"), missing_user_values={"x": [tag]})
    np.testing.assert_array_equal(values_of(read_table(tmp_path / "a.dta", ["pid", "x"])["x"]).number, [2.0, np.nan])
