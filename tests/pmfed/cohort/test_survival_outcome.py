"""Outcomes of two columns, a time and what happened then, from a table into a cohort."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pmfed.cohort import Cohort, pool, read_cohort
from pmfed.errors import DataError
from pmfed.study import Study

N = 30


def study(**sections: Any) -> Study:
    feature = {"type": "numeric", "minimum": 0, "maximum": 9000, "mean": 60, "scale": 10}
    data: dict[str, Any] = {
        "study": {"name": "s", "title": "S"},
        "cohort": {"table": "patients", "expected_patients": 100},
        "outcome": {
            "column": "days", "event": "died", "task": "survival", "classes": ["0", "1"], "intervals": [100, 500],
        },
        "modalities": {"clinic": {"kind": "table", "table": "patients", "features": {"age": feature, "other": feature}}},
        "training": {"rounds": 1, "optimizer": {"learning_rate": 0.1}},
        "privacy": {"epsilon": 1.0, "delta": 1e-3},
    }  # fmt: skip
    return Study.model_validate({**data, **sections})


def table() -> pd.DataFrame:
    random = np.random.default_rng(3)
    return pd.DataFrame(
        {
            "patient_id": [f"secret{number:02}" for number in range(N)],
            "age": random.integers(30, 90, N),
            "other": random.integers(0, 9000, N),
            "days": random.integers(0, 900, N),
            "died": random.integers(0, 2, N),
        }
    )


def read(folder: Path, patients: pd.DataFrame, changed: Study | None = None) -> Cohort:
    patients.to_csv(folder / "patients.csv", index=False)
    return read_cohort(changed or study(), {"patients": folder / "patients.csv"}, "north")


def test_time_and_event_stand_side_by_side(tmp_path: Path) -> None:
    patients = table()
    cohort = read(tmp_path, patients)
    np.testing.assert_array_equal(cohort.targets, patients[["days", "died"]].to_numpy(np.float32))
    np.testing.assert_array_equal(cohort.select(np.arange(N) > 20).targets, cohort.targets[21:])
    assert pool([cohort, cohort]).targets.shape == (2 * N, 2)


@pytest.mark.parametrize("column", ["days", "died"])
def test_who_lacks_either_is_left_out_and_counted(tmp_path: Path, column: str) -> None:
    patients = table().astype(object)
    patients.loc[[2, 5], column] = ""
    cohort = read(tmp_path, patients)
    assert cohort.patients == N - 2
    assert cohort.findings.dropped_no_outcome == 2


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("days", "-3.25", "1 row with a time below zero (first at row 9)"),
        ("days", "soon", "1 row with text where a number is expected (first at row 9)"),
        ("died", "maybe", "1 row where 'died' is none of the study's two classes (first at row 9)"),
    ],
)
def test_what_is_wrong_is_told_with_its_line_and_no_value(tmp_path: Path, column: str, value: str, said: str) -> None:
    patients = table().astype(object)
    patients.loc[7, column] = value
    with pytest.raises(DataError) as caught:
        read(tmp_path, patients)
    message = str(caught.value).replace(str(tmp_path), "")
    assert said in message
    assert "secret" not in message
    assert value not in message


@pytest.mark.parametrize("column", ["days", "died"])
def test_an_input_that_is_the_time_or_the_event_is_a_leak(tmp_path: Path, column: str) -> None:
    patients = table()
    patients["other"] = patients[column]
    with pytest.raises(DataError, match="leaks the label"):
        read(tmp_path, patients)


@pytest.mark.parametrize("column", ["days", "died"])
def test_neither_can_be_an_input_by_name(column: str) -> None:
    features = {column: {"type": "numeric", "minimum": 0, "maximum": 9000, "mean": 0, "scale": 1}}
    with pytest.raises(ValueError, match="cannot be an input"):
        study(modalities={"clinic": {"kind": "table", "table": "patients", "features": features}})
