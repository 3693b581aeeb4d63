"""What cannot go together with [personal] is refused before anyone trains, and the error names the key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import federation
import pytest
from typer.testing import CliRunner

from pmfed.cli import app
from pmfed.errors import StudyError
from pmfed.study import Study

LOCAL = "learning_rate = 0.1\n"
TUNE = 'method = "fine-tune"\nsteps = 3\nlearning_rate = 0.1\n'
DITTO = 'method = "ditto"\nlearning_rate = 0.1\nshare = 0.5\n'


def study(personal: str, *changes: tuple[str, str]) -> Study:
    text = federation.STUDY + "\n[personal]\n" + personal
    for old, new in changes:
        assert text.count(old) == 1
        text = text.replace(old, new)
    return Study.from_text(text, "study.toml")


FEDAVG = (
    '[training]\nrounds = 6\nquorum = 0.6\n\n[training.optimizer]\nname = "momentum"\nlearning_rate = 0.2\n',
    '[training]\nalgorithm = "fedavg"\nrounds = 6\nlocal_steps = 2\nlocal_learning_rate = 0.1\n',
)
FUSION = ("[training]\n", '[model]\nkind = "fusion"\n\n[training]\n')


@pytest.mark.parametrize(
    ("personal", "changes", "said"),
    [
        ('method = "head"\n' + LOCAL, (FEDAVG, FUSION), "personal.method: 'head' needs training.algorithm 'fedsgd'"),
        ('method = "intercept"\n' + LOCAL, (FEDAVG,), "'intercept' needs training.algorithm 'fedsgd'"),
        ('method = "head"\n' + LOCAL, (), "a linear model is a head and nothing else"),
        ('method = "norms"\n' + LOCAL, (), "a linear model has no normalisation layers"),
        ('method = "norms"\nshare = 0.5\n' + LOCAL, (FUSION,), "unknown key 'share'"),
        ('method = "head"\nsteps = 5\n' + LOCAL, (FUSION,), "unknown key 'steps'"),
        (TUNE, (), "share: this key is required"),
        (TUNE + "share = 1.0\n", (), "share: Input should be less than 1"),
        (TUNE + "share = 0.5\nproximal = 1.0\n", (), "unknown key 'proximal'"),
        (DITTO, (), "proximal: this key is required"),
        (DITTO + "proximal = 10.0\n", (), "must be below 1"),
        ('method = "fedper"\n' + LOCAL, (), "'fine-tune', 'ditto', 'head', 'norms', 'intercept'"),
        (LOCAL, (), "needs 'method'"),
    ],
)
def test_what_does_not_go_together_is_refused(personal: str, changes: Any, said: str) -> None:
    with pytest.raises(StudyError) as caught:
        study(personal, *changes)
    assert said in str(caught.value)
    assert "study.toml:" in str(caught.value)


@pytest.mark.parametrize(
    ("personal", "changes"),
    [
        (TUNE + "share = 0.5\n", (FEDAVG,)),
        (DITTO + "proximal = 1.0\n", (FEDAVG,)),
        ('method = "intercept"\n' + LOCAL, ()),
        ('method = "head"\n' + LOCAL, (FUSION,)),
    ],
)
def test_what_goes_together_reads_back(personal: str, changes: Any) -> None:
    made = study(personal, *changes)
    for copy in (Study.parse(made.canonical()), Study.from_text(made.to_toml(), "copy.toml")):
        assert copy == made
    assert made.replace(personal=None).personal is None
    assert (made.tuned is None) != (made.parts is None)


def test_check_looks_at_the_network_and_plan_tells_what_it_costs(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(federation.STUDY + '\n[model]\nkind = "fusion"\n\n[personal]\nmethod = "norms"\n' + LOCAL)
    found = CliRunner().invoke(app, ["study", "check", str(path)])
    assert isinstance(found.exception, StudyError)
    assert "this model has no norms parameters" in str(found.exception)
    path.write_text(federation.STUDY + "\n[personal]\n" + TUNE + "share = 0.5\n")
    assert "valid" in CliRunner().invoke(app, ["study", "check", str(path)]).output
    told = " ".join(CliRunner().invoke(app, ["study", "plan", str(path), "--sites", "3"]).output.split())
    assert "the steps of each site's own model 3 times, noise multiplier" in told
    assert "epsilon 1.0 of the total" in told
