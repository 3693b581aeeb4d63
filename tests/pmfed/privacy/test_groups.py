"""What protecting records is worth to a patient who has several."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from pmfed.errors import StudyError
from pmfed.privacy.groups import patient_epsilon
from pmfed.privacy.mechanism import Mechanism
from pmfed.privacy.plan import PrivacyPlan

STEP = Mechanism(
    query="step", role="train", unit="record", sampling_rate=0.02, noise_multiplier=2.0, bound=1.0, times=500, sites=5,
    colluders=1,
)  # fmt: skip
STATISTICS = Mechanism("statistics", "train", "patient", 1.0, 1.0, 1.0, 1, 5, 1)
PLAN = PrivacyPlan((STEP,), 1e-5)


def steps(*before: Mechanism, delta: float = 1e-5, **changes: Any) -> PrivacyPlan:
    return PrivacyPlan((*before, replace(STEP, **changes)), delta)


def test_the_figures_of_the_design() -> None:
    assert patient_epsilon(PLAN, 1) == pytest.approx(PLAN.epsilon(), rel=2e-2)
    assert patient_epsilon(PLAN, 4) == pytest.approx(4.4, abs=0.1)
    assert patient_epsilon(PLAN, 10) == pytest.approx(13.2, abs=0.1)


def test_a_patient_who_is_protected_as_a_patient_may_have_any_number_of_records() -> None:
    plan = steps(unit="patient")
    assert patient_epsilon(plan, 30) == plan.epsilon()
    assert math.isinf(patient_epsilon(PLAN.without_noise(), 3))
    with pytest.raises(StudyError, match="0 records"):
        patient_epsilon(PLAN, 0)


def test_without_sampling_k_records_are_k_times_the_clip() -> None:
    """Then a step is a plain Gaussian of sensitivity k: k records in T steps are as one in k^2 T (Gaussian composition)."""
    whole = steps(sampling_rate=1.0, noise_multiplier=20.0, times=8)
    same = steps(sampling_rate=1.0, noise_multiplier=20.0, times=8 * 9, unit="patient")
    assert patient_epsilon(whole, 3) == pytest.approx(same.epsilon(), rel=2e-2)


def test_means_and_scales_count_a_patient_once() -> None:
    assert patient_epsilon(steps(STATISTICS), 4) > patient_epsilon(PLAN, 4)
    quiet = steps(STATISTICS, noise_multiplier=1000.0)
    alone = PrivacyPlan((STATISTICS,), 1e-5).epsilon()
    assert patient_epsilon(quiet, 4) == pytest.approx(alone, rel=2e-2)


def test_a_monte_carlo_estimate_agrees() -> None:
    """delta(epsilon) is the mean of max(0, 1 - exp(epsilon - loss)) over the runs of a patient of four records."""
    plan = steps(sampling_rate=0.3, noise_multiplier=2.0, times=4, delta=1e-3)
    claimed = patient_epsilon(plan, 4)
    chance = np.random.default_rng(0)
    drawn = chance.binomial(4, 0.3, (400_000, 4))
    seen = drawn + chance.normal(0, 2.0, drawn.shape)
    counts = np.arange(5)
    likely = (stats.binom.pmf(counts, 4, 0.3) * np.exp((counts * seen[..., None] - counts**2 / 2) / 4)).sum(-1)
    loss = np.log(likely).sum(axis=1)

    def delta(epsilon: float) -> float:
        return float(np.maximum(0.0, 1 - np.exp(epsilon - loss)).mean())

    assert delta(claimed) <= 1.1e-3
    assert delta(0.95 * claimed) > 1e-3
