"""The hospital's policy: refused unless allowed, with the numbers."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pmfed_client.site.hours import within
from pmfed_client.site.policy import Policy
from pydantic import ValidationError

from pmfed.errors import BudgetError, ClosedError, PolicyError
from pmfed.methods import plan_for
from pmfed.modality import KINDS
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
PLAN = plan_for(STUDY, sites=3)
RECORDS = dataclasses.replace(
    PLAN, mechanisms=tuple(dataclasses.replace(one, unit="record") for one in PLAN.mechanisms)
)
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
    admit(changed(record_unit=True), plan=RECORDS)
    admit(study=STUDY.replace(evaluation={"release": "exact"}), held_out=0)
    admit(changed(modalities=("dicom", "table"), study_epsilon=2.0))


REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("no policy", {"policy": Policy.closed()}),
    ("19 training patients are fewer than the 20", {"patients": 19}),
    ("199 training patients are fewer than the 200", {"policy": changed(min_patients=200), "patients": 199}),
    ("protects nobody", {"plan": PLAN.without_noise()}),
    ("single records", {"plan": RECORDS}),
    (r"the study's delta of 0.0001 is not below 1/10000", {"patients": 10_000}),
    (r"the study's delta of 0.0001 is not below 1/10000", {"held_out": 10_000}),
    (r"the study's delta of 0.01 is not below 1/200", {"plan": dataclasses.replace(PLAN, delta=0.01)}),
    (r"\[policy\]'s own delta of 0.01 is not below 1/200", {"policy": changed(delta=0.01)}),
    (
        "exact sums of scores of 50 held-out patients",
        {"study": STUDY.replace(evaluation={"release": "exact"})},
    ),
    (r"the study uses table, which \[policy\] modalities", {"policy": changed(modalities=("dicom", "panel"))}),
    (r"the study uses table, which \[policy\] modalities", {"policy": changed(modalities=())}),
    (r"allows 1\.5000 for one study", {"policy": changed(epsilon=100.0, study_epsilon=1.5)}),
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


@pytest.mark.parametrize(
    "values",
    [
        {"modalities": ("tables",)}, {"hours": "20:00-06:00"}, {"time_zone": "UTC"}, {"study_epsilon": 0.0},
        *({"hours": hours, "time_zone": "UTC"} for hours in ("", "20-06", "24:00-06:00", "8:00-16:00", "08:00-08:00", "08:60-09:00")),
        *({"hours": "20:00-06:00", "time_zone": name} for name in ("", "Berlin", "Europe/Nowhere", "../UTC", "UTC+2")),
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_understood_is_an_error_and_no_limit_left_out(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        changed(**values)


@given(asked=st.sampled_from(KINDS), allowed=st.none() | st.sets(st.sampled_from(KINDS)))
def test_a_kind_of_modality_is_admitted_only_if_it_is_named(asked: str, allowed: set[str] | None) -> None:
    (one, *_) = STUDY.modalities.values()
    study = STUDY.model_copy(update={"modalities": {"one": one.model_copy(update={"kind": asked})}})
    policy = changed(modalities=None if allowed is None else tuple(allowed))
    if allowed is None or asked in allowed:
        admit(policy, study)
    else:
        with pytest.raises(PolicyError, match=asked):
            admit(policy, study)


MINUTES = st.integers(0, 24 * 60 - 1)


def clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"


@given(
    begin=MINUTES,
    length=st.integers(1, 24 * 60 - 1),
    since=MINUTES,
    seconds=st.integers(0, 59),
    ahead=st.integers(-12, 12),
)
def test_hours_are_a_stretch_of_the_day_whatever_clock_they_are_asked_by(
    begin: int, length: int, since: int, seconds: int, ahead: int
) -> None:
    """A moment so many minutes after the hours begin is within them exactly when it comes before their length is over."""
    hours = f"{clock(begin)}-{clock((begin + length) % (24 * 60))}"
    moment = datetime(2026, 3, 10, tzinfo=UTC) + timedelta(minutes=begin + since, seconds=seconds)
    moment = moment.astimezone(timezone(timedelta(hours=ahead)))
    assert within(hours, "UTC", moment) == (since < length)
    policy = changed(hours=hours, time_zone="UTC")
    if since < length:
        policy.open_at(moment)
    else:
        with pytest.raises(ClosedError, match=rf"from {clock(begin)} to .* \(UTC\) only"):
            policy.open_at(moment)


@pytest.mark.parametrize(
    ("moment", "open_"),
    [
        ("2026-01-15T19:30+00:00", True), ("2026-01-15T18:59+00:00", False),  # winter: Berlin is an hour ahead
        ("2026-07-15T18:30+00:00", True), ("2026-07-15T17:59+00:00", False),  # summer: two
        ("2026-07-15T04:00+00:00", False), ("2026-07-15T03:59+00:00", True),
    ],
)  # fmt: skip
def test_hours_follow_the_clock_of_their_zone(moment: str, open_: bool) -> None:
    assert within("20:00-06:00", "Europe/Berlin", datetime.fromisoformat(moment)) is open_
