"""One table through every door: whatever file or database it is kept in, and however oddly, the tensors are the same."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import numpy as np
import openpyxl
import pandas as pd
import pyreadstat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pmfed.cohort import Cohort, read_cohort
from pmfed.cohort.contract.written import View, Written, WrittenPath
from pmfed.study import Study

STUDY = Study.from_text(
    """
[study]
name = "doors"
title = "Doors"
[cohort]
table = "patients"
expected_patients = 10
[outcome]
column = "died"
task = "binary"
classes = ["no", "yes"]
[modalities.table]
kind = "table"
table = "patients"
[modalities.table.features]
age = { type = "numeric", minimum = 0, maximum = 120, mean = 60, scale = 10, indicator = true }
crp = { type = "numeric", minimum = 0, maximum = 500, mean = 0, scale = 1, indicator = true }
sex = { type = "categorical", values = ["female", "male"], indicator = true }
[training]
rounds = 1
[training.optimizer]
learning_rate = 0.1
[privacy]
epsilon = 1.0
delta = 1e-5
sampling_rate = 0.5
[evaluation]
test_fraction = 0.5
""",
    "doors.toml",
)
HEAD = ["patient_id", "age", "crp", "sex", "died"]
ODD = ("twice", "blank rows", "capitals", "own missing", "limits")


class Row(NamedTuple):
    """A patient: an id with zeros before it, numbers (NaN: unknown), words ("": unknown)."""

    patient: str
    age: float
    crp: float
    sex: str
    died: str


def cells(rows: Sequence[Row], odd: frozenset[str]) -> list[list[Any]]:
    """Return the cells as an odd hospital fills them in: text, numbers, None for nothing."""
    out: list[list[Any]] = []
    for one in rows:
        nothing: Any = -9.0 if "own missing" in odd else None
        age = nothing if math.isnan(one.age) else one.age
        crp: Any = nothing if math.isnan(one.crp) else f"<{one.crp}" if "limits" in odd else one.crp
        word = str.upper if "capitals" in odd else str
        out.append([one.patient, age, crp, word(one.sex) or None, word(one.died) or None])
        out += [list(out[-1])] * ("twice" in odd) + [[None] * 5] * ("blank rows" in odd)
    return out


def declared(odd: frozenset[str], **more: Any) -> Written:
    missing = {"age": ("-9",), "crp": ("-9",)} if "own missing" in odd else {}
    return Written(missing=missing, **more)


def text(value: Any) -> str:
    return "" if value is None else f"{value:g}" if isinstance(value, float) else value


def as_csv(table: list[list[Any]], folder: Path, odd: frozenset[str]) -> Path:
    lines = [",".join(HEAD), *(",".join(map(text, row)) for row in table)]
    (folder / "p.csv").write_text("\n".join(lines) + "\n")
    return WrittenPath(folder / "p.csv", written=declared(odd))


def as_windows(table: list[list[Any]], folder: Path, odd: frozenset[str]) -> Path:
    lines = ["sep=;", ";".join([*HEAD, "Straße"])]
    lines += [";".join([*(text(cell).replace(".", ",") for cell in row), "ä" if row[0] else ""]) for row in table]
    (folder / "p.csv").write_bytes("\r\n".join([*lines, ""]).encode("cp1252"))
    return WrittenPath(folder / "p.csv", written=declared(odd, separator=";", encoding="cp1252", decimal=","))


def framed(table: list[list[Any]]) -> pd.DataFrame:
    frame = pd.DataFrame(table, columns=HEAD)
    for name in HEAD:
        worded = any(isinstance(cell, str) for cell in frame[name])
        frame[name] = (
            pd.Series([text(one) if one == one else "" for one in frame[name]], dtype="str")
            if worded
            else frame[name].astype("float64")
        )
    return frame


def as_parquet(table: list[list[Any]], folder: Path, odd: frozenset[str]) -> Path:
    framed(table).to_parquet(folder / "p.parquet", index=False)
    return WrittenPath(folder / "p.parquet", written=declared(odd))


def as_xlsx(table: list[list[Any]], folder: Path, odd: frozenset[str]) -> Path:
    book = openpyxl.Workbook()
    for row in [HEAD, *table]:
        book.active.append(row)
    book.save(folder / "p.xlsx")
    return WrittenPath(folder / "p.xlsx", written=declared(odd))


def as_statistical(ending: str) -> Callable[[list[list[Any]], Path, frozenset[str]], Path]:
    def write(table: list[list[Any]], folder: Path, odd: frozenset[str]) -> Path:
        frame = framed(table)
        words = {name: sorted(set(frame[name]) - {""}) for name in ("sex", "died")}
        for name, known in words.items():  # numbers with labels
            frame[name] = pd.Series([known.index(word) + 1.0 if word else math.nan for word in frame[name].astype(str)])
        about: dict[str, Any] = {
            "variable_value_labels": {name: dict(enumerate(known, 1)) for name, known in words.items() if known}
        }
        if ending == "sav" and "own missing" in odd:  # the file says itself what is missing
            about["missing_ranges"] = {name: [-9] for name in ("age", "crp") if frame[name].dtype == "float64"}
        path = folder / f"p.{ending}"
        (pyreadstat.write_sav if ending == "sav" else pyreadstat.write_dta)(frame, str(path), **about)
        return WrittenPath(path, written=declared(odd))

    return write


def as_view(table: list[list[Any]], folder: Path, odd: frozenset[str]) -> Path:
    with duckdb.connect(str(folder / "p.duckdb")) as connection:
        kinds = {name: "VARCHAR" if name != "age" and (name != "crp" or "limits" in odd) else "DOUBLE" for name in HEAD}
        connection.execute(f"CREATE TABLE t ({', '.join(f'{name} {kind}' for name, kind in kinds.items())})")
        connection.executemany("INSERT INTO t VALUES (?, ?, ?, ?, ?)", table)
        connection.execute("CREATE VIEW patients AS SELECT * FROM t")
    written = declared(odd)
    return View(database=f"duckdb:///{folder / 'p.duckdb'}", view="patients", missing=written.missing).located(folder)


DOORS: dict[str, Callable[[list[list[Any]], Path, frozenset[str]], Path]] = {
    "csv": as_csv, "windows": as_windows, "parquet": as_parquet, "xlsx": as_xlsx, "spss": as_statistical("sav"),
    "stata": as_statistical("dta"), "view": as_view,
}  # fmt: skip
NUMBER = st.integers(0, 1000).map(lambda tenth: tenth / 10) | st.just(math.nan)
PATIENTS = st.lists(
    st.builds(Row, st.integers(1, 999).map(lambda number: f"{number:04d}"), NUMBER, NUMBER,
              st.sampled_from(["female", "male", ""]), st.sampled_from(["no", "yes", ""])),
    min_size=2, max_size=7, unique_by=lambda one: one.patient,
)  # fmt: skip


def through(door: str, rows: Sequence[Row], odd: frozenset[str]) -> Cohort:
    with tempfile.TemporaryDirectory() as folder:
        return read_cohort(STUDY, {"patients": DOORS[door](cells(rows, odd), Path(folder), odd)}, "north")


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(PATIENTS, st.frozensets(st.sampled_from(ODD)))
def test_one_table_through_every_door(rows: list[Row], odd: frozenset[str]) -> None:
    rows = [*rows, Row("0000", 50.0, 1.5, "male", "no"), Row("1000", 61.5, math.nan, "female", "yes")]
    plain = through("csv", rows, frozenset())
    for door in DOORS:
        found = through(door, rows, odd)
        assert found.ids == plain.ids, door
        assert np.array_equal(found.targets, plain.targets), door
        np.testing.assert_allclose(found.inputs["table"], plain.inputs["table"], rtol=1e-6, err_msg=door)
