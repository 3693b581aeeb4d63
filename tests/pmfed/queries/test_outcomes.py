"""Every kind of outcome answers for itself: what does not is not registered, and nothing falls through to another kind's answer."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from pmfed_client.site.approve import terms
from pmfed_client.site.policy import Policy
from pmfed_client.site.site import Site
from pmfed_simulations import auditing
from pmfed_simulations.auditing import Auditor
from test_registered import VARIANTS, hostile

from pmfed.errors import AuditError, StudyError
from pmfed.methods import METHODS
from pmfed.runs.links import LINKS
from pmfed.runs.parts import answer_of
from pmfed.study import Study
from pmfed.study.outcome import Columns, Floats, Metric, Outcome
from pmfed.study.outcomes import BUILT_IN, outcome_of, outcomes, registered
from pmfed.study.outcomes.binary import BinaryOutcome
from pmfed.tasks import extremes, task_class, task_for

ROOT = Path(__file__).parents[3]
PREDICTING = {study.outcome.task: study for study in VARIANTS.values() if METHODS[study.method.kind].predicts}
every_kind = pytest.mark.parametrize("task", outcomes())


class Visits(Outcome):
    """A count that somebody added, and forgot what to attack it with."""

    task: Literal["visits"] = "visits"
    scored_by = "pmfed.tasks.regression:Regression"
    link = "regression"

    @property
    def meaning(self) -> str:
        return "a count"

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return (Metric("mae", "mean absolute error", False),)

    def read(self, table: Columns) -> Floats:
        return table.number(self.column)

    def typical(self, pixels: tuple[int, ...] = ()) -> tuple[Floats, NDArray[Any]]:
        return np.ones(1), np.ones(1)


def test_a_kind_that_leaves_something_unanswered_is_not_registered() -> None:
    """Once it was, was audited with the extremes of another kind, and was found to be in order."""
    with pytest.raises(StudyError, match="Visits: this kind of outcome does not answer extremes"):
        registered((*BUILT_IN, Visits))
    whole = type("Whole", (Visits,), {"extremes": lambda self, pixels=(): np.array([0, 9])})
    assert "visits" in registered((*BUILT_IN, whole))
    for changed, why in (
        ({"scored_by": ""}, "does not answer scored_by"),
        ({"link": "guess"}, "no link 'guess'"),
        ({"link": ""}, "does not answer link"),
    ):
        with pytest.raises(StudyError, match=why):
            registered((*BUILT_IN, type("Odd", (whole,), changed)))
    with pytest.raises(StudyError, match="there is an outcome 'binary' already"):
        registered((*BUILT_IN, type("Again", (BinaryOutcome,), {})))


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attack with fewer adversaries than `pmfed audit` does: enough for every extreme, alone and as many records."""
    for name, number in (("BASE", 4), ("CROWD", 5), ("SCALES", (1.0, 1e30))):
        monkeypatch.setattr(auditing, name, number)


def auditor_of(task: str) -> Auditor:
    study = PREDICTING[task]
    return Auditor(study, [hostile(study, seed) for seed in range(3)], np.random.default_rng(0))


def test_an_audit_refuses_an_outcome_that_names_nothing_to_attack_with(monkeypatch: pytest.MonkeyPatch) -> None:
    auditor = auditor_of("binary")
    for said in (np.array([0]), np.array([1, 1]), np.array([0, np.nan]), np.zeros(0)):
        monkeypatch.setattr(BinaryOutcome, "extremes", lambda self, pixels=(), said=said: said)
        with pytest.raises(AuditError, match="names no two outcomes that differ"):
            auditor.sensitivity()


@every_kind
def test_an_audit_attacks_every_kind_and_finds_no_patient_beyond_the_clip(task: str) -> None:
    assert auditor_of(task).sensitivity().passed


@every_kind
def test_a_hospital_reads_what_would_be_predicted(task: str, tmp_path: Path) -> None:
    study = PREDICTING[task]
    site = Site(name="north", folder=tmp_path, sources={}, policy=Policy.closed())
    (line,) = [line for line in terms(site, study) if line.startswith("What is learned")]
    assert f"a model that predicts '{study.outcome.name}' ({study.outcome.meaning}) of a patient" in line
    assert study.outcome.name
    assert study.outcome.meaning


@every_kind
def test_every_answer_of_a_kind_holds_together(task: str) -> None:
    study = PREDICTING[task]
    outcome, scored = study.outcome, task_for(study)
    assert type(outcome) is outcomes()[task]
    assert isinstance(scored, task_class(type(outcome)))
    assert scored.metrics == outcome.metrics
    assert outcome.metrics[0].headline
    assert len(scored.bias()) == outcome.outputs
    assert (scored.recalibrator() is not None) == outcome.recalibrated
    assert outcome.curvature > 0
    pixels = (8, 8) if outcome.masks else ()
    shares, values = outcome.typical(pixels)
    assert shares.sum() == pytest.approx(1)
    assert len(shares) == len(values)
    worst = extremes(study)
    assert values.shape[1:] == worst.shape[1:]
    assert not outcome.unknown(np.asarray(values, float)).any()
    outputs = scored.bias().repeat(len(worst), 1).numpy().reshape(len(worst), -1, *[1] * len(pixels))
    rows = scored.rows(np.broadcast_to(outputs, (*outputs.shape[:2], *pixels)).astype(np.float64), worst)
    assert rows.shape == (len(worst), scored.cells)
    counted = outcome.balance(np.concatenate([values, worst]))
    assert sum(number for _, number in counted) >= len(outcome.counted)
    answer = answer_of(study)
    assert answer.outputs == outcome.outputs
    assert set(LINKS[answer.link].tables(answer)) <= set(range(answer.outputs))
    assert LINKS[answer.link].sentence(answer)
    assert Study.parse(study.canonical()) == study
    assert Study.from_text(study.to_toml(), "s").fingerprint() == study.fingerprint()


def test_a_key_of_another_kind_is_refused_unless_it_says_what_pmfed_always_wrote() -> None:
    keys = {"column": "y", "task": "binary", "classes": ["a", "b"]}
    written = outcome_of(**keys).model_dump(mode="json")
    assert written["intervals"] == []
    assert outcome_of(**written) == outcome_of(**keys)
    with pytest.raises(ValueError, match="only a survival outcome has 'intervals'"):
        outcome_of(**keys, intervals=[1.0])
    with pytest.raises(ValueError, match="Input should be"):
        outcome_of(column="", task="none")


WRONG = {
    "kind": ('task = "binary"', 'task = "binery"', "study.toml:6: outcome.task: Input should be 'binary', 'multiclass'"),
    "no kind": ('task = "binary"\n', "", "study.toml:4: outcome.task: this key is required but missing"),
    "key": ("classes", "clases", "study.toml:7: unknown key 'clases'; did you mean 'classes'"),
    "value": ('["no", "yes"]', '["no"]', "study.toml:4: outcome: a binary outcome needs 'classes'"),
    "type": ('["no", "yes"]', "3", "study.toml:7: outcome.classes: Input should be a valid tuple"),
    "metric": ('["no", "yes"]', '["no", "yes"]\n[evaluation]\nmetric = "mae"', "a binary outcome has auroc, accuracy"),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_told_with_its_line(wrong: str) -> None:
    whole = """[study]
name = "s"
title = "S"
[outcome]
column = "y"
task = "binary"
classes = ["no", "yes"]
[cohort]
table = "t"
expected_patients = 100
[modalities.labs]
kind = "table"
table = "t"
features.a = {type = "numeric", minimum = 0, maximum = 1}
[training]
rounds = 2
optimizer = {learning_rate = 0.1}
[privacy]
epsilon = 1.0
delta = 1e-3
"""
    Study.from_text(whole, "study.toml")
    before, after, said = WRONG[wrong]
    assert before in whole
    with pytest.raises(StudyError) as found:
        Study.from_text(whole.replace(before, after, 1), "study.toml")
    assert said in str(found.value)


def test_no_code_asks_which_kind_an_outcome_is() -> None:
    """A branch on the name of a kind is what a new kind falls through."""
    asked = re.compile(r"\b(task|link) (==|!=|in|not in) [\"'(\[{]")
    for package in ("pmfed", "client", "server", "simulations"):
        for path in sorted((ROOT / package).rglob("*.py")):
            found = [line for line in path.read_text(encoding="utf-8").splitlines() if asked.search(line)]
            assert not found, path.relative_to(ROOT)


def test_what_an_outcome_is_needs_no_torch() -> None:
    code = "import sys, pmfed.study; from pmfed.study.outcomes import outcomes; outcomes(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
