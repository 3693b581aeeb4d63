"""Losses of values: shown by the check, red above a half, accepted by name, and lapsing when they grow."""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path

import pytest
from pmfed_client.site.approve import approve
from pmfed_client.site.check import check, sections
from pmfed_client.site.lost_values import last_check
from pmfed_client.site.site import Site

from pmfed import cli
from pmfed.errors import ApprovalError
from pmfed.study import Study

pytest.importorskip("sqlalchemy")

STUDY = """\
[study]
name = "losses"
title = "Losses"
[cohort]
table = "patients"
index = "index_date"
expected_patients = 256
[outcome]
column = "outcome"
task = "binary"
classes = ["0", "1"]
[modalities.ehr]
kind = "events"
source = "records"
[modalities.ehr.features]
glucose = { codes = ["LOINC:2345-7"], value = "last", unit = "mg/dL", minimum = 10, maximum = 2000, mean = 110, scale = 25 }
[model]
kind = "linear"
[training]
rounds = 5
[training.optimizer]
learning_rate = 0.1
[privacy]
epsilon = 2.0
delta = 1e-4
"""
POLICY = "[policy]\nmin_patients = 10\nepsilon = 50.0\ndelta = 1e-3\n"
PATIENTS = 80


def site(folder: Path, lost: int, accept: str = "", value: str = "") -> Site:
    """Write a site of which so many values are no number."""
    rows = range(PATIENTS)
    (folder / "patients.csv").write_text(
        "patient_id,index_date,outcome\n" + "".join(f"p{row},2021-01-01,{row % 2}\n" for row in rows)
    )
    (folder / "events.csv").write_text(
        "patient_id,when,code,value,unit\n"
        + "".join(
            f"p{row},2020-06-01,LOINC:2345-7,{'secret' if row < lost else value or 100 + row},mg/dL\n" for row in rows
        )
    )
    (folder / "site.toml").write_text(
        f'[site]\nname = "north"\n[data]\npatients = "patients.csv"\nrecords = "events.csv"\n{POLICY}{accept}'
    )
    (folder / "study.toml").write_text(STUDY)
    return Site.read(folder)


def accepted(share: float, reason: str = "no number") -> str:
    return f'[[accept]]\nfeature = "ehr.glucose"\nreason = "{reason}"\nshare = {share}\n'


def study(folder: Path) -> Study:
    return Study.read(folder / "study.toml")


def test_the_table_of_a_check(tmp_path: Path) -> None:
    found = check(site(tmp_path, 20), Study.from_text(STUDY, "study.toml"))
    told = {line.name: line.count for line in dict(sections(found))["values of each feature"]}
    assert told == {"ehr.glucose: used": "60", "ehr.glucose: lost: no number": "20"}
    assert found.red == ()
    assert any("20 of 80 values lost, 25% (no number: 20)" in line for line in found.warnings)
    assert not any("lost" in line for line in check(site(tmp_path, 8), study(tmp_path)).warnings)
    few = check(site(tmp_path, 9), study(tmp_path))  # below the site's minimum
    assert "<10" in {line.count for line in few.losses}


def test_more_than_half_is_red_until_somebody_accepts_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = check(site(tmp_path, 48), Study.from_text(STUDY, "study.toml"))
    (line,) = found.red
    assert line.startswith("ehr.glucose: 60% of its values are lost (no number: 60%).")
    assert 'feature = "ehr.glucose", reason = "no number", share = 0.60' in line
    monkeypatch.setattr(sys, "argv", ["pmfed", "site", "check", str(tmp_path / "study.toml"), str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 3
    shown = capsys.readouterr()
    assert "NOT READY ehr.glucose" in shown.out.replace("\n", " ")
    assert "secret" not in shown.out + shown.err
    with pytest.raises(ApprovalError, match="60% of its values are lost"):
        approve(Site.read(tmp_path), study(tmp_path), lambda lines: True)
    assert check(site(tmp_path, 48, accepted(0.6)), study(tmp_path)).red == ()
    seen: list[str] = []
    approve(Site.read(tmp_path), study(tmp_path), lambda lines: bool(seen.extend(lines)) or True)
    assert "  ehr.glucose: no number, accepted at 60%, now 60%" in seen


@pytest.mark.parametrize(
    ("share", "reason", "red"),
    [(0.6, "no number", 0), (0.41, "no number", 0), (0.39, "no number", 1), (0.6, "no date", 1)],
)
def test_an_acceptance_lapses_when_the_share_grows_by_half(share: float, reason: str, red: int, tmp_path: Path) -> None:
    assert len(check(site(tmp_path, 48, accepted(share, reason)), study(tmp_path)).red) == red


def test_what_a_check_found_is_its_owners_alone_and_holds_no_value(tmp_path: Path) -> None:
    place = site(tmp_path, 48)
    check(place, study(tmp_path))
    (path,) = place.checked.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(place.checked.stat().st_mode) == 0o700
    told = json.loads(path.read_text())
    assert told["features"]["ehr.glucose"] == {"used": 32, "limits": 0, "clamped": 0, "passed": {"no number": 48}}
    assert "secret" not in path.read_text()
    path.write_text("{")
    assert last_check(place, study(tmp_path)) is None


def test_what_was_not_checked_is_checked_before_it_is_approved(tmp_path: Path) -> None:
    place = site(tmp_path, 48)
    with pytest.raises(ApprovalError, match="60% of its values are lost"):
        approve(place, study(tmp_path), lambda lines: pytest.fail("nobody is asked"))
    accepting = site(tmp_path, 48, accepted(0.6))
    assert last_check(accepting, study(tmp_path)) is None  # what was checked is another declaration
    seen: list[str] = []
    approve(accepting, study(tmp_path), lambda lines: bool(seen.extend(lines)) or True)
    assert "  ehr.glucose: no number, accepted at 60%, now 60%" in seen


def test_a_feature_that_is_constant_is_told(tmp_path: Path) -> None:
    found = check(site(tmp_path, 0, value="100"), Study.from_text(STUDY, "study.toml"))
    assert any("every record has the same value" in line for line in found.warnings)
