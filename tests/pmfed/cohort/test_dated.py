"""Index dates, consent and readers within a whole cohort: what counts, who counts, and what is said of the rest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pmfed.cohort import read_cohort
from pmfed.errors import DataError
from pmfed.models import build
from pmfed.study import Study

pytest.importorskip("sqlalchemy")

STUDY = """\
[study]
name = "dated"
title = "Dated"
[cohort]
table = "patients"
index = "seen"
consent = "agreed"
expected_patients = 100
[outcome]
column = "died"
task = "binary"
classes = ["no", "yes"]
[modalities.labs]
kind = "events"
source = "records"
[modalities.labs.features]
glucose = { codes = ["LOINC:2345-7"], value = "count", maximum = 9, mean = 0, scale = 1 }
[modalities.course]
kind = "sequence"
source = "records"
length = 4
hours = 24
[modalities.course.channels]
glucose = { codes = ["LOINC:2345-7"], value = "last", unit = "mg/dL", minimum = 0, maximum = 900, mean = 100, scale = 50 }
[model]
kind = "fusion"
[training]
rounds = 5
[training.optimizer]
learning_rate = 0.1
[privacy]
epsilon = 2.0
delta = 1e-3
"""

EVENTS = """\
patient_id,when,code,value,unit
p1,2024-05-01T10:00:00,LOINC:2345-7,120,mg/dL
p1,2024-05-02T10:00:00,LOINC:2345-7,130,mg/dL
p1,2024-05-03T10:00:00,LOINC:2345-7,800,mg/dL
p2,2024-05-02T10:00:00,LOINC:2345-7,140,mg/dL
p3,2024-05-01T10:00:00,LOINC:2345-7,150,mg/dL
"""


def cohort(folder: Path, rows: str, study: str = STUDY):
    (folder / "patients.csv").write_text("patient_id,seen,agreed,died\n" + rows)
    (folder / "events.csv").write_text(EVENTS)
    sources: dict[str, Path | str] = {"patients": folder / "patients.csv", "records": folder / "events.csv"}
    return read_cohort(Study.from_text(study, "study.toml"), sources, "here")


def test_a_bare_index_date_is_its_first_second(tmp_path: Path) -> None:
    """What happened on the index day may have happened after it."""
    found = cohort(tmp_path, "p1,2024-05-03,yes,no\np2,2024-05-02T12:00:00,yes,yes\np4,2024-05-02,1,no\n")
    assert found.inputs["labs"][:, 0].tolist() == [2, 1, 0]
    course = found.inputs["course"]
    assert course.shape[:2] == (3, 4)
    assert course[0].max() < (800 - 100) / 50  # the value of the index day itself
    assert np.isclose(course[0], (130 - 100) / 50).any()


def test_who_did_not_agree_is_left_out_and_counted(tmp_path: Path) -> None:
    rows = "p1,2024-05-03,yes,no\np2,2024-05-03,no,yes\np3,2024-05-03,,yes\np4,2024-05-03,JA,yes\n"
    found = cohort(tmp_path, rows)
    assert found.patients == 2
    assert (found.findings.dropped_no_consent, found.findings.dropped_no_outcome) == (2, 0)


@pytest.mark.parametrize("date", ["3 May 2024", "2024-13-01"])
def test_what_is_no_index_date_is_said_without_its_value(tmp_path: Path, date: str) -> None:
    with pytest.raises(DataError, match="1 row with no date") as caught:
        cohort(tmp_path, f"p1,{date},yes,no\np2,2024-05-03,yes,yes\n")
    assert date not in str(caught.value).replace(str(tmp_path), "").replace("2024-07-31", "")


def test_a_model_of_features_and_sequences_takes_these_inputs(tmp_path: Path) -> None:
    import torch

    found = cohort(tmp_path, "p1,2024-05-03,yes,no\np2,2024-05-03,yes,yes\n")
    model = build(Study.from_text(STUDY, "study.toml"))
    inputs = {name: torch.from_numpy(block) for name, block in found.inputs.items()}
    present = {name: torch.from_numpy(there) for name, there in found.present.items()}
    assert model(inputs, present).shape == (2, 1)
    assert torch.isfinite(model(inputs, present)).all()


def test_a_modality_whose_source_the_site_lacks_is_absent(tmp_path: Path) -> None:
    study = Study.from_text(
        STUDY + '\n[modalities.notes]\nkind = "notes"\nsource = "letters"\nsize = 8\n', "study.toml"
    )
    (tmp_path / "patients.csv").write_text("patient_id,seen,agreed,died\np1,2024-05-03,yes,no\np2,2024-05-03,yes,yes\n")
    (tmp_path / "events.csv").write_text(EVENTS)
    sources: dict[str, Path | str] = {"patients": tmp_path / "patients.csv", "records": tmp_path / "events.csv"}
    found = read_cohort(study, sources, "here")
    assert not found.present["notes"].any()
    assert found.inputs["notes"].shape == (2, 8)
    assert any("'letters'" in warning for warning in found.findings.warnings)
