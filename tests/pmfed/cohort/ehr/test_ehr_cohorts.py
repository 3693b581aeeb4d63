"""Cohorts out of events: index dates, outcomes, consent and follow-up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from worlds import SMALL, Event, World, in_utc, write_bundles, write_ndjson, write_omop, write_tables

from pmfed.cohort.ehr import derive_cohort, read_consent
from pmfed.cohort.tables import Problems
from pmfed.errors import DataError
from pmfed.modality.ehr import EventCohort

WRITERS = {
    "tables": write_tables,
    "omop": lambda world, path: write_omop(world, path.with_suffix(".duckdb")),
    "ndjson": lambda world, path: in_utc(write_ndjson(world, path)),
    "bundles": lambda world, path: in_utc(write_bundles(world, path)),
}


def derive(source: Path, index: list[str], outcome: list[str], **rest: Any) -> tuple[pd.DataFrame, dict[str, int]]:
    spec = {"source": "x", "index": {"codes": index}, "outcome": {"codes": outcome}, "days": rest.pop("days", 30)}
    spec |= {"which": rest.pop("which", "first")}
    problems = Problems("north")
    found = derive_cohort(EventCohort.model_validate(spec), source, problems, **rest)
    problems.raise_any()
    return found


@pytest.mark.parametrize("kind", WRITERS)
def test_the_first_and_the_last_visit_and_what_followed(kind: str, tmp_path: Path) -> None:
    source = WRITERS[kind](SMALL, tmp_path / "source")
    table, counts = derive(source, ["VISIT:*"], ["LOINC:2160-0"])
    assert table["patient_id"].tolist() == ["1", "3"]
    assert table["index_date"].astype(str).tolist() == ["2020-01-15 08:00:00", "2020-01-09 08:00:00"]
    assert table["outcome"].tolist() == [1, 0]
    assert counts["patients without the index event"] == 1
    assert counts["patients"] == 2
    last, _ = derive(source, ["VISIT:*"], ["LOINC:2160-0"], which="last", days=1)
    assert last["index_date"].astype(str).tolist()[0] == "2020-01-30 08:00:00"
    assert last["outcome"].tolist() == [0, 0]  # the next value came a day, two hours and a bit later
    assert derive(source, ["VISIT:*"], ["LOINC:2160-0"], which="last", days=1.1)[0]["outcome"].tolist() == [1, 0]


@pytest.mark.parametrize("kind", WRITERS)
def test_death_within_days_and_too_short_a_follow_up(kind: str, tmp_path: Path) -> None:
    source = WRITERS[kind](SMALL, tmp_path / "source")
    table, _ = derive(source, ["LOINC:2160-0"], ["DEATH:*"], days=365)
    assert table["outcome"].tolist() == [0, 0]
    table, counts = derive(source, ["LOINC:2160-0"], ["DEATH:*"], days=400, until=np.datetime64("2020-12-31"))
    assert table["patient_id"].tolist() == ["1", "2"]
    np.testing.assert_array_equal(table["outcome"], [np.nan, 1])
    assert counts["patients not followed long enough"] == 1
    assert (
        derive(source, ["LOINC:2160-0"], ["DEATH:*"], days=300, until=np.datetime64("2020-12-31"))[1]["patients"] == 2
    )


def test_the_index_event_itself_is_no_outcome(tmp_path: Path) -> None:
    events = [
        Event("1", "2020-01-01T10:00:00", "condition", "ICD10CM:I50"),
        Event("1", "2019-01-01T10:00:00", "condition", "ICD10CM:I60"),
    ]
    source = write_tables(World({"1": ("1950-03-02", "female")}, events), tmp_path / "t")
    assert derive(source, ["ICD10CM:I50"], ["ICD10CM:*"])[0]["outcome"].tolist() == [0]
    assert derive(source, ["ICD10CM:I60"], ["ICD10CM:*"], days=365)[0]["outcome"].tolist() == [1]  # to the second


def test_patients_without_consent_are_left_out_and_counted(tmp_path: Path) -> None:
    source = write_omop(SMALL, tmp_path / "o.duckdb")
    (tmp_path / "consent.csv").write_text("patient_id,consent\n1,yes\n2,no\n3,Yes\n3,no\n4,ja\n5,\n6,1\n")
    consented = read_consent(tmp_path / "consent.csv")
    assert consented == {"1", "4", "6"}
    table, counts = derive(source, ["VISIT:*"], ["LOINC:2160-0"], consented=consented)
    assert table["patient_id"].tolist() == ["1"]
    assert counts["patients without consent"] == 2


def test_nobody_has_the_index_event(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nobody of 3 patients has the index event"):
        derive(write_ndjson(SMALL, tmp_path / "f"), ["ICD10CM:Z99"], ["DEATH:*"])
    with pytest.raises(DataError, match="no such file or folder"):
        derive(tmp_path / "absent", ["ICD10CM:Z99"], ["DEATH:*"])
