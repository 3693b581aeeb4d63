"""The statistics of the audit: right on what is right, loud on what is not, and never sure of too much."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from pmfed.privacy.audit import (
    Audit,
    Canaries,
    Check,
    attack,
    attack_check,
    canary_checks,
    independence_check,
    lower_bound,
    noise_check,
    p_value,
    sensitivity_check,
    site_std,
)
from pmfed.privacy.mechanism import Mechanism
from pmfed.privacy.plan import PrivacyPlan

STEP = Mechanism(
    query="step", role="train", unit="patient", sampling_rate=0.2, noise_multiplier=3.0, bound=2.0, times=100, sites=5,
    colluders=1,
)  # fmt: skip
DELTA = 1e-5


def canaries(
    chance: np.random.Generator, *, rate: float = 0.2, noise: float = 3.0, length: int = 300, fixed: bool = False
) -> Canaries:
    """Play a mechanism that draws canaries at ``rate`` and adds ``noise``, in clips."""
    directions = chance.normal(size=(500, length))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    included = chance.random(500) < 0.5
    drawn = (chance.random((STEP.times, 500)) < rate) & included
    added = chance.normal(0, noise, (1 if fixed else STEP.times, length))
    return Canaries(directions, included, drawn @ directions + added, 1, 0.0)


def test_the_share_of_a_site_is_computed_from_the_mechanism_s_numbers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Mechanism, "_scale", lambda *_: 0.0)
    monkeypatch.setattr(Mechanism, "noise_std", lambda *_: 0.0)
    monkeypatch.setattr(Mechanism, "local_std", 0.0)
    assert site_std(STEP) == pytest.approx(3.0 * 2.0 / 2.0)
    assert site_std(replace(STEP, shared=False), local_steps=4) == pytest.approx(3.0 * 2.0 * 2.0)


# -- the lower bound ------------------------------------------------------------------------------------------------


def test_without_delta_the_p_value_is_that_of_randomised_response() -> None:
    for epsilon, right in ((0.0, 60), (1.0, 80), (3.0, 99)):
        chance = math.exp(epsilon) / (1 + math.exp(epsilon))
        expected = float(stats.binom.sf(right - 1, 100, chance))
        assert p_value(100, 100, right, epsilon, 0.0) == pytest.approx(expected)


def test_delta_can_only_make_the_auditor_less_sure() -> None:
    told = [p_value(500, 100, 90, 1.0, delta) for delta in (0.0, 1e-6, 1e-4, 1e-2)]
    assert told == sorted(told)
    assert told[0] < told[-1]
    # From the definition: alpha is the largest over i of P[right - i <= W < right] / i.
    pmf = [float(stats.binom.pmf(k, 100, 1 / (1 + math.exp(-1.0)))) for k in range(101)]
    alpha = max(sum(pmf[90 - i : 90]) / i for i in range(1, 91))
    assert told[2] == pytest.approx(sum(pmf[90:]) + 2 * 500 * 1e-4 * alpha)


def test_all_guesses_right_shows_what_can_be_shown() -> None:
    bound = lower_bound(200, 200, 200, 0.0)
    assert (1 / (1 + math.exp(-bound))) ** 200 == pytest.approx(0.05, rel=1e-6)
    assert lower_bound(200, 100, 50, 0.0) == 0.0
    with pytest.raises(ValueError, match="guesses"):
        p_value(10, 5, 6, 1.0, 0.0)


@pytest.mark.parametrize("epsilon", [0.5, 2.0])
def test_the_bound_is_wrong_no_more_often_than_it_says(epsilon: float) -> None:
    """Randomised response meets epsilon exactly: the worst case for the auditor."""
    chance = np.random.default_rng(5)
    right = chance.binomial(300, 1 / (1 + math.exp(-epsilon)), size=4000)
    worth = {int(count): lower_bound(300, 300, int(count), 1e-6) for count in np.unique(right)}
    wrong = np.mean([worth[int(count)] > epsilon for count in right])
    assert wrong < 0.06
    assert wrong > 0.01  # nor is it idle


# -- noise ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", [1e-3, 8.0])
def test_right_noise_passes_and_a_tenth_too_little_does_not(unit: float) -> None:
    noise = np.random.default_rng(1).normal(0, 4.0, (2, 50, 200))
    rounded = np.rint(noise / unit) * unit
    assert noise_check("noise", {"a": rounded}, 4.0, unit).passed
    for wrong in (1 / 1.1, 1.1, 0.0, math.nan):
        assert not noise_check("noise", {"a": np.rint(noise * wrong / unit) * unit}, 4.0, unit).passed


def test_a_small_part_without_noise_does_not_hide_among_others() -> None:
    noise = np.random.default_rng(1).normal(0, 4.0, (2, 20, 5000))
    blocks = {"weight": noise, "bias": noise[:, :, :1] * 0}
    assert not noise_check("noise", blocks, 4.0, 1e-3).passed


def test_noise_that_comes_back_is_found_after_any_number_of_steps_and_at_another_site() -> None:
    first, second = np.random.default_rng(2).normal(size=(2, 12, 400))
    assert independence_check(first, second).passed
    for period in (1, 2, 3, 6):
        again = np.tile(first[:period], (12 // period, 1))
        assert not independence_check(again, second).passed
        assert not independence_check(second, again).passed
    assert not independence_check(first, first).passed
    assert not independence_check(first, first / 2 + second).passed
    assert not independence_check(np.repeat(first[:, ::2], 2, axis=1), second).passed
    assert not independence_check(first * 0, second * 0).passed
    assert not independence_check(first * math.nan, second).passed


# -- one patient ----------------------------------------------------------------------------------------------------


def test_a_patient_may_weigh_one_clip_and_speak_for_itself_only() -> None:
    fine, none = np.array([0.3, 2.0]), np.zeros(2)
    assert sensitivity_check(fine, none, 2.0).passed
    assert not sensitivity_check(fine * 1.001, none, 2.0).passed
    assert not sensitivity_check(np.array([0.3, math.nan]), none, 2.0).passed
    mixing = sensitivity_check(fine, np.array([0.0, 0.1]), 2.0)
    assert not mixing.passed
    assert "through other patients" in mixing.found


# -- canaries -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [12, 300])
def test_the_z_of_a_correct_mechanism_are_standard_normal(length: int) -> None:
    chance = np.random.default_rng(8)
    found = [canary_checks(canaries(chance, length=length), STEP) for _ in range(40)]
    for place in (0, 1):
        z = np.array([float(checks[place].found.partition("z = ")[2].rstrip(")")) for checks in found])
        assert abs(z.mean()) < 0.5
        assert 0.7 < z.std() < 1.35
        assert all(checks[place].passed for checks in found)


@pytest.mark.parametrize(
    ("wrong", "place"),
    [
        ({"rate": 0.3}, 0),
        ({"rate": 0.1}, 0),
        ({"noise": 3 / 1.4}, 1),
        ({"noise": 0.0}, 1),
        ({"noise": 4.0}, 1),
        ({"noise": math.nan}, 1),
    ],
)
def test_a_mechanism_of_another_rate_or_noise_is_an_alarm(wrong: dict[str, float], place: int) -> None:
    assert not canary_checks(canaries(np.random.default_rng(4), **wrong), STEP)[place].passed


def test_noise_that_is_the_same_every_step_shows_in_the_canaries() -> None:
    found = [canary_checks(canaries(np.random.default_rng(seed), fixed=True), STEP)[0].passed for seed in range(8)]
    assert sum(found) <= 5  # the sum then has ten times the noise: z is beyond 4 about two times in three


def test_steps_within_a_release_count_as_steps() -> None:
    three = canaries(np.random.default_rng(6))
    releases = three.releases[:99].reshape(33, 3, -1).sum(axis=1)
    assert all(check.passed for check in canary_checks(replace(three, releases=releases, steps=3), STEP))
    assert not any(check.passed for check in canary_checks(replace(three, releases=releases, steps=1), STEP))


def test_the_attack_finds_everything_without_noise_and_stays_below_a_true_claim() -> None:
    chance = np.random.default_rng(7)
    bound, most = attack(canaries(chance, noise=1e-3, length=1500), STEP, DELTA)
    assert bound > 0.9 * most
    assert most > 1.5
    claimed = PrivacyPlan((STEP,), DELTA).epsilon()
    found = [attack(canaries(chance), STEP, DELTA)[0] for _ in range(20)]
    assert 0 < max(found) <= claimed
    assert attack_check(claimed, most, claimed).passed
    assert not attack_check(claimed + 0.01, most, claimed).passed
    assert not attack_check(math.nan, most, claimed).passed


# -- the verdict ----------------------------------------------------------------------------------------------------


def test_the_verdict_names_every_alarm_and_calls_the_record_unit_weaker() -> None:
    good, bad = Check("noise", "", "", True), Check("strength of the canaries", "", "", False)
    fine = Audit((good,), 2.0, 1e-5, "patient", 0.3, 4.0)
    assert not fine.alarms
    assert "epsilon 2" in fine.verdict
    assert "weaker" not in fine.verdict
    assert "weaker" in replace(fine, unit="record").verdict
    alarm = replace(fine, checks=(good, bad))
    assert alarm.alarms == (bad,)
    assert "strength of the canaries" in alarm.verdict
