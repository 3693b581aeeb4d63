"""Hospitals differ: the pull of FedProx, and parts of a model that stay at the site."""

from __future__ import annotations

from typing import Any

import federation
import numpy as np
import pytest
import torch
from pmfed_client.trainer import Trainer
from pydantic import ValidationError

from pmfed.cohort import Cohort, read_cohort
from pmfed.models import build, flatten, load
from pmfed.privacy.noise import SecretSource
from pmfed.privacy.plan import PrivacyPlan
from pmfed.secagg.grid import gradient_grid
from pmfed.study import Study
from pmfed.tasks import task_for

STUDY = Study.from_text(federation.STUDY, "study.toml")
NORTH = federation.SITES[0]
SITES = len(federation.SITES)
FEDPROX = {"algorithm": "fedavg", "local_steps": 5, "local_learning_rate": 0.8, "proximal": 1.0}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    folder = federation.write_federation(tmp_path_factory.mktemp("f") / "f") / "sites" / NORTH
    return read_cohort(STUDY, {"patients": folder / "patients.csv"}, NORTH)


def trainer(study: Study, cohort: Cohort, plan: PrivacyPlan) -> Trainer:
    return Trainer(study, plan, cohort, lambda *_: SecretSource())


def noiseless(study: Study) -> PrivacyPlan:
    return PrivacyPlan.solve(study, SITES).without_noise()


def gradient(study: Study, cohort: Cohort, at: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the sum of training patients' gradients, by plain autograd. One record each."""
    model, task, training = build(study), task_for(study), cohort.select(cohort.training)
    load(model, at.astype(np.float32))
    inputs = {name: torch.from_numpy(values) for name, values in training.inputs.items()}
    present = {name: torch.from_numpy(seen) for name, seen in training.present.items()}
    loss = task.loss(model(inputs, present), task.targets(training.targets)).sum()
    parts = torch.autograd.grad(loss, list(model.parameters()))
    return torch.cat([part.reshape(-1) for part in parts]).double().numpy()


# -- FedProx -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("proximal", [0.0, 0.4, 1.2])
def test_local_steps_follow_the_gradient_and_the_pull(cohort: Cohort, proximal: float) -> None:
    study = STUDY.replace(training={**FEDPROX, "proximal": proximal}, privacy={"sampling_rate": 1.0})
    start = flatten(build(study))
    sent = trainer(study, cohort, noiseless(study)).step(start, SITES, 1, 0)
    expected = STUDY.cohort.expected_patients / SITES
    at = start.astype(np.float64)
    for _ in range(5):
        at = at - 0.8 * (gradient(study, cohort, at) / expected + proximal * (at - start))
    np.testing.assert_allclose(gradient_grid(study, SITES).decode(sent), at - start, atol=1e-5)


def test_the_pull_is_free_and_keeps_a_site_near(cohort: Cohort) -> None:
    near, far = (STUDY.replace(training={**FEDPROX, "proximal": mu}) for mu in (1.0, 0.0))
    assert PrivacyPlan.solve(near, SITES) == PrivacyPlan.solve(far, SITES)
    start = flatten(build(near))

    def moved(study: Study) -> float:
        sums = trainer(study, cohort, noiseless(study)).step(start, SITES, 1, 0)
        return float(np.linalg.norm(gradient_grid(study, SITES).decode(sums)))

    assert moved(near) < 0.8 * moved(far)


@pytest.mark.parametrize(
    ("training", "said"),
    [
        ({"proximal": 0.1}, "belongs to algorithm 'fedavg'"),
        ({**FEDPROX, "local_steps": 1}, "'local_steps' above 1"),
        ({**FEDPROX, "proximal": 1.25}, "must be below 1"),
    ],
)
def test_a_pull_that_means_nothing_is_refused(training: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        STUDY.replace(training=training)
