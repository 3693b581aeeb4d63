"""The hospital's policy: refused unless allowed, with the numbers."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from pmfed_client.policy import Policy

from pmfed.errors import BudgetError, PolicyError
from pmfed.privacy.plan import PrivacyPlan
from pmfed.study import Study

STUDY = Study.from_text(
    """
[study]
name = "dose"
title = "Dose"
[cohort]
table = "patients"
expected_patients = 1000
[outcome]
column = "dose"
task = "regression"
minimum = 0.0
maximum = 100.0
[modalities.clinical]
kind = "table"
table = "patients"
[modalities.clinical.features.age]
type = "numeric"
minimum = 0.0
maximum = 120.0
mean = 60.0
scale = 15.0
[training]
rounds = 20
[training.optimizer]
learning_rate = 0.1
[privacy]
epsilon = 2.0
delta = 1e-4
[evaluation]
release = "private"
""",
    "study.toml",
)
PER_SITE = STUDY.replace(evaluation={"release": "exact", "per_site": True})
PLAN = PrivacyPlan.solve(STUDY, sites=3)
POLICY = Policy(epsilon=2.0, delta=1e-4)


def admit(
    policy: Policy = POLICY, study: Study = STUDY, plan: PrivacyPlan = PLAN, patients: int = 200, held_out: int = 50
) -> None:
    policy.admit(study, plan, patients, held_out)


def changed(**values: Any) -> Policy:
    return Policy(**{**POLICY.model_dump(), **values})


def test_what_the_policy_allows_is_admitted() -> None:
    admit()
    admit(patients=20)
    admit(changed(exact_metrics=True), STUDY.replace(evaluation={"release": "exact"}))
    admit(changed(exact_metrics=True, per_site_metrics=True), PER_SITE)
    admit(changed(record_unit=True), plan=dataclasses.replace(PLAN, unit="record"))
    admit(study=STUDY.replace(evaluation={"release": "exact"}), held_out=0)


REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("no policy", {"policy": Policy.closed()}),
    ("19 training patients are fewer than the 20", {"patients": 19}),
    ("199 training patients are fewer than the 200", {"policy": changed(min_patients=200), "patients": 199}),
    ("protects nobody", {"plan": PLAN.without_noise()}),
    ("single records", {"plan": dataclasses.replace(PLAN, unit="record")}),
    (r"the study's delta of 0.0001 is not below 1/10000", {"patients": 10_000}),
    (r"the study's delta of 0.0001 is not below 1/10000", {"held_out": 10_000}),
    (r"the study's delta of 0.01 is not below 1/200", {"plan": dataclasses.replace(PLAN, delta=0.01)}),
    (r"\[policy\]'s own delta of 0.01 is not below 1/200", {"policy": changed(delta=0.01)}),
    (
        "exact sums of scores of 50 held-out patients",
        {"study": STUDY.replace(evaluation={"release": "exact"})},
    ),
    ("figures of this site alone", {"policy": changed(exact_metrics=True), "study": PER_SITE}),
]


@pytest.mark.parametrize(("message", "case"), REFUSED, ids=[message[:30] for message, _ in REFUSED])
def test_the_rest_is_refused_and_nothing_released(message: str, case: dict[str, Any]) -> None:
    with pytest.raises(PolicyError, match=message) as caught:
        admit(**case)
    assert "Nothing was released." in caught.value.what


def test_a_plan_beyond_the_whole_budget_is_refused_with_both_numbers() -> None:
    with pytest.raises(BudgetError, match=r"asks for epsilon [12]\.\d{4} at delta 0.0001.* allows 1\.5000") as caught:
        admit(changed(epsilon=1.5))
    assert "Nothing was released." in caught.value.what


def test_the_budget_is_measured_at_the_policys_own_delta() -> None:
    """At a larger delta the same plan costs less, at a smaller one more."""
    admit(changed(epsilon=1.9, delta=1e-3))
    with pytest.raises(BudgetError):
        admit(changed(delta=1e-6))
