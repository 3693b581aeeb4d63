"""Spread between hospitals: against a published meta-analysis, by simulation, and paired differences that are paired."""

from __future__ import annotations

import numpy as np
import pytest
from pmfed_server.spread import across_sites, paired, random_effects

from pmfed.study.outcomes import outcome_of
from pmfed.tasks.binary import Binary
from pmfed.tasks.task import intervals, measured

TASK = Binary(outcome_of(column="y", task="binary", classes=("no", "yes"), baseline=0.3))

# Thirteen trials of BCG against tuberculosis (Colditz et al. 1994): log risk ratios and their variances.
BCG = (
    -0.8893,
    -1.5854,
    -1.3481,
    -1.4416,
    -0.2175,
    -0.7861,
    -1.6209,
    0.0120,
    -0.4694,
    -1.3713,
    -0.3394,
    0.4459,
    -0.0173,
)
VARIANCES = (0.3256, 0.1946, 0.4154, 0.0200, 0.0512, 0.0069, 0.2230, 0.0040, 0.0564, 0.0730, 0.0124, 0.5325, 0.0714)


def test_the_summary_is_that_of_a_published_meta_analysis() -> None:
    found = random_effects(BCG, np.sqrt(VARIANCES))
    assert found["mean"] == pytest.approx(-0.7141, abs=1e-3)
    assert found["tau"] ** 2 == pytest.approx(0.3088, abs=1e-3)
    assert found["predicted_low"] < found["low"] < found["mean"] < found["high"] < found["predicted_high"]


def test_intervals_hold_what_they_say_they_hold() -> None:
    random, inside, predicted = np.random.default_rng(0), 0, 0
    for _ in range(400):
        errors = random.uniform(0.2, 0.5, 8)
        truth = random.normal(1.0, 0.4, 9)
        found = random_effects(random.normal(truth[:8], errors), errors)
        inside += found["low"] <= 1.0 <= found["high"]
        predicted += found["predicted_low"] <= truth[8] <= found["predicted_high"]
    assert 370 <= inside <= 396  # of 400
    assert 370 <= predicted <= 398


def test_few_sites_and_sites_at_the_end_of_the_scale_say_nothing() -> None:
    line = {"auroc": 0.8, "auroc_low": 0.7, "auroc_high": 0.88}
    sites = {f"s{k}": dict(line) for k in range(6)}
    found = across_sites("auroc", sites)
    assert found is not None
    assert (found["sites"], found["left_out"]) == (6, 0)
    assert found["mean"] == pytest.approx(0.8)
    sites["s0"] = {"auroc": 1.0, "auroc_low": 1.0, "auroc_high": 1.0}
    sites["s7"] = {"auroc": None}
    found = across_sites("auroc", sites)
    assert found is not None
    assert (found["sites"], found["left_out"]) == (5, 2)
    assert across_sites("auroc", {name: sites[name] for name in list(sites)[:5]}) is None
    assert across_sites("auroc", {}) is None


def lines(spread: float, gap: float) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:  # type: ignore[type-arg]
    """Return two models' sums at twelve sites that differ much; the second model's scores are noisier by ``gap``."""
    random, one, other = np.random.default_rng(3), {}, {}
    for site in range(12):
        truth = (random.random(250) < 0.3).astype(float)
        signal = (1.5 + spread * random.normal()) * truth + random.normal(0, 1, 250) - 1
        one[f"s{site}"] = TASK.rows(signal[:, None], truth).sum(axis=0)
        other[f"s{site}"] = TASK.rows((signal + gap * random.normal(0, 1, 250))[:, None], truth).sum(axis=0)
    return one, other


def test_a_paired_difference_is_narrower_than_two_intervals_apart() -> None:
    one, other = lines(0.8, 0.4)
    found = paired(TASK, "auroc", one, other, "patients")
    assert found is not None
    apart = [intervals(TASK, [np.sum(list(line.values()), axis=0)])["auroc"] for line in (one, other)]
    assert found["high"] - found["low"] < 0.6 * sum(high - low for low, high in apart)
    assert 0 < found["low"] <= found["value"] <= found["high"]
    assert apart[0][0] < apart[1][1]  # the two intervals overlap, and the difference is clear all the same


@pytest.mark.parametrize("average", ["patients", "sites"])
def test_the_difference_is_that_of_the_figures_and_its_error_the_jackknife_s(average: str) -> None:
    one, other = lines(0.6, 0.3)
    other["s3"] = one["s3"] = TASK.rows(np.zeros((9, 1)), np.zeros(9)).sum(axis=0)  # one class: tells no AUROC

    def gap(names: list[str]) -> float:
        sums = [[line[name] for name in names] for line in (one, other)]
        both = [measured(TASK, part if average == "sites" else [np.sum(part, axis=0)])["auroc"] for part in sums]
        return float(both[0] - both[1])

    found, names = paired(TASK, "auroc", one, other, average), list(one)
    assert found is not None
    assert found["value"] == pytest.approx(gap(names), abs=1e-6)
    left = np.array([gap([name for name in names if name != out]) for out in names])
    error = np.sqrt(11 / 12 * ((left - left.mean()) ** 2).sum())
    assert found["high"] - found["value"] == pytest.approx(2.20098516 * error, rel=1e-4)


def test_a_model_beside_itself_differs_by_nothing() -> None:
    one, _ = lines(0.8, 0.0)
    assert paired(TASK, "auroc", one, one, "patients") == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert paired(TASK, "auroc", one, one, "sites") == {"value": 0.0, "low": 0.0, "high": 0.0}


@pytest.mark.parametrize("average", ["patients", "sites"])
def test_few_sites_are_paired_over_their_folds(average: str) -> None:
    """Of three sites with four folds each: what is left out is a fold of one site."""
    places = {f"s{place}": f"{'abc'[place % 3]}/{place // 3}" for place in range(12)}
    one, other = ({places[name]: total for name, total in line.items()} for line in lines(0.6, 0.3))

    def gap(names: list[str]) -> float:
        both = []
        for line in (one, other):
            sites = [np.sum([line[name] for name in names if name[0] == site], axis=0) for site in "abc"]
            both.append(measured(TASK, sites if average == "sites" else [np.sum(sites, axis=0)])["auroc"])
        return float(both[0] - both[1])

    found, names = paired(TASK, "auroc", one, other, average), list(one)
    assert found is not None
    assert found["value"] == pytest.approx(gap(names), abs=1e-6)
    left = np.array([gap([name for name in names if name != out]) for out in names])
    error = np.sqrt(11 / 12 * ((left - left.mean()) ** 2).sum())
    assert found["high"] - found["value"] == pytest.approx(2.20098516 * error, abs=2e-6)


def test_other_sites_or_too_few_cannot_be_paired() -> None:
    one, other = lines(0.5, 0.2)
    assert paired(TASK, "auroc", one, {**other, "more": other["s0"]}, "patients") is None
    few = [{name: line[name] for name in ("s0", "s1", "s2", "s3")} for line in (one, other)]
    assert paired(TASK, "auroc", *few, "patients") is None
