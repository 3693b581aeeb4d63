"""Figures of a finished model, computed from sums, against scikit-learn on the scores as the histogram holds them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from sklearn import metrics
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression
from test_tasks import OUTCOMES, drawn, task_of

from pmfed.study.outcomes import outcome_of
from pmfed.tasks.binary import Binary
from pmfed.tasks.multiclass import Multiclass
from pmfed.tasks.scores import GROUPS, calibration
from pmfed.tasks.survival import Survival, kaplan_meier
from pmfed.tasks.task import intervals


def held(task: Binary, outputs: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    """Return logits as the histogram holds them: the middles of their bins."""
    return np.asarray(task.logits[np.clip(((outputs[:, 0] + 10) / 20 * task.bins).astype(int), 0, task.bins - 1)])


@pytest.mark.parametrize("baseline", [0.5, 0.3, 0.05, None])
@pytest.mark.parametrize("coarse", [False, True])
def test_a_yes_or_no_is_judged_as_scikit_learn_does(baseline: float | None, coarse: bool) -> None:
    outputs, truth = drawn("binary", 4000, 1)
    outputs, truth = outputs * 1.4 - 0.7, truth.astype(np.float64)  # neither slope nor intercept is right
    task = Binary(outcome_of(column="y", task="binary", classes=("no", "yes"), baseline=baseline), coarse)
    found = task.detail(task.rows(outputs, truth).sum(axis=0))
    logits = held(task, outputs)
    risk = 1 / (1 + np.exp(-logits))
    said = risk >= task.threshold
    assert (
        abs(math.log(task.threshold / (1 - task.threshold)) - math.log((baseline or 0.5) / (1 - (baseline or 0.5))))
        <= 10 / task.bins
    )
    assert f"at {task.threshold:.2g}" in next(m.label for m in task.details if m.name == "sensitivity")
    assert found["auprc"] == pytest.approx(metrics.average_precision_score(truth, risk))
    assert found["sensitivity"] == pytest.approx(metrics.recall_score(truth, said))
    assert found["specificity"] == pytest.approx(metrics.recall_score(truth, said, pos_label=0))
    assert found["ppv"] == pytest.approx(metrics.precision_score(truth, said))
    assert found["npv"] == pytest.approx(metrics.precision_score(truth, said, pos_label=0))
    assert found["f1"] == pytest.approx(metrics.f1_score(truth, said))
    assert found["no_information"] == pytest.approx(max(truth.mean(), 1 - truth.mean()))
    assert found["log_loss"] == pytest.approx(metrics.log_loss(truth, risk))
    constant = metrics.brier_score_loss(truth, np.full(len(truth), truth.mean()))
    assert found["brier_skill"] == pytest.approx(1 - metrics.brier_score_loss(truth, risk) / constant)
    odds = task.threshold / (1 - task.threshold)
    benefit = ((said & (truth > 0)).sum() - (said & (truth == 0)).sum() * odds) / len(truth)
    assert found["net_benefit"] == pytest.approx(benefit)
    assert found["oe"] == pytest.approx(truth.sum() / risk.sum())
    fit = LogisticRegression(C=np.inf, tol=1e-10, max_iter=500).fit(logits[:, None], truth)
    assert found["calibration_slope"] == pytest.approx(fit.coef_[0, 0], rel=1e-4)
    shift = minimize_scalar(lambda a: (np.logaddexp(0, logits + a) - truth * (logits + a)).sum(), tol=1e-10).x
    assert found["calibration_intercept"] == pytest.approx(shift, abs=1e-5)


def test_the_calibration_error_is_the_mean_distance_of_equal_groups() -> None:
    """Scores that fill ten bins equally, so that groups are the same however they are cut."""
    random, task = np.random.default_rng(0), Binary(OUTCOMES["binary"])
    logits = np.repeat(np.linspace(-3, 3, GROUPS), 300)
    truth = (random.random(len(logits)) < 1 / (1 + np.exp(-0.6 * logits - 0.4))).astype(float)
    found = task.detail(task.rows(logits[:, None], truth).sum(axis=0))
    risk = 1 / (1 + np.exp(-held(task, logits[:, None])))
    observed, predicted = calibration_curve(truth, risk, n_bins=GROUPS, strategy="quantile")
    assert found["ece"] == pytest.approx(np.abs(observed - predicted).mean())


@pytest.mark.parametrize("spoil", ["separated", "one class", "nobody", "one score"])
def test_what_cannot_be_told_is_nan_and_no_warning(spoil: str) -> None:
    task = Binary(OUTCOMES["binary"])
    logits, truth = np.linspace(-4, 4, 60)[:, None], (np.arange(60) >= 30).astype(float)
    if spoil == "one class":
        truth = truth * 0
    if spoil == "nobody":
        logits, truth = logits[:0], truth[:0]
    if spoil == "one score":
        logits = logits * 0 + 0.5
    with np.errstate(all="raise"):
        found = task.detail(task.rows(logits, truth).sum(axis=0))
    assert np.isnan(found["calibration_slope"]) == (spoil != "one score")
    assert np.isnan(found["calibration_intercept"]) == (spoil in ("one class", "nobody"))
    assert np.isnan(found["oe"]) == (spoil == "nobody")
    assert np.isnan(found["auprc"]) == (spoil in ("one class", "nobody"))


def test_many_sums_at_once_are_each_alone() -> None:
    task, random = Binary(OUTCOMES["binary"], coarse=True), np.random.default_rng(4)
    sums = random.poisson(4, (3, 5, task.cells)).astype(float)
    whole = calibration(sums[..., : task.bins], sums[..., task.bins :], task.logits)
    for key, values in whole.items():
        assert values.shape == (3, 5)
        alone = calibration(sums[1, 2, : task.bins], sums[1, 2, task.bins :], task.logits)[key]
        assert values[1, 2] == pytest.approx(alone, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("coarse", [False, True])
def test_several_classes_are_judged_as_scikit_learn_does(coarse: bool) -> None:
    outputs, truth = drawn("multiclass", 4000, 2)
    task = Multiclass(OUTCOMES["multiclass"], coarse)
    found = task.detail(task.rows(outputs, truth).sum(axis=0))
    said = outputs.argmax(axis=1)
    share = torch.softmax(torch.tensor(outputs), 1).numpy()
    logits = np.log(share / (1 - share))
    risk = 1 / (1 + np.exp(-task.logits[((np.clip(logits, -10, 10) + 10) / 20 * task.bins).astype(int)]))
    assert found["no_information"] == pytest.approx(np.bincount(truth).max() / len(truth))
    assert found["macro_f1"] == pytest.approx(metrics.f1_score(truth, said, average="macro"))
    assert found["kappa"] == pytest.approx(metrics.cohen_kappa_score(truth, said))
    one_hot = np.eye(3)[truth]
    assert found["brier"] == pytest.approx(((risk - one_hot) ** 2).sum(axis=1).mean())
    assert found["auprc"] == pytest.approx(metrics.average_precision_score(one_hot, risk))
    for place, name in enumerate("abc"):
        mine, told = truth == place, said == place
        assert found[f"sensitivity_{name}"] == pytest.approx(metrics.recall_score(mine, told))
        assert found[f"specificity_{name}"] == pytest.approx(metrics.recall_score(~mine, ~told))
        assert found[f"ppv_{name}"] == pytest.approx(metrics.precision_score(mine, told))
        assert found[f"f1_{name}"] == pytest.approx(metrics.f1_score(mine, told))
        assert found[f"auroc_{name}"] == pytest.approx(metrics.roc_auc_score(mine, risk[:, place]))
        assert found[f"oe_{name}"] == pytest.approx(mine.sum() / risk[:, place].sum())


@pytest.mark.parametrize("name", ["regression", "sqrt", "log"])
def test_the_median_error_is_that_of_the_patients(name: str) -> None:
    outputs, truth = drawn(name, 2000, 3)
    task = task_of(name)
    found = task.detail(task.rows(outputs, truth).sum(axis=0))
    predicted = task.predict(outputs)  # type: ignore[attr-defined]
    assert found["medae"] == pytest.approx(metrics.median_absolute_error(truth, predicted), rel=0.02)


def test_observed_over_expected_risk_is_kaplan_meier_s() -> None:
    outputs, outcomes = drawn("survival", 3000, 5)
    task = Survival(OUTCOMES["survival"])
    total = task.rows(outputs, outcomes).sum(axis=0)
    found = task.detail(total)
    counts = total[: task.counted].reshape(task.scores, task.times, 2).sum(axis=0)
    seen = 1 - kaplan_meier(counts[:, 0], counts[:, 1])[(task.at + 1) * task.parts - 1]
    risk = 1 - task.predict(outputs)[:, task.at].mean()
    assert found["observed_risk"] == pytest.approx(seen)
    assert found["expected_risk"] == pytest.approx(risk, abs=0.01)
    assert found["oe"] == pytest.approx(seen / risk, rel=0.03)


@pytest.mark.parametrize("name", OUTCOMES)
def test_every_detail_is_told_and_nothing_else(name: str) -> None:
    task, random = task_of(name), np.random.default_rng(9)
    outputs, truth = drawn(name, 200, 9)
    total = task.rows(outputs, truth).sum(axis=0)
    names = {metric.name for metric in task.details}
    assert set(task.detail(total)) == names
    assert not names & {metric.name for metric in task.metrics}
    noisy = total + random.normal(0, 0.5, task.cells)
    with np.errstate(all="raise"):
        assert set(task.detail(noisy)) == names
        around = intervals(task, [noisy], draws=50, noise=0.5, detailed=True)
    assert set(around) <= names | {metric.name for metric in task.metrics}
    assert all(low <= high for low, high in around.values())
    assert all(np.isnan(value) for value in task.detail(np.zeros(task.cells)).values())


def test_the_interval_of_a_slope_is_that_of_its_standard_error() -> None:
    outputs, truth = drawn("binary", 3000, 8)
    task = Binary(OUTCOMES["binary"])
    low, high = intervals(task, [task.rows(outputs, truth).sum(axis=0)], detailed=True)["calibration_slope"]
    logits = outputs[:, 0]
    fit = LogisticRegression(C=np.inf, tol=1e-10).fit(outputs, truth)
    risk = fit.predict_proba(outputs)[:, 1]
    design = np.column_stack([np.ones(len(logits)), logits])
    error = np.sqrt(np.linalg.inv((design * (risk * (1 - risk))[:, None]).T @ design)[1, 1])
    assert (low, high) == pytest.approx((fit.coef_[0, 0] - 1.96 * error, fit.coef_[0, 0] + 1.96 * error), abs=0.015)
