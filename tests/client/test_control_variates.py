"""SCAFFOLD: each site's local steps are corrected by noised moves and by nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pmfed_client.agent.trainer import Trainer
from small import AGE, small_study

from pmfed.cohort.invented import invented
from pmfed.methods import noiseless_plan, plan_for
from pmfed.models import flatten
from pmfed.privacy.noise import SecretSource, SeededSource
from pmfed.privacy.plan import PrivacyPlan
from pmfed.queries.gradient import step_of
from pmfed.study import Study

TABLE: dict[str, Any] = {"clinic": {"kind": "table", "table": "patients", "features": AGE}}
STEPS, RATE, SITES = 4, 0.2, 2
LOCAL = {"algorithm": "fedavg", "local_steps": STEPS, "local_learning_rate": RATE, "rounds": 60}
AVERAGE = {"optimizer": {"name": "sgd", "learning_rate": 1.0}}


def study(**training: Any) -> Study:
    return small_study(TABLE, training=LOCAL | AVERAGE | training, cohort={"expected_patients": 24})


def everyone(plan: PrivacyPlan) -> PrivacyPlan:
    return replace(plan, mechanisms=tuple(replace(one, sampling_rate=1.0) for one in plan.mechanisms))


def trainers(study: Study, plan: PrivacyPlan, source: Any = None) -> list[Trainer]:
    """Return two sites that differ: at one most die, at the other hardly anybody does, and ages are shifted."""
    whole = invented(study, 16)
    found = []
    for site in range(SITES):
        targets = np.full(len(whole.targets), site, np.float32)
        targets[::4] = 1 - site
        inputs = {"clinic": (whole.inputs["clinic"] * (1 + 2 * site)).astype(np.float32)}
        cohort = replace(whole, inputs=inputs, targets=targets)
        found.append(Trainer(study, plan, cohort, source or (lambda *_: SecretSource())))
    return found


def federate(study: Study, sites: list[Trainer], rounds: int) -> np.ndarray[Any, Any]:
    """Take rounds as a coordinator would, and return the model."""
    grid = step_of(study).grid(SITES)
    model = flatten(sites[0].model) * 0
    control = np.zeros_like(model)
    for number in range(1, rounds + 1):
        moves = [
            grid.decode(one.step(model, SITES, number, 0, control if study.training.control_variates else None))
            for one in sites
        ]
        mean = np.mean(moves, axis=0)
        model, control = (model + mean).astype(np.float32), (-mean / (STEPS * RATE)).astype(np.float32)
    return model


def slope(study: Study, sites: list[Trainer], model: Any) -> float:
    """Return the length of the whole federation's slope at a model: 0 at its best fit."""
    single = study.replace(training={**AVERAGE, "local_steps": 1, "control_variates": False, "proximal": 0.0})
    grid = step_of(single).grid(SITES)
    plan = everyone(noiseless_plan(single, SITES))
    fresh = [Trainer(single, plan, one.cohort, lambda *_: SecretSource()) for one in sites]
    return float(np.linalg.norm(np.mean([grid.decode(one.step(model, SITES, 1, 0)) for one in fresh], axis=0))) / RATE


def test_sites_that_differ_reach_the_best_common_fit() -> None:
    """FedAvg stops where the sites' drifts cancel, which is another place; control variates take them out."""
    reached = {}
    for variates in (False, True):
        one = study(control_variates=variates)
        sites = trainers(one, everyone(noiseless_plan(one, SITES)))
        reached[variates] = slope(one, sites, federate(one, sites, 150))
    assert reached[True] < 1e-3
    assert reached[False] > 10 * reached[True]


def test_a_variate_is_made_of_the_move_that_leaves_noise_and_all() -> None:
    one = study(control_variates=True)
    plan = plan_for(one, SITES)
    first, _ = trainers(one, plan, lambda what, number, attempt: SeededSource(7, "site", what, number, attempt))
    grid = step_of(one).grid(SITES)
    model = flatten(first.model) * 0
    zero = np.zeros_like(model)
    released = grid.decode(first.step(model, SITES, 1, 0, zero))
    assert first._control is not None
    np.testing.assert_allclose(first._control, -released / (STEPS * RATE), atol=2 * grid.unit / RATE)
    # Whoever was started again has none and is not corrected: the same noise gives the move of plain FedAvg.
    again, _ = trainers(one, plan, lambda what, number, attempt: SeededSource(7, "site", what, number, attempt))
    far = np.full_like(model, 3.0)
    np.testing.assert_array_equal(grid.decode(again.step(model, SITES, 1, 0, far)), released)
    # In the next round it is: by how far the two differ, the same way in every step.
    pushed = grid.decode(again.step(model, SITES, 2, 0, far))
    plain = study()
    other, _ = trainers(plain, plan, lambda what, number, attempt: SeededSource(7, "site", what, number, attempt))
    assert np.linalg.norm(pushed - grid.decode(other.step(model, SITES, 2, 0))) > RATE


def test_it_costs_what_fedavg_costs() -> None:
    plain, corrected = plan_for(study(), SITES), plan_for(study(control_variates=True), SITES)
    assert plain == corrected
    assert step_of(study(control_variates=True)).state == {
        "parameters": (np.float32, 2),
        "control": (np.float32, 2),
    }
    assert step_of(study()).state.keys() == {"parameters"}


@pytest.mark.parametrize("wrong", [{"proximal": 0.5}, {"optimizer": {"name": "adam", "learning_rate": 0.1}}])
def test_what_would_correct_twice_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="they would correct twice"):
        study(control_variates=True, **wrong)
