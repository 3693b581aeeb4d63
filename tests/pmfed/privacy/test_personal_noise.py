"""Steps for what is a hospital's own: one clip over all, the whole noise on what stays, and all of it in the total."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import small_study

from pmfed.errors import StudyError
from pmfed.methods import plan_for
from pmfed.models import build, flatten
from pmfed.models.parts import stay_mask
from pmfed.privacy.accounting import Release, epsilon
from pmfed.privacy.gradients import PrivateStep
from pmfed.privacy.groups import patient_epsilon
from pmfed.privacy.mechanism import AGAINST, Mechanism
from pmfed.privacy.noise import SecretSource
from pmfed.privacy.plan import PrivacyPlan
from pmfed.study import Study
from pmfed.tasks import task_for

REST: dict[str, dict[str, Any]] = {
    "cohort": {"expected_patients": 400},
    "training": {"rounds": 20},
    "privacy": {"epsilon": 2.0, "delta": 1e-4, "sampling_rate": 0.3},
}
STUDY = small_study(
    {"image": {"kind": "images", "table": "pictures", "folder": "images", "size": [8, 8]}},
    model={"kind": "fusion", "embedding": 4, "channels": [4]},
    **REST,
)
FINE_TUNE = {"method": "fine-tune", "steps": 7, "learning_rate": 0.1, "share": 0.4}
DITTO = {"method": "ditto", "steps": 2, "learning_rate": 0.1, "proximal": 1.0, "share": 0.4}
STEP = Mechanism("step", "train", "patient", 0.3, 1.5, 2.0, 20, 5, 1, local=True)


def parts(method: str) -> Study:
    return STUDY.replace(personal={"method": method, "learning_rate": 0.1})


@settings(max_examples=40)
@given(sites=st.integers(1, 12), data=st.data(), clip=st.floats(0.1, 10), length=st.floats(0, 1), turn=st.floats(0, 1))
def test_a_joint_step_is_accounted_with_the_smaller_of_its_two_noises(
    sites: int, data: Any, clip: float, length: float, turn: float
) -> None:
    """A patient moves (what travels, what stays) by at most C; in units of each one's noise, by no more than accounted."""
    colluders = data.draw(st.integers(0, sites - 1))
    joint = replace(STEP, sites=sites, colluders=colluders, bound=clip)
    shared, local = length * clip * math.cos(turn * math.pi / 2), length * clip * math.sin(turn * math.pi / 2)
    honest = {"public": sites, "colluders": sites - colluders, "others": 1}
    for against in AGAINST:
        added = math.sqrt(honest[against]) * joint.noise_std()
        moved = math.hypot(shared / added, local / joint.local_std)
        (step,) = PrivacyPlan((joint,), 1e-4).releases(against=against)
        assert moved <= 1 / step.noise_multiplier * (1 + 1e-9)
        assert step.noise_multiplier == pytest.approx(min(added, joint.local_std) / clip)


def batch(patients: int, seed: int, scale: float = 1.0) -> tuple[Any, ...]:
    chance = torch.Generator().manual_seed(seed)
    images = scale * torch.randn((patients, 1, 8, 8), generator=chance)
    return {"image": images}, {"image": torch.ones(patients, dtype=torch.bool)}, (images[:, 0, 0, 0] > 0).float()


@pytest.mark.parametrize("method", ["head", "norms", "intercept"])
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6), scale=st.sampled_from([1e-2, 1.0, 30.0, 1e4]))
def test_a_patient_moves_what_travels_and_what_stays_together_by_one_clip(method: str, seed: int, scale: float) -> None:
    study = parts(method)
    model = build(study)
    mask = stay_mask(study, model)
    assert 0 < mask.sum() < len(mask)
    step = PrivateStep(model, task_for(study).loss, replace(STEP, bound=0.5), stays=mask)
    inputs, present, targets = batch(6, seed, scale)
    whole = step.clipped_sum(inputs, present, targets, np.arange(6)).vector
    less = step.clipped_sum(
        {"image": inputs["image"][1:]}, {"image": present["image"][1:]}, targets[1:], np.arange(5)
    ).vector
    change = whole - less
    assert np.linalg.norm(change) <= 0.5 * (1 + 1e-6)
    assert math.hypot(*(np.linalg.norm(change[part]) for part in (mask, ~mask))) <= 0.5 * (1 + 1e-6)


@pytest.mark.parametrize(("method", "sites"), [("head", 5), ("norms", 3)])
def test_what_stays_gets_the_whole_noise_and_what_travels_its_share(method: str, sites: int) -> None:
    study = parts(method)
    model = build(study)
    mask = stay_mask(study, model)
    step = PrivateStep(model, task_for(study).loss, STEP, stays=mask)
    inputs, present, targets = batch(0, 1)
    noise = np.stack(
        [step.release(inputs, present, targets, np.arange(0), SecretSource(), sites).vector for _ in range(800)]
    )
    for part, std in ((mask, 1.5 * 2.0), (~mask, 1.5 * 2.0 / math.sqrt(sites - 1))):
        drawn = noise[:, part].ravel()
        assert drawn.std() == pytest.approx(std, rel=5 / math.sqrt(2 * len(drawn)))
    assert STEP.local_std == 3.0


def test_parts_that_the_plan_does_not_account_for_are_refused() -> None:
    model = build(STUDY)
    mask = stay_mask(parts("head"), model)
    with pytest.raises(StudyError, match="does not account"):
        PrivateStep(model, task_for(STUDY).loss, replace(STEP, local=False), stays=mask)
    with pytest.raises(StudyError, match="does not account"):
        PrivateStep(model, task_for(STUDY).loss, STEP, stays=mask[:-1])
    with pytest.raises(StudyError, match="fedsgd only"):
        replace(STEP, shared=False)


@pytest.mark.parametrize(("personal", "steps"), [(FINE_TUNE, 7), (DITTO, 40)])
def test_personal_steps_are_a_share_of_the_total_and_seen_whole_by_everybody(
    personal: dict[str, Any], steps: int
) -> None:
    study = STUDY.replace(personal=personal)
    plan, bare = plan_for(study, 5), plan_for(STUDY, 5)
    own = plan["personal"]
    assert (own.times, own.sites, own.colluders, own.sampling_rate, own.bound) == (steps, 1, 0, 0.3, 1.0)
    assert 0.79 < PrivacyPlan((own,), 1e-4).epsilon() <= 0.8
    assert 1.99 < plan.epsilon() <= 2.0
    assert plan["step"].noise_multiplier > bare["step"].noise_multiplier  # it is not for nothing
    for against in AGAINST:
        personal_release = Release(0.3, own.noise_std() / own.bound, steps)
        assert personal_release in plan.releases(against=against)
        assert personal_release in plan.releases({"step": 0}, against)  # in full from the beginning
    assert plan.epsilon() == epsilon(plan.releases(), 1e-4)
    assert PrivacyPlan.from_dict(plan.as_dict()) == plan
    silent = plan.without_noise()["personal"]
    assert (silent.noise_std(), silent.times, PrivacyPlan((silent,), 1e-4).epsilon()) == (0.0, steps, math.inf)
    assert "personal" not in bare
    with pytest.raises(KeyError):
        bare["personal"]


def test_a_patient_of_many_records_pays_for_personal_steps_too() -> None:
    study = STUDY.replace(personal=FINE_TUNE, privacy={"unit": "record"})
    plan = plan_for(study, 5)
    bare = PrivacyPlan((plan["step"],), plan.delta)
    assert patient_epsilon(plan, 1) == pytest.approx(plan.epsilon(), rel=0.01)
    assert patient_epsilon(plan, 3) > patient_epsilon(bare, 3) + 0.1


def test_statistics_and_personal_steps_must_leave_something() -> None:
    age = {"kind": "table", "table": "p", "features": {"age": {"type": "numeric", "minimum": 0, "maximum": 9}}}
    study = small_study({"image": age}, **REST).replace(
        personal={**FINE_TUNE, "share": 0.9}, privacy={"statistics_noise": 2.0}
    )
    with pytest.raises(StudyError, match=r"personal\.share"):
        plan_for(study, 5)


def test_names_of_what_stays() -> None:
    model = build(STUDY)
    names = {method: stay_mask(parts(method), model) for method in ("head", "norms", "intercept")}
    assert not stay_mask(STUDY, model).any()
    assert [int(mask.sum()) for mask in names.values()] == [5, 8, 1]
    assert len(flatten(model)) == len(names["head"])
    assert (names["head"] >= names["intercept"]).all()


def test_a_model_without_such_parts_is_refused() -> None:
    genes = {"image": {"kind": "genotypes", "table": "pictures", "variants": {"rs1": {}}}}
    study = small_study(
        genes, model={"kind": "fusion", "embedding": 4}, personal={"method": "norms", "learning_rate": 0.1}, **REST
    )
    with pytest.raises(StudyError, match=r"personal\.method: this model has no norms"):
        stay_mask(study, build(study))
