"""Figures of a yes-or-no prediction from histograms of its scores: discrimination, decisions, calibration.

Every function takes sums over patients (..., bins), negatives and positives apart, with bins by rising score, and gives
an array (...), NaN where the sums cannot tell. What noise carried below zero counts as nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

GROUPS = 10  # of about equally many patients, for calibration
STEPS = 25  # of Newton's method: it converges in six where it does at all
STEEPEST = 50.0  # calibration slope beyond which classes are taken for separated


def ratio(part: Any, whole: Any) -> Floats:
    """Return part / whole, NaN where whole is not above zero."""
    whole = np.asarray(whole, dtype=np.float64)
    return np.where(whole > 0, np.asarray(part) / np.where(whole > 0, whole, 1.0), np.nan)


def area_under_roc(negative: Floats, positive: Floats) -> Floats:
    """Return the area under the ROC curve, ties counted half."""
    negative, positive = np.clip(negative, 0, None), np.clip(positive, 0, None)
    below = np.cumsum(negative, axis=-1) - negative
    wins = (positive * (below + 0.5 * negative)).sum(axis=-1)
    return ratio(wins, negative.sum(axis=-1) * positive.sum(axis=-1))


def average_precision(negative: Floats, positive: Floats) -> Floats:
    """Return the area under the precision-recall curve as scikit-learn sums it: precision weighted by gain in recall."""
    true, false = _above(positive), _above(negative)
    gain = ratio((np.clip(positive, 0, None) * np.nan_to_num(ratio(true, true + false))).sum(axis=-1), true[..., 0])
    return np.where(false[..., 0] > 0, gain, np.nan)


def decisions(negative: Floats, positive: Floats, edge: int, threshold: float) -> dict[str, Floats]:
    """Return what comes of acting on every score from bin ``edge`` on, whose lowest probability is ``threshold``."""
    negative, positive = np.clip(negative, 0, None), np.clip(positive, 0, None)
    n, p = negative.sum(axis=-1), positive.sum(axis=-1)
    false, true = negative[..., edge:].sum(axis=-1), positive[..., edge:].sum(axis=-1)
    return {
        "sensitivity": ratio(true, p),
        "specificity": ratio(n - false, n),
        "ppv": ratio(true, true + false),
        "npv": ratio(n - false, n - false + p - true),
        "f1": ratio(2 * true, p + true + false),
        "net_benefit": ratio(true - false * threshold / (1 - threshold), n + p),
    }


def calibration(negative: Floats, positive: Floats, logits: Floats) -> dict[str, Floats]:
    """Return how probabilities agree with what happened (Van Calster et al. 2019, BMC Medicine 17:230).

    ``logits`` are the bins' middles. Intercept and slope are those of a logistic regression of the outcome on the
    logit, the intercept with a slope of 1 (calibration in the large). ``oe`` is observed over expected, ``ece`` the
    mean distance of both in ``GROUPS`` groups of about equally many patients.
    """
    negative, positive = np.clip(negative, 0, None), np.clip(positive, 0, None)
    count, p = negative + positive, positive.sum(axis=-1)
    risk = expit(logits)
    whole = count.sum(axis=-1)
    both = (p > 0) & (p < whole)
    expected = (count * risk).sum(axis=-1)
    shift, _ = _logistic(count, positive, logits, free=False)
    _, slope = _logistic(count, positive, logits, free=True)
    group = np.minimum(
        (GROUPS * (np.cumsum(count, axis=-1) - count / 2) / np.maximum(whole, 1e-9)[..., None]), GROUPS - 1
    )
    gap = np.zeros(whole.shape)
    for index in range(GROUPS):
        here = group.astype(np.int64) == index
        gap = gap + np.abs(((positive - count * risk) * here).sum(axis=-1))
    return {
        "calibration_intercept": np.where(both, shift, np.nan),
        "calibration_slope": np.where(both, slope, np.nan),
        "oe": ratio(p, expected),
        "ece": ratio(gap, whole),
    }


def expit(logits: Floats) -> Floats:
    """Return the probability of a logit, which is held between -30 and 30."""
    return np.asarray(1 / (1 + np.exp(-np.clip(logits, -30, 30))), dtype=np.float64)


def _above(cells: Floats) -> Floats:
    return np.asarray(np.cumsum(np.clip(cells, 0, None)[..., ::-1], axis=-1)[..., ::-1], dtype=np.float64)


def _logistic(count: Floats, positive: Floats, logits: Floats, *, free: bool) -> tuple[Floats, Floats]:
    """Fit ``logit p = a + b logit`` by Newton's method with halved steps; b stays 1 unless ``free``. NaN if it diverges."""
    shape = count.shape[:-1]
    a, b = np.zeros(shape), np.ones(shape)

    def loss(a: Floats, b: Floats) -> Floats:
        eta = np.clip(a[..., None] + b[..., None] * logits, -30, 30)
        return np.asarray((count * np.logaddexp(0.0, eta) - positive * eta).sum(axis=-1))

    now = loss(a, b)
    for _ in range(STEPS):
        p = expit(a[..., None] + b[..., None] * logits)
        miss, weight = positive - count * p, count * p * (1 - p)
        g0, h00 = miss.sum(axis=-1), weight.sum(axis=-1) + 1e-9
        if free:
            g1, h01, h11 = ((part * logits).sum(axis=-1) for part in (miss, weight, weight * logits))
            h11 = h11 + 1e-9
            size = h00 * h11 - h01**2
            size = np.where(size > 1e-12, size, np.inf)
            da, db = (h11 * g0 - h01 * g1) / size, (h00 * g1 - h01 * g0) / size
        else:
            da, db = g0 / h00, np.zeros(shape)
        step = np.ones(shape)
        for _ in range(6):
            worse = loss(a + step * da, b + step * db) > now + 1e-12 * np.abs(now)
            if not worse.any():
                break
            step = np.where(worse, step / 2, step)
        a, b = np.clip(a + step * da, -60, 60), np.clip(b + step * db, -2 * STEEPEST, 2 * STEEPEST)
        now = loss(a, b)
        if np.abs(step * da).max(initial=0) + np.abs(step * db).max(initial=0) < 1e-9:
            break
    lost = (np.abs(a) >= 30) | (np.abs(b) >= STEEPEST)
    return np.where(lost, np.nan, a), np.where(lost, np.nan, b)
