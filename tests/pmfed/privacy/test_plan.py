"""The plan keeps the study's promise, shares the noise out rightly and refuses what it cannot keep."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pmfed.errors import PolicyError, StudyError
from pmfed.methods import plan_for
from pmfed.privacy.accounting import Release, epsilon
from pmfed.privacy.mechanism import GRID_STEPS, Mechanism
from pmfed.privacy.plan import PrivacyPlan
from pmfed.queries.gradient import step_of
from pmfed.study import Study

TOML = """
[study]
name = "dose"
title = "Dose"
[cohort]
table = "patients"
expected_patients = 4000
[outcome]
column = "dose"
task = "regression"
minimum = 1
maximum = 400
[modalities.clinical]
kind = "table"
table = "patients"
[modalities.clinical.features]
age = { type = "numeric", minimum = 0, maximum = 120, mean = 60, scale = 15 }
[training]
rounds = 300
optimizer = { learning_rate = 0.1 }
[privacy]
epsilon = 2.0
delta = 1e-5
sampling_rate = 0.05
"""
STUDY = Study.from_text(TOML, "study.toml")
UNSCALED = Study.from_text(TOML.replace(", mean = 60, scale = 15", ""), "study.toml")
FEDAVG = Study.from_text(
    TOML.replace("optimizer = { learning_rate = 0.1 }\n", "").replace(
        "rounds = 300", 'rounds = 30\nalgorithm = "fedavg"\nlocal_steps = 10\nlocal_learning_rate = 0.1'
    ),
    "study.toml",
)
STEP = Mechanism("step", "train", "patient", 0.05, 2.5, 2.0, 100, 5, 1)
STATISTICS = Mechanism("statistics", "train", "patient", 1.0, 8.0, 1.0, 1, 5, 1)
PLAN = PrivacyPlan((STEP,), 1e-5)
BOTH = PrivacyPlan((STATISTICS, STEP), 1e-5)


def test_solving_keeps_the_promise_and_gives_the_design_s_three_figures():
    plan = plan_for(STUDY, sites=5)
    step = plan["step"]
    assert (step.unit, step.shared, step.sampling_rate, step.bound) == ("patient", True, 0.05, 1.0)
    assert (step.times, step.sites, step.colluders, plan.delta) == (300, 5, 1, 1e-5)
    assert (plan.unit, plan.sites, plan.colluders, plan.main) == ("patient", 5, 1, step)
    assert "statistics" not in plan
    assert 1.99 < plan.epsilon() <= 2.0
    # privacy.md section 4: 1.73 against the public, 2.0 with one colluder, 6.1 against all others
    assert plan.epsilon(against="public") == pytest.approx(1.73, abs=0.01)
    assert plan.epsilon(against="others") == pytest.approx(6.1, abs=0.1)


def test_the_noise_of_the_honest_sites_alone_is_sigma_times_clip():
    """K' sites take part, t of them tell their noise: what is left must be at least sigma C."""
    step = dataclasses.replace(STEP, sites=9, colluders=2)
    for sites in range(3, 10):
        left = math.sqrt((sites - 2) * step.noise_std(sites) ** 2)
        assert left == pytest.approx(step.noise_multiplier * step.bound, rel=1e-12)
    assert step.noise_std() == step.noise_std(9) < step.noise_std(5)


@settings(max_examples=30)
@given(sites=st.integers(1, 40), data=st.data(), shared=st.booleans())
def test_noise_added_is_noise_accounted(sites, data, shared):
    colluders = data.draw(st.integers(0, sites - 1))
    how = {"sites": sites, "colluders": colluders, "shared": shared}
    asked = dataclasses.replace(STATISTICS, noise_multiplier=6.0, **how), dataclasses.replace(STEP, **how)
    plan = PrivacyPlan(asked, 1e-5)
    here = data.draw(st.integers(colluders + 1, sites))
    share, table = plan["step"].noise_std(here) / plan["step"].bound, plan["statistics"].noise_std(here)
    counted = {"others": 1, "colluders": here - colluders, "public": here}
    for against, noises in counted.items():
        if not shared:
            noises = 1
        statistics, step = plan.releases(against=against)
        assert (step.sampling_rate, step.count) == (STEP.sampling_rate, STEP.times)
        assert (statistics.sampling_rate, statistics.count) == (1.0, 1)
        assert step.noise_multiplier <= share * math.sqrt(noises) * (1 + 1e-12)
        assert statistics.noise_multiplier <= table * math.sqrt(noises) * (1 + 1e-12)
        if here == sites:
            assert step.noise_multiplier == pytest.approx(share * math.sqrt(noises))


def test_statistics_are_part_of_the_total():
    plan = plan_for(UNSCALED, sites=5)
    assert plan["statistics"].noise_multiplier == 8.0
    assert plan.releases()[0] == Release(1.0, 8.0, 1)
    assert 1.99 < plan.epsilon() <= 2.0
    assert plan["step"].noise_multiplier > plan_for(STUDY, sites=5)["step"].noise_multiplier
    assert plan.epsilon({"step": 0}) == epsilon((Release(1.0, 8.0, 1),), 1e-5)
    assert 0.4 < plan.epsilon({"step": 0}) < 0.5
    assert plan["statistics"].noise_std() == 8.0 / 2
    with pytest.raises(StudyError, match="statistics_noise"):
        plan_for(UNSCALED.replace(privacy={"statistics_noise": 1.0}), sites=5)
    with pytest.raises(KeyError):
        PLAN["statistics"]


def test_fedavg_has_the_whole_noise_at_every_local_step_of_every_site():
    plan = plan_for(FEDAVG, sites=5)
    step = plan["step"]
    assert step.times == 300
    assert not step.shared
    assert step.noise_std() == step.noise_std(2) == step.noise_multiplier * step.bound
    figures = {plan.epsilon(against=who) for who in ("colluders", "public", "others")}
    assert len(figures) == 1
    # The same sigma as fedsgd against colluders: accuracy differs, the promise does not.
    assert step.noise_multiplier == plan_for(STUDY, sites=5)["step"].noise_multiplier


def test_pooled_data_is_one_site_without_colluders():
    pooled = STUDY.replace(privacy={"colluders": 0}, training={"rounds": 50})
    plan = plan_for(pooled, sites=1)
    step = plan["step"]
    assert step.times == 50
    assert step.noise_std(1) == step.noise_multiplier * step.bound
    assert plan.epsilon() == plan.epsilon(against="public") == plan.epsilon(against="others")
    with pytest.raises(StudyError) as caught:
        plan_for(STUDY, sites=1)
    assert "privacy.colluders" in caught.value.what
    assert "at most 0" in caught.value.remedy


@pytest.mark.parametrize("sites", [-1, 0, 1, 6])
def test_too_few_or_too_many_sites_in_a_step_are_refused(sites):
    with pytest.raises(PolicyError, match="Nothing was released"):
        STEP.noise_std(sites)


def test_epsilon_grows_over_the_steps_and_the_curve_says_so():
    marks = (0, 1, 25, 50, 75, 100)
    exact = [PLAN.epsilon({"step": n}) for n in marks]
    assert exact[0] == 0
    assert exact == sorted(exact)
    assert PLAN.curve("step", marks) == pytest.approx(exact, abs=2e-3)
    assert PLAN.curve("step", marks, "others")[-1] == pytest.approx(PLAN.epsilon(against="others"), abs=2e-3)
    for steps in (-1, 101):
        with pytest.raises(StudyError, match="within the 100"):
            PLAN.epsilon({"step": steps})
        with pytest.raises(StudyError, match="within the 100"):
            PLAN.curve("step", (steps,))


def test_without_noise_nothing_is_promised():
    bare = BOTH.without_noise()
    assert PLAN.private
    assert BOTH.private
    assert not bare.private
    assert bare["step"].bound == bare["statistics"].bound == math.inf
    assert bare["step"].noise_std() == bare["statistics"].noise_std() == 0.0
    assert bare.epsilon() == bare.epsilon({"step": 0}) == bare.epsilon(against="others") == math.inf
    # Clipping alone is no promise either, and noise on a sum that is not clipped is refused.
    clipped = dataclasses.replace(STEP, noise_multiplier=0.0)
    assert not clipped.private
    assert not PrivacyPlan((clipped,), 1e-5).private
    assert not PrivacyPlan((STATISTICS, clipped), 1e-5).private
    with pytest.raises(StudyError, match="clip"):
        dataclasses.replace(STEP, bound=math.inf)


def test_noise_too_small_for_the_grid_is_refused():
    asked = step_of(STUDY)
    assert asked.grid(5).unit == asked.bound / 4096 == asked.bound / GRID_STEPS
    unit = STEP.bound / GRID_STEPS
    tiny = dataclasses.replace(STEP, noise_multiplier=1.99 * math.sqrt(4) / 4096)
    with pytest.raises(PolicyError, match="2 units of the grid"):
        tiny.noise_std()
    assert dataclasses.replace(STEP, noise_multiplier=2.01 * math.sqrt(4) / 4096).noise_std() > 2 * unit


@pytest.mark.parametrize("plan", [PLAN, PLAN.without_noise(), BOTH, BOTH.without_noise()])
def test_a_plan_survives_json(plan):
    assert PrivacyPlan.from_dict(json.loads(json.dumps(plan.as_dict(), allow_nan=False))) == plan
    assert hash(PrivacyPlan.from_dict(plan.as_dict())) == hash(plan)


@pytest.mark.parametrize(
    "change",
    [
        {"unit": "visit"}, {"unit": None}, {"role": "trained"}, {"shared": 1}, {"shared": "fedsgd"}, {"local": 0},
        {"sampling_rate": 0.0}, {"sampling_rate": 1.5}, {"sampling_rate": "0.5"}, {"noise_multiplier": -1.0},
        {"noise_multiplier": math.nan}, {"noise_multiplier": math.inf}, {"noise_multiplier": None}, {"bound": 0.0},
        {"bound": math.nan}, {"bound": -1.0}, {"times": -1}, {"times": 1.5}, {"times": None}, {"sites": 0},
        {"sites": True}, {"colluders": -1}, {"colluders": 5}, {"query": 7}, {"extra": 1},
    ],
)  # fmt: skip
def test_nonsense_about_a_mechanism_from_outside_is_refused(change):
    told = BOTH.as_dict()
    told["mechanisms"][1] |= change
    with pytest.raises(StudyError):
        PrivacyPlan.from_dict(told)


@pytest.mark.parametrize("missing", [field.name for field in dataclasses.fields(Mechanism)])
def test_a_mechanism_that_lacks_something_is_refused(missing):
    told = BOTH.as_dict()
    del told["mechanisms"][0][missing]
    with pytest.raises(StudyError, match=missing):
        PrivacyPlan.from_dict(told)


@pytest.mark.parametrize(
    "change",
    [
        {"delta": 0.0}, {"delta": 1.0}, {"delta": "1e-5"}, {"delta": None}, {"delta": math.nan}, {"delta": True},
        {"extra": 1}, {"mechanisms": []}, {"mechanisms": None}, {"mechanisms": {}}, {"mechanisms": [None]},
        {"mechanisms": ["step"]}, {"mechanisms": PLAN.as_dict()["mechanisms"] * 2},
    ],
)  # fmt: skip
def test_nonsense_about_a_plan_from_outside_is_refused(change):
    with pytest.raises(StudyError):
        PrivacyPlan.from_dict({**PLAN.as_dict(), **change})
    short = PLAN.as_dict()
    del short["delta"]
    with pytest.raises(StudyError, match="delta"):
        PrivacyPlan.from_dict(short)
