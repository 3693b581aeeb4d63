"""Reading tables: what is read, and what a person is told when it cannot be."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest

from pmfed.cohort.tables import Problems, labels, number, read_table
from pmfed.errors import DataError


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_text(text, encoding=encoding)
    return path


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.tsv", "t.tsv.gz", "t.parquet"])
def test_every_format_gives_the_same_columns(tmp_path: Path, name: str) -> None:
    frame = pd.DataFrame({"id": ["007", "a,b", "c\nd"], "x": [1.5, 2.0, None], "unused": [1, 2, 3]})
    path = tmp_path / name
    if name.endswith("parquet"):
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="\t" if "tsv" in name else ",")
    read = read_table(path, ["x", "id"], also=["nowhere"])
    assert list(read) == ["x", "id"]
    assert read["id"].tolist() == ["007", "a,b", "c\nd"]
    values, wrong = number(read["x"])
    assert values[:2].tolist() == [1.5, 2.0]
    assert np.isnan(values[2])
    assert not wrong.any()


def test_rows_are_numbered_as_in_the_file_and_a_byte_order_mark_is_no_name(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "id,x\n1,2\n3,4\n", encoding="utf-8-sig")
    assert read_table(path, ["id"]).index.tolist() == [2, 3]


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("t.csv", "id;age;sex\nsecret1;5;f\n", "separated by semicolons, where commas"),
        ("t.tsv", "id,age\nsecret1,5\n", "separated by commas, where tabs"),
        ("t.csv", "id,Age,sex\nsecret1,5,f\n", "lacks 1 column that the study names: 'age' (did you mean 'Age'?)"),
        ("t.csv", "secret1,secret2\nsecret3,5\n", "lacks 2 columns that the study names: 'id', 'age'"),
        ("t.csv", "id,age,age\nsecret1,5,6\n", "more than once: 'age'"),
        (
            "t.csv",
            "id,age\nsecret1\nsecret2,5\nsecret3,5,6\n",
            "2 rows have another number of fields than the header's 2",
        ),
        ("t.csv", "", "is empty"),
        ("t.xls", "id,age\n", "not a kind of table"),
        ("t.xlsx", "id,age\n", "cannot be read (BadZipFile)"),
        ("t.parquet", "id,age\nsecret1,5\n", "cannot be read"),
        ("t.csv.gz", "id,age\nsecret1,5\n", "cannot be read"),
    ],
)
def test_a_table_that_cannot_be_read_says_why_without_showing_a_patient(
    tmp_path: Path, name: str, text: str, says: str
) -> None:
    path = write(tmp_path / name, text)
    with pytest.raises(DataError) as caught:
        read_table(path, ["id", "age"])
    assert says in str(caught.value)
    assert str(path) in str(caught.value)
    assert "secret" not in str(caught.value)
    assert caught.value.remedy
    assert caught.value.__cause__ is None


def test_missing_file_and_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(DataError, match="there is no such file"):
            read_table(path, ["id"])


@pytest.mark.parametrize("text", ["id,age\nJos\xe9,5\n", "\xefd,age\n1,5\n"])
def test_other_encodings_are_named(tmp_path: Path, text: str) -> None:
    path = write(tmp_path / "t.csv", text, encoding="latin-1")
    with pytest.raises(DataError, match="not UTF-8"):
        read_table(path, ["id", "age"])


def test_a_truncated_gzip_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(b"id,age\n" + b"1,2\n" * 100_000)[:-200])
    with pytest.raises(DataError, match="cannot be read"):
        read_table(path, ["id", "age"])


def test_parquet_types(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pd.DataFrame(
        {
            "flag": [True, None, False],
            "day": pd.to_datetime(["2020-01-01", "2020-01-02", None]),
            "kind": pd.Categorical(["a", "b", "a"]),
            "whole": [1.0, 2.0, None],
            "list": [[1], [2], [3]],
        }
    ).to_parquet(path)
    frame = read_table(path, ["flag", "day", "kind", "whole"])
    assert np.array_equal(number(frame["flag"])[0], [1.0, np.nan, 0.0], equal_nan=True)
    assert number(frame["day"])[1].tolist() == [True, True, False]  # a date is no number
    assert labels(frame["kind"])[1] == ["a", "b"]
    assert labels(frame["whole"])[1] == ["1", "2", ""]
    with pytest.raises(DataError, match="'list' holds list"):
        read_table(path, ["list"])


def test_number_tells_missing_from_text() -> None:
    values, wrong = number(pd.Series(["1", " 2.5 ", "", "NA", "x", "1,5", "True", "inf", None]))
    assert wrong.tolist() == [False, False, False, False, True, True, True, True, False]
    assert np.isnan(values[2:]).all()


def test_problems_are_reported_together() -> None:
    problems = Problems("north")
    problems.raise_any()
    problems.add("first", "do this")
    problems.add("second", "do this")
    with pytest.raises(DataError) as caught:
        problems.raise_any()
    assert str(caught.value) == "site 'north': 2 problems:\n  - first\n  - second\n  do this"


def test_damaged_metadata_of_pandas_are_not_looked_at(tmp_path):
    table = pa.table({"id": ["a", "b"], "age": [1, 2]}).replace_schema_metadata({b"pandas": b"{broken"})
    pa.parquet.write_table(table, tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet", ["id", "age"])["age"].tolist() == [1, 2]
