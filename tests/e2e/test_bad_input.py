"""Bad input, from the command line: what was wrong, where, what to do; nothing begun, nobody's value told."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import federation
import pytest
from conftest import Command, Said
from federation import change
from pmfed_client.ledger.ledger import Ledger

PATIENTS = "sites/south/patients.csv"
ROW = rf"^{federation.ID_CANARY}-south-7,([0-9.]*),([0-9.]*),"


def simulate(pmfed: Command, fed: Path, *words: object) -> Said:
    return pmfed(
        "simulate", fed / "study.toml", "--sites", fed / "sites", "--out", fed / "run", "--charge-ledger", *words
    )


def refused(said: Said, code: int, *words: str) -> None:
    """Check an error for people: its code, these words, no traceback, no value of a patient."""
    assert said.code == code, said
    assert said.err.startswith("error PM"), said.err
    for word in words:
        assert word in said.err, said.err
    for secret in ("Traceback", federation.ID_CANARY, federation.VALUE_CANARY, "canary"):
        assert secret not in said.out + said.err


def nothing_begun(fed: Path) -> None:
    assert not (fed / "run").exists()
    assert not list(fed.glob("sites/*/ledger.*"))


def line(start: str) -> int:
    """Return the number of the line of study.toml that starts so."""
    return next(number for number, text in enumerate(federation.STUDY.splitlines(), 1) if text.startswith(start))


DATA: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "missing file": (
        lambda fed: (fed / PATIENTS).unlink(),
        ("site 'south'", "patients.csv: there is no such file", "[data]"),
    ),
    "empty file": (lambda fed: (fed / PATIENTS).write_text(""), ("site 'south'", "is empty")),
    "wrong delimiter": (
        lambda fed: (fed / PATIENTS).write_text((fed / PATIENTS).read_text().replace(",", ";")),
        ("site 'south'", "patients.csv", "semicolons"),
    ),
    "missing column": (
        lambda fed: change(fed / PATIENTS, "^(.*),lactate,", r"\1,lactat,"),
        ("site 'south'", "'lactate'", "'lactat'"),
    ),
    "text in a number": (
        lambda fed: change(fed / PATIENTS, ROW, r"canary-4711-south-7,\1,much-canary,"),
        ("site 'south'", "column 'lactate'", "1 row", "row 9"),
    ),
    "an impossible number": (
        lambda fed: change(fed / PATIENTS, ROW, r"canary-4711-south-7,999,\2,"),
        ("site 'south'", "column 'age'", "1 row", "0 to 120"),
    ),
    "an unknown category": (
        lambda fed: change(fed / PATIENTS, f"^({federation.ID_CANARY}-south-7,.*),[fm],", r"\1,canary,"),
        ("site 'south'", "column 'sex'", "1 row"),
    ),
    "an outcome of another kind": (
        lambda fed: change(fed / PATIENTS, f"^({federation.ID_CANARY}-south-7,.*),(yes|no)$", r"\1,canary"),
        ("site 'south'", "outcome 'died'", "1 row"),
    ),
    "a patient twice": (
        lambda fed: change(fed / PATIENTS, f"^{federation.ID_CANARY}-south-7,", f"{federation.ID_CANARY}-south-8,"),
        ("site 'south'", "1 patient with more than one row"),
    ),
    "no patients": (
        lambda fed: (fed / PATIENTS).write_text(",".join(federation.COLUMNS) + "\n"),
        ("site 'south'", "no patients"),
    ),
    "no patients after filtering": (
        lambda fed: (fed / PATIENTS).write_text(
            (fed / PATIENTS).read_text().replace(",yes\n", ",\n").replace(",no\n", ",\n")
        ),
        ("site 'south'", "no patients are left: of 60 rows none has the outcome 'died'"),
    ),
}


def test_another_spelling_of_the_classes_is_said_once_and_shown(pmfed: Command, fed: Path) -> None:
    table = fed / PATIENTS
    table.write_text(table.read_text().replace(",yes\n", ",ja\n").replace(",no\n", ",nein\n"))
    said = simulate(pmfed, fed)
    refused(said, 3, "60 rows with a value that is none", "'ja'", "'nein'", "The study writes 'no', 'yes'.")
    assert "none has the outcome" not in said.err
    nothing_begun(fed)


def test_a_spelling_of_few_patients_is_not_shown(pmfed: Command, fed: Path) -> None:
    table = fed / PATIENTS
    few = re.sub(r"(?m)(-south-[1-9],.*),(yes|no)$", r"\1,canary", table.read_text())
    table.write_text(few)
    said = simulate(pmfed, fed)
    refused(said, 3, "9 rows with a value that is none of the study's 2 classes (first at row 3)")


def test_who_lacks_a_consent_is_not_said_to_lack_an_outcome(pmfed: Command, fed: Path) -> None:
    for table in fed.glob("sites/*/patients.csv"):
        header, *lines = table.read_text().splitlines()
        table.write_text("\n".join([f"{header},agreed", *(f"{line},never" for line in lines)]) + "\n")
    change(fed / "study.toml", "^patient = .*", 'patient = "patient_id"\nconsent = "agreed"')
    said = simulate(pmfed, fed)
    refused(said, 3, "none has both the outcome and a consent in 'agreed'", "how a consent is written there")


@pytest.mark.parametrize(("spoil", "words"), DATA.values(), ids=DATA)
def test_data(pmfed: Command, fed: Path, spoil: Callable[[Path], None], words: tuple[str, ...]) -> None:
    spoil(fed)
    refused(simulate(pmfed, fed), 3, "error PM200", *words)
    nothing_begun(fed)


STUDY: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "typo in a key": (
        lambda fed: change(fed / "study.toml", "^sampling_rate", "samplin_rate"),
        (f"study.toml:{line('sampling_rate')}: unknown key 'samplin_rate'; did you mean 'sampling_rate'?",),
    ),
    "typo in site.toml": (
        lambda fed: change(fed / "sites/south/site.toml", "^min_patients", "min_patient"),
        ("site.toml:8: unknown key 'min_patient'; did you mean 'min_patients'?",),
    ),
    "not TOML": (
        lambda fed: change(fed / "study.toml", r"^\[training\]", "[training"),
        ("not valid TOML", f"line {line('[training]')}"),
    ),
    "epsilon 0": (
        lambda fed: change(fed / "study.toml", "^epsilon = 2.0", "epsilon = 0"),
        (f"study.toml:{line('epsilon')}: privacy.epsilon:", "greater than 0"),
    ),
    "delta above 1/n": (
        lambda fed: change(fed / "study.toml", "^delta = 1e-3", "delta = 0.01"),
        ("privacy.delta: 0.01 is not below 1/144",),
    ),
    "no study": (lambda fed: (fed / "study.toml").unlink(), ("study.toml: there is no such file",)),
    "no site": (
        lambda fed: [path.unlink() for path in fed.glob("sites/*/site.toml")] and None,
        ("none of its folders has a site.toml",),
    ),
    "two sites of one name": (
        lambda fed: change(fed / "sites/south/site.toml", 'name = "south"', 'name = "north"'),
        ("two sites are called 'north'",),
    ),
}


@pytest.mark.parametrize(("spoil", "words"), STUDY.values(), ids=STUDY)
def test_study_and_site(pmfed: Command, fed: Path, spoil: Callable[[Path], None], words: tuple[str, ...]) -> None:
    spoil(fed)
    refused(simulate(pmfed, fed), 2, "error PM110", *words)
    nothing_begun(fed)


OPTIONS: dict[str, tuple[tuple[object, ...], tuple[str, ...]]] = {
    "epsilon 0": (("--epsilon", 0), ("error PM110", "epsilon", "greater than 0")),
    "epsilon below 0": (("--epsilon", -1), ("error PM110", "epsilon", "greater than 0")),
    "epsilon not a number": (("--epsilon", "nan"), ("error PM110", "epsilon", "finite")),
    "delta above 1/n": (("--delta", 0.01), ("error PM110", "delta", "0.01 is not below 1/144")),
    "delta 0": (("--delta", 0), ("error PM110", "delta", "greater than 0")),
    "no rounds": (("--rounds", 0), ("error PM110", "rounds", "greater than 0")),
    "unknown protocol": (("--protocol", "loo"), ("error PM100", "leave-one-site-out")),
    "unknown comparison": (("--compare", "local,poled"), ("error PM100", "'poled'", "pooled")),
    "unknown engine": (("--engine", "spark"), ("error PM100", "spark")),
}


@pytest.mark.parametrize(("options", "words"), OPTIONS.values(), ids=OPTIONS)
def test_options(pmfed: Command, fed: Path, options: tuple[object, ...], words: tuple[str, ...]) -> None:
    refused(simulate(pmfed, fed, *options), 2, *words)
    nothing_begun(fed)


def test_options_that_are_none(pmfed: Command, fed: Path) -> None:
    for words in (("--seeds", 0), ("--epsilon", "much"), ("--bogus",)):
        said = simulate(pmfed, fed, *words)
        assert said.code == 2
        assert "Traceback" not in said.err
        assert words[0] in said.err
    nothing_begun(fed)


def test_a_run_folder_that_exists(pmfed: Command, fed: Path) -> None:
    (fed / "run").mkdir()
    (fed / "run" / "precious").write_text("mine")
    refused(simulate(pmfed, fed), 2, "error PM100", "exists and is not empty", "--out")
    assert [path.name for path in (fed / "run").iterdir()] == ["precious"]
    (fed / "run" / "simulation.json").write_text("{}")
    refused(simulate(pmfed, fed), 2, "error PM100", f"--resume {fed / 'run'}")


def test_a_run_folder_that_is_a_file(pmfed: Command, fed: Path) -> None:
    (fed / "run").write_text("mine")
    refused(simulate(pmfed, fed), 2, "error PM100", "--out")
    assert (fed / "run").read_text() == "mine"


def test_going_on_with_nothing(pmfed: Command, fed: Path) -> None:
    for folder in (fed, fed / "absent"):
        refused(pmfed("simulate", "--resume", folder), 2, "error PM100", "holds no simulation")
    assert not (fed / "absent").exists()


def test_studies_nobody_knows(pmfed: Command, fed: Path) -> None:
    refused(pmfed("simulate", "hospital", "--out", fed / "run"), 2, "no built-in study 'hospital'", "hospitals")
    refused(pmfed("simulate", fed / "study.toml", "--out", fed / "run"), 2, "needs --sites DIR")
    refused(pmfed("study", "check", fed / "absent.toml"), 2, "there is no such file")
    refused(pmfed("simulate", "warfarin", "--data", fed, "--out", fed / "run"), 3, "pmfed data get")
    nothing_begun(fed)


def test_a_wrong_comparison_does_not_leave_a_folder_in_the_way(pmfed: Command, fed: Path) -> None:
    refused(pmfed("simulate", "digits", "--compare", "poled", "--out", fed / "run"), 2, "'poled'")
    nothing_begun(fed)


def test_a_template_is_not_written_over_a_file(pmfed: Command, fed: Path) -> None:
    refused(pmfed("study", "new", fed / "study.toml"), 2, "the file exists")
    assert (fed / "study.toml").read_text() == federation.STUDY
    assert pmfed("study", "new", fed / "new.toml").code == 0
    assert pmfed("study", "check", fed / "new.toml").code == 0


def few(fed: Path, *names: str) -> None:
    """Leave ten patients at a site."""
    for name in names:
        path = fed / "sites" / name / "patients.csv"
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:11]))


def test_sites_below_the_minimum_cohort(pmfed: Command, fed: Path) -> None:
    few(fed, "south", "west")
    said = simulate(pmfed, fed)
    assert said.code == 6
    assert "1 of 3 sites agreed to take part; the study needs 2" in said.err
    assert "south: its policy does not admit the study" in said.err
    assert "training patients are fewer than the 20 of [policy] min_patients" in said.err  # in the site's own log
    assert federation.ID_CANARY not in said.out + said.err
    with Ledger(fed / "sites/north/ledger.db") as ledger:
        assert not [row for row in ledger.rows() if row.kind == "charge"]


def test_one_site_below_the_minimum_cohort_is_left_out_and_named(pmfed: Command, fed: Path) -> None:
    few(fed, "south")
    said = simulate(pmfed, fed)
    assert said.code == 0, said.err
    result = json.loads((fed / "run/result.json").read_text())
    assert list(result["refused"]) == ["south"]
    assert set(result["privacy"]["spent"]) == {"north", "west"}
    assert [site["name"] for site in result["sites"]] == ["north", "west"]
    assert "2 hospitals with 120 patients" in " ".join(said.out.split())
    assert "Left out: south" in said.out
    assert "south: enroll: " in said.err  # the site's own log, on this machine
    with Ledger(fed / "sites/south/ledger.db") as ledger:
        assert not list(ledger.rows())


def test_more_colluders_than_sites(pmfed: Command, fed: Path) -> None:
    change(fed / "study.toml", "^colluders = 1", "colluders = 3")
    said = simulate(pmfed, fed)
    assert said.code == 2
    assert "privacy.colluders (with aggregation.dropouts) is 3, but only 3 site(s) take part" in said.err
    assert not list(fed.glob("sites/*/ledger.*"))


def test_a_modality_that_no_site_has(pmfed: Command, fed: Path) -> None:
    scan = '[modalities.scan]\nkind = "nifti"\ntable = "scans"\nfolder = "files"\nsize = [8, 8]\nwindow = "own"\n'
    change(fed / "study.toml", r"^\[training\]$", scan + "\n[training]")
    refused(simulate(pmfed, fed), 2, "error PM110", "modality 'scan': none of the 3 sites has it")
    nothing_begun(fed)


def test_a_site_with_one_class_only_trains_along_and_has_no_auroc_of_its_own(pmfed: Command, fed: Path) -> None:
    path = fed / "sites/south/patients.csv"
    path.write_text(path.read_text().replace(",yes\n", ",no\n"))
    said = simulate(pmfed, fed)
    assert said.code == 0, said.err
    found = json.loads((fed / "run/result.json").read_text())["metrics"]
    assert found["per_site"]["south"]["auroc"] is None
    assert found["per_site"]["south"]["accuracy"] is not None
    assert 0 < found["test"]["auroc"] < 1
    assert (fed / "run/report.html").exists()


def test_leaving_one_of_two_sites_out(pmfed: Command, fed: Path) -> None:
    (fed / "sites/south/site.toml").unlink()
    refused(simulate(pmfed, fed, "--protocol", "leave-one-site-out"), 2, "at least three sites")
    nothing_begun(fed)


def test_a_ledger_that_is_garbage_from_the_start(pmfed: Command, fed: Path) -> None:
    for name in ("south", "west"):
        (fed / "sites" / name / "ledger.db").write_bytes(b"garbage " * 1000)
    said = simulate(pmfed, fed)
    assert said.code == 6
    assert "south: its privacy ledger cannot be used" in said.err
    assert (fed / "sites/south/ledger.db").read_bytes() == b"garbage " * 1000


def test_a_key_that_others_may_read(pmfed: Command, fed: Path) -> None:
    for name in ("south", "west"):
        path = fed / "sites" / name / "identity.pem"
        path.write_text("no key")
        path.chmod(0o644)
    said = simulate(pmfed, fed)
    assert said.code == 4
    assert "chmod 600" in said.err
