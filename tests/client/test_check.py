"""`pmfed site check`: counts for the site's own eyes, and small ones veiled even there."""

from __future__ import annotations

import re
from pathlib import Path

import federation
import pandas as pd
import pytest
from pmfed_client.site.check import Checked, CheckLine, check, sections
from pmfed_client.site.check_page import write_page
from pmfed_client.site.site import Site

from pmfed import cli
from pmfed.cli import main
from pmfed.errors import PolicyError, UsageError
from pmfed.study import Study

STUDY = Study.from_text(federation.STUDY, "study.toml")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return federation.write_federation(tmp_path / "f")


@pytest.fixture
def site(folder: Path) -> Site:
    return Site.read(folder / "sites" / "north")


def edit(site: Site, **columns: object) -> None:
    """Change columns of the site's table; a mapping changes single rows."""
    table = pd.read_csv(site.folder / "patients.csv", dtype=str, keep_default_na=False)
    for name, values in columns.items():
        if name not in table:
            table[name] = ""
        for row, value in values.items() if isinstance(values, dict) else enumerate([values] * len(table)):
            table.loc[row, name] = value
    table.to_csv(site.folder / "patients.csv", index=False)


def counts(site: Site, study: Study = STUDY) -> dict[str, str]:
    return {line.name: line.count for _, lines in sections(check(site, study)) for line in lines}


def test_what_there_is_is_counted(site: Site) -> None:
    table = pd.read_csv(site.folder / "patients.csv", keep_default_na=False)
    edit(site, lactate=dict.fromkeys(range(25), ""))
    lacking = int((table["lactate"].to_numpy()[25:] == "").sum()) + 25
    found = counts(site)
    assert found["patients"] == found["records"] == found["clinical"] == "60"
    assert found["clinical.lactate"] == str(lacking)
    assert int(found["no"]) + int(found["yes"]) == 60
    assert found["patients without an outcome, left out"] == found["patients without consent, left out"] == "0"


def test_counts_below_the_minimum_are_veiled(site: Site) -> None:
    """Of two parts neither is told where one is small, or the other would follow from the whole."""
    edit(site, died={row: "yes" if row < 5 else "no" for row in range(60)}, lactate=dict.fromkeys(range(9), ""))
    found = counts(site)
    assert found["yes"] == "<20"
    assert found["no"] == "the rest"
    assert found["held-out patients"] == "<20"
    assert found["training patients"] == "the rest"
    assert found["clinical.lactate"] == "<20"


def test_who_did_not_agree_and_who_has_no_outcome_are_counted_apart(site: Site) -> None:
    edit(site, agreed="yes")
    edit(site, agreed=dict.fromkeys(range(22), "no"), died=dict.fromkeys(range(20, 45), ""))
    table = {"cohort": {"consent": "agreed", "expected_patients": 100}}
    study = STUDY.replace(**table)
    found = counts(site, study)
    assert found["patients without consent, left out"] == "22"
    assert found["patients without an outcome, left out"] == "23"
    edit(site, died=dict.fromkeys(range(22, 42), "no"))
    assert counts(site, study)["patients without an outcome, left out"] == "<20"


def joined(site: Site, rows: pd.DataFrame) -> tuple[Site, Study]:
    """Give a site a second table and return it with a study that reads both."""
    rows.to_csv(site.folder / "more.csv", index=False)
    federation.change(
        site.folder / "site.toml", r'^patients = "patients.csv"', 'patients = "patients.csv"\nmore = "more.csv"'
    )
    more = """\
[modalities.more]
kind = "table"
table = "more"

[modalities.more.features]
age = { type = "numeric", minimum = 0, maximum = 120, mean = 60, scale = 15 }

[training]
"""
    return Site.read(site.folder), Study.from_text(federation.STUDY.replace("[training]\n", more, 1), "study.toml")


def test_a_modality_that_few_lack_is_not_counted_to_the_last(site: Site) -> None:
    """60 less 57 are the three who lack it."""
    table = pd.read_csv(site.folder / "patients.csv", dtype=str)[["patient_id", "age"]]
    found = counts(*joined(site, table[:57]))
    assert (found["more"], found["clinical"]) == ("all but <20", "60")


def test_small_numbers_in_sentences_are_veiled_too(site: Site) -> None:
    table = pd.read_csv(site.folder / "patients.csv", dtype=str)[["patient_id", "age"]]
    others = pd.DataFrame({"patient_id": [f"stranger-{row}" for row in range(3)], "age": "50"})
    (warning,) = check(*joined(site, pd.concat([table, others]))).warnings
    assert "<20 rows of no patient" in warning
    assert "3 rows" not in warning


def test_what_the_policy_would_refuse_is_said(site: Site) -> None:
    federation.change(site.folder / "site.toml", r"^min_patients = 20", "min_patients = 500")
    refusal = check(Site.read(site.folder), STUDY).policy
    assert isinstance(refusal, PolicyError)
    assert "500" in str(refusal)


def test_a_check_fails_where_the_policy_would_refuse_and_succeeds_where_not(
    folder: Path, site: Site, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run("site", "check", folder / "study.toml", site.folder)
    federation.change(site.folder / "site.toml", r"^min_patients = 20", "min_patients = 500")
    monkeypatch.setattr("sys.argv", ["pmfed", "site", "check", str(folder / "study.toml"), str(site.folder)])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 4
    shown = capsys.readouterr()
    assert "outcome, patients" in shown.out  # the counts come first
    assert "would refuse this study" in shown.err
    assert "500" in shown.err


def test_a_policy_that_would_refuse_says_what_to_change(folder: Path, site: Site) -> None:
    federation.change(site.folder / "site.toml", r"^exact_metrics = true", "exact_metrics = false")
    with pytest.raises(PolicyError, match=r"exact_metrics = true in \[policy\]"):
        run("site", "check", folder / "study.toml", site.folder)


def run(*words: object) -> None:
    cli.app(args=[str(word) for word in words], standalone_mode=False)


def test_the_command_and_its_page(folder: Path, site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    run("site", "check", folder / "study.toml", site.folder, "--page", page)
    shown, text = capsys.readouterr().out, page.read_text()
    for word in ("training patients", "clinical.lactate", "the rest"):
        assert word in " ".join(shown.split())
        assert word in text
    assert page.stat().st_mode & 0o077 == 0
    assert re.search(r'class="bar".*width:\d', text)
    assert "http" not in text.split("</style>")[1], "the page needs no network"
    for said in (shown, text):
        assert federation.ID_CANARY not in said
        assert federation.VALUE_CANARY not in said


def test_a_page_that_cannot_be_written_is_said_before_anything_is_read(
    folder: Path, site: Site, tmp_path: Path
) -> None:
    (site.folder / "patients.csv").unlink()
    with pytest.raises(UsageError, match="no such folder"):
        run("site", "check", folder / "study.toml", site.folder, "--page", tmp_path / "none" / "page.html")
    line = (CheckLine("patients", "60"),)
    with pytest.raises(UsageError, match="cannot be written"):
        write_page(Checked("study", "site", line, line, line, line, line, ()), tmp_path)
