"""Nobody's real budget is spent unasked: a simulation on own folders keeps books of its own unless somebody says otherwise."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import federation
import pytest
from pmfed_client.ledger.ledger import Ledger
from pmfed_simulations.simulate import Options, prepare, resume, simulate
from typer.testing import CliRunner

from pmfed.cli import app, main
from pmfed.errors import StudyError


@pytest.fixture
def there(tmp_path: Path) -> Path:
    return federation.write_federation(tmp_path)


def options(there: Path, **more: Any) -> Options:
    said = {"out": str(there / "run"), "sites": str(there / "sites"), "workers": 1, "rounds": 2, **more}
    return Options(str(there / "study.toml"), **said)


def test_a_no_leaves_the_sites_alone_and_the_run_says_so(there: Path) -> None:
    asked: list[str] = []

    def charge(price: str) -> bool:
        asked.append(price)
        return False

    made = prepare(options(there), charge=charge)
    assert len(asked) == 1
    assert "3 sites would be charged for good: 1 training of each, together epsilon 2" in asked[0]
    result = simulate(made)
    assert not list((there / "sites").rglob("ledger.db"))
    assert not list((there / "sites").rglob("roster.json"))
    assert "not charged" in " ".join(result["notes"])
    assert "--dry-ledger" in result["command"]
    with Ledger(there / "run" / "ledgers" / "north" / "ledger.db") as ledger:
        assert [row.kind for row in ledger.rows()].count("charge") == 2
    assert resume(there / "run").options.dry_ledger  # whoever goes on is not asked again


def test_the_price_is_that_of_all_trainings(there: Path) -> None:
    """Leave-one-site-out at epsilon 2 is no epsilon 2: each of three sites is in two of three trainings."""
    asked: list[str] = []
    prepare(
        options(there, protocol="leave-one-site-out", dry_ledger=False), charge=lambda price: bool(asked.append(price))
    )
    assert "2 trainings of each" in asked[0]
    epsilon = float(asked[0].partition("together epsilon ")[2].split()[0])
    assert 2.5 < epsilon < 4.0


def test_at_a_terminal_a_person_is_asked(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = ["simulate", str(there / "study.toml"), "--sites", str(there / "sites"), "--rounds", "2", "--workers", "1"]
    asked: list[str] = []

    def prepared(found: Options, tell: Any = None, charge: Any = None) -> None:
        asked.append("never" if charge is None else str(charge("PRICE")))
        raise SystemExit(0)

    monkeypatch.setattr("pmfed_simulations.simulate.prepare", prepared)
    monkeypatch.setattr("typer.confirm", lambda question, **_: "PRICE" in question)
    runner = CliRunner()
    runner.invoke(app, [*said, "--out", str(there / "a")])
    assert asked.pop() == "False"  # nobody is there
    monkeypatch.setattr(sys.modules["pmfed.cli.main"], "_somebody_is_there", lambda: True)
    runner.invoke(app, [*said, "--out", str(there / "b")])
    assert asked.pop() == "True"
    runner.invoke(app, [*said, "--out", str(there / "c"), "--charge-ledger"])
    assert asked.pop() == "never"


def test_without_a_terminal_it_is_told_and_not_charged(
    there: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["simulate", "study.toml", "--sites", "sites", "--out", "run", "--rounds", "2", "--workers", "1"]
    monkeypatch.chdir(there)
    monkeypatch.setattr(sys, "argv", ["pmfed", *words])
    main()
    assert "--charge-ledger" in capfd.readouterr().err
    assert not list((there / "sites").rglob("ledger.db"))
    assert json.loads((there / "run" / "result.json").read_text())["privacy"]["spent"]


def test_a_verdict_is_told_and_strict_makes_it_an_error(there: Path) -> None:
    hopeless = options(there, epsilon=0.004)
    assert prepare(hopeless).verdicts[0].startswith("this will not learn")
    with pytest.raises(StudyError, match="this will not learn"):
        prepare(options(there, epsilon=0.004, strict=True, out=str(there / "strict")))
    federation.change(there / "study.toml", "expected_patients = 144", "expected_patients = 900")
    with pytest.raises(StudyError, match="expects 900 training patients"):
        prepare(options(there, strict=True, out=str(there / "far")))
    assert not list((there / "sites").rglob("ledger.db"))
