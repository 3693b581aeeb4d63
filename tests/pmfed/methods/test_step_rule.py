"""What "auto" stands for: numbers from public numbers alone, with which a model is calibrated whatever the outcome's share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from pmfed.cli import app
from pmfed.errors import StudyError
from pmfed.methods.optimizer import ServerOptimizer
from pmfed.methods.schedule import plan_for
from pmfed.methods.step_rule import WANDER, advice, far_from_rule, numbers_for, resolved, typical
from pmfed.models import build, flatten, intercept_mask, load
from pmfed.privacy.gradients import PrivateStep
from pmfed.study import Study
from pmfed.study.draft import Draft, with_numbers
from pmfed.tasks import task_for

INPUTS, PATIENTS = 8, 3000
FEATURES = "\n".join(
    f'x{place} = {{ type = "numeric", minimum = -9, maximum = 9, mean = 0, scale = 1 }}' for place in range(INPUTS)
)
TEXT = f"""\
[study]
name = "rare"
title = "A rare outcome"

[cohort]
table = "patients"
expected_patients = {PATIENTS}

[outcome]
column = "died"
task = "binary"
classes = ["no", "yes"]
baseline = 0.1

[modalities.clinic]
kind = "table"
table = "patients"

[modalities.clinic.features]
{FEATURES}

[training]
rounds = "auto"

[training.optimizer]
learning_rate = "auto" # a step
intercept = 'auto'

[privacy]
epsilon = 4.0
delta = 1e-5
clip = "auto" # "auto" again
sampling_rate = "auto"
"""


def draft(text: str = TEXT, **sections: dict[str, Any]) -> Draft:
    return Draft.from_text(text, "study.toml").changed(**sections)


def test_auto_is_the_same_number_every_time_and_written_with_all_else_left_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(TEXT, encoding="utf-8")
    with pytest.raises(StudyError, match=r"study.toml:\d+: privacy.clip: .*pmfed study resolve"):
        Study.read(path)  # as a coordinator does
    before = CliRunner().invoke(app, ["study", "check", str(path)])
    assert CliRunner().invoke(app, ["study", "resolve", str(path)]).exit_code == 0
    written, study = path.read_text(encoding="utf-8"), Study.read(path)
    assert study == resolved(draft())
    assert study.fingerprint() in before.output
    for one, other in zip(TEXT.splitlines(), written.splitlines(), strict=True):
        assert one.partition("=")[0] == other.partition("=")[0]
        assert one.partition("#")[2] == other.partition("#")[2]
    assert "nothing says" in CliRunner().invoke(app, ["study", "resolve", str(path)]).output


def test_no_site_takes_a_study_that_says_auto() -> None:
    said = resolved(draft()).canonical()
    clip = resolved(draft()).privacy.clip
    with pytest.raises(ValueError, match="is not a number yet"):
        Study.parse(said.replace(f'"clip":{clip!r}', '"clip":"auto"'))


def test_a_number_given_in_its_place_counts_and_the_others_follow_it() -> None:
    strict, loose = resolved(draft(privacy={"epsilon": 0.5})), resolved(draft(privacy={"epsilon": 8.0}))
    assert strict.training.optimizer.learning_rate < loose.training.optimizer.learning_rate
    given = resolved(draft(privacy={"clip": 1.0}, training={"rounds": 20}))
    assert (given.privacy.clip, given.training.rounds) == (1.0, 20)
    again = resolved(Draft(given).changed(privacy={"clip": "auto"}))
    assert again.privacy.clip == resolved(draft(training={"rounds": 20})).privacy.clip


def test_the_clip_is_what_the_rarest_say_and_noise_alone_moves_a_score_by_little() -> None:
    for share in (0.02, 0.1, 0.5, 0.9):
        study = resolved(draft(outcome={"baseline": share}, privacy={"epsilon": 1.0}))
        norm, rarest = math.sqrt(1 + INPUTS), 1 - min(share, 1 - share)
        assert 0.8 * norm * rarest < study.privacy.clip < 1.2 * norm * (1 + rarest) / 2
        step, optimizer = plan_for(study, 2)["step"], study.training.optimizer
        noise = step.noise_multiplier * step.bound / (study.privacy.sampling_rate * PATIENTS)
        way = optimizer.learning_rate / (1 - optimizer.momentum) * noise * math.sqrt(study.training.rounds)
        assert way * typical(study).reach < 1.1 * WANDER


@pytest.mark.parametrize(
    ("line", "sections"),
    [
        (
            "a fedavg study has no such step",
            {
                "training": {
                    "algorithm": "fedavg",
                    "local_learning_rate": 0.1,
                    "optimizer": {"name": "yogi", "learning_rate": "auto"},
                }
            },
        ),
        ("adam measures its own", {"training": {"optimizer": {"name": "adam", "learning_rate": "auto"}}}),
    ],
)
def test_a_step_that_the_rule_knows_nothing_of_is_refused(line: str, sections: dict[str, Any]) -> None:
    with pytest.raises(StudyError, match="fedsgd with sgd or momentum"):
        numbers_for(draft(**sections))


def test_a_word_that_cannot_be_replaced_is_told() -> None:
    with pytest.raises(StudyError, match="cannot tell where"):
        with_numbers('[privacy]\nclip = """auto"""\n', {("privacy", "clip"): 2.0}, "study.toml")


def test_what_is_far_from_the_rule_is_said_with_its_figures() -> None:
    study = resolved(draft())
    assert list(far_from_rule(study)) == []
    assert [line.split(":")[0] for line in advice(draft(), study)][:2] == ["privacy.clip", "privacy.sampling_rate"]
    (clip,) = far_from_rule(study.replace(privacy={"clip": 0.5}, training={"optimizer": {"learning_rate": 1.0}}))
    assert "cuts what a typical patient says to" in clip
    (step,) = far_from_rule(study.replace(training={"optimizer": {"learning_rate": 30.0}}))
    assert step.startswith("training.optimizer.learning_rate: at 30 noise alone would move a typical score by")
    (step,) = far_from_rule(study.replace(training={"optimizer": {"learning_rate": 1e-3}}))
    assert step.startswith("training.optimizer.learning_rate: 0.001 is")
    (start,) = far_from_rule(resolved(draft(outcome={"baseline": None})))
    assert start.startswith("outcome.baseline")


def test_the_outputs_own_constants_go_as_much_faster_as_the_study_says(tmp_path: Path) -> None:
    study = resolved(draft())
    model = build(study)
    constants = intercept_mask(study, model)
    assert constants.tolist() == [False] * INPUTS + [True]
    slope = np.ones(INPUTS + 1)
    plain, quick = (ServerOptimizer(study.training, flatten(model), tmp_path, mask) for mask in (None, constants))
    for optimizer in (plain, quick):
        optimizer.step(slope.__getitem__)
        optimizer.step(slope.__getitem__)
    moved, further = (optimizer.parameters[:] - flatten(model) for optimizer in (plain, quick))
    times = np.where(constants, study.training.optimizer.intercept, 1.0)
    assert study.training.optimizer.intercept > 1
    np.testing.assert_allclose(further, moved * times, rtol=1e-5)


def trained(
    study: Study, inputs: np.ndarray[Any, Any], died: np.ndarray[Any, Any], folder: Path
) -> np.ndarray[Any, Any]:
    """Return what a model says of everybody, trained on all by the engine's own clipped sums, with the plan's noise."""
    step, random = plan_for(study, 5)["step"], np.random.default_rng(3)
    model, task = build(study), task_for(study)
    private, constants = PrivateStep(model, task.loss, step), intercept_mask(study, build(study))
    optimizer = ServerOptimizer(study.training, flatten(model), folder, constants)
    for _ in range(study.training.rounds):
        load(model, optimizer.parameters[:])
        drawn = np.flatnonzero(random.random(len(died)) < step.sampling_rate)
        here: Mapping[str, torch.Tensor] = {"clinic": torch.from_numpy(inputs[drawn])}
        there = {"clinic": torch.ones(len(drawn), dtype=torch.bool)}
        found = private.clipped_sum(here, there, task.targets(died[drawn]), np.arange(len(drawn)))
        noisy = found.vector + step.sum_std() * random.normal(size=len(found.vector))
        mean = noisy / (step.sampling_rate * study.cohort.expected_patients)
        optimizer.step(mean.__getitem__)
    load(model, optimizer.result)
    with torch.no_grad():
        outputs = model({"clinic": torch.from_numpy(inputs)}, {"clinic": torch.ones(len(died), dtype=torch.bool)})
    return np.asarray(outputs[:, 0].sigmoid())


@pytest.mark.parametrize("start", [0.1, None])
def test_a_rare_outcome_is_foretold_as_often_as_it_comes(start: float | None, tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    inputs = random.normal(size=(PATIENTS, INPUTS)).astype(np.float32)
    logits = inputs @ random.normal(size=INPUTS) * 0.5 - 3.2
    died = (random.random(PATIENTS) < 1 / (1 + np.exp(-logits))).astype(np.float32)
    study = resolved(draft(outcome={"baseline": start}))
    risk = trained(study, inputs, died, tmp_path)
    assert 0.85 < died.sum() / risk.sum() < 1.2
    top = np.argsort(risk)[-PATIENTS // 10 :]
    assert 0.8 < died[top].sum() / risk[top].sum() < 1.25
    small = trained(study.replace(privacy={"clip": 0.3}), inputs, died, tmp_path)
    assert died.sum() / small.sum() > 2  # what the rule is there for: such a clip silences those who die
