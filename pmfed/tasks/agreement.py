"""The flexible calibration curve: what happened against what was predicted, without taking it for a straight line.

A logistic regression of the outcome on a restricted cubic spline of the predicted logit (Austin and Steyerberg 2014,
Statistics in Medicine 33:517), from histograms of scores as `scores` reads them. The band is a parametric bootstrap: patients
are drawn again over the cells, noise is added again.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pmfed.tasks.scores import expit
from pmfed.tasks.task import nonnegative, redraw

Floats = npt.NDArray[np.float64]

KNOTS = (0.05, 0.35, 0.65, 0.95)  # shares of patients below, after Harrell
FEWEST = 10.0  # events, and others, below which no curve is told
POINTS = 40
ENDS = (0.01, 0.99)  # shares of patients between whose predictions the curve is told
RIDGE = 0.1  # of a coefficient, in patients: only where classes are separated does it matter
CLEAR = 2.0 * 2**0.5  # standard deviations of the noise in a cell, above which a bin of two cells holds patients
STEPS = 30
DRAWS = 300


def flexible_curve(negative: Floats, positive: Floats, logits: Floats, *, noise: float = 0.0) -> list[dict[str, float]]:
    """Return the curve as points ``predicted``, ``observed``, ``low`` and ``high`` (95 %, point by point).

    Parameters
    ----------
    negative, positive
        (bins,) patients without and with the event, by rising score.
    logits
        The bins' middles.
    noise
        Standard deviation of the noise in each cell.

    Returns
    -------
    list of dict
        Empty where there are fewer than ten of either.
    """
    cells = nonnegative(np.concatenate([negative, positive]))
    told = _told(cells[None], noise)
    if told.sum(axis=-1).min() < FEWEST:
        return []
    count = told[0].sum(axis=0)
    basis = _spline(logits, _quantiles(logits, count, KNOTS))
    low, high = _quantiles(logits, count, ENDS)
    if high <= low:
        return []
    at = np.linspace(low, high, POINTS)
    shown = np.column_stack([np.interp(at, logits, column) for column in basis.T])
    random = np.random.default_rng(0)
    drawn = redraw(cells, DRAWS, random)
    if noise > 0:
        drawn = np.stack([nonnegative(one) for one in drawn + random.normal(0.0, noise, drawn.shape)])
    every = np.concatenate([told, _told(drawn, noise)])
    curves = expit(_fitted(every[:, 0], every[:, 1], basis) @ shown.T)
    lows, highs = np.percentile(curves[1:], [2.5, 97.5], axis=0)
    return [
        {"predicted": round(float(p), 5), "observed": round(float(o), 5), "low": round(float(a), 5), "high": round(float(b), 5)}
        for p, o, a, b in zip(expit(at), curves[0], lows, highs, strict=True)
    ]  # fmt: skip


def _told(cells: Floats, noise: float) -> Floats:
    """Return cells (draws, 2, bins) without the bins that hold no more than noise would put there."""
    pairs = cells.reshape(len(cells), 2, -1)
    return np.where(pairs.sum(axis=1, keepdims=True) > CLEAR * noise, pairs, 0.0)


def _quantiles(logits: Floats, count: Floats, shares: tuple[float, ...]) -> Floats:
    """Return the logits below which these shares of patients lie, spread evenly within a bin."""
    upto = np.cumsum(count) - count / 2
    return np.asarray(np.interp(np.array(shares) * count.sum(), upto, logits), dtype=np.float64)


def _spline(logits: Floats, knots: Floats) -> Floats:
    """Return the basis (bins, 2 + knots - 2): one, the logit, and cubic parts that are straight beyond the outer knots."""
    columns = [np.ones_like(logits), logits]
    knots = np.unique(knots.round(6))
    if len(knots) >= 3:
        last, before, width = knots[-1], knots[-2], knots[-1] - knots[0]

        def cube(at: float) -> Floats:
            return np.asarray(np.clip((logits - at) / width, 0.0, None) ** 3, dtype=np.float64)

        for knot in knots[:-2]:
            straight = (cube(before) * (last - knot) - cube(last) * (before - knot)) / (last - before)
            columns.append(cube(knot) - straight)
    return np.column_stack(columns)


def _fitted(negative: Floats, positive: Floats, basis: Floats) -> Floats:
    """Return the coefficients (draws, columns) of logistic regressions of counts (draws, bins), by Newton's method."""
    count = negative + positive
    right = np.zeros((len(count), basis.shape[1]))
    right[:, 1] = 1.0  # probabilities as they were predicted: where the ridge draws to
    ridge = np.full(basis.shape[1], RIDGE)
    ridge[0] = 1e-6

    def loss(beta: Floats) -> Floats:
        eta = np.clip(beta @ basis.T, -30, 30)
        misfit = (count * np.logaddexp(0.0, eta) - positive * eta).sum(axis=1)
        return np.asarray(misfit + 0.5 * (ridge * (beta - right) ** 2).sum(axis=1))

    beta = right.copy()
    now = loss(beta)
    for _ in range(STEPS):
        p = expit(beta @ basis.T)
        slope = (positive - count * p) @ basis - ridge * (beta - right)
        weight = count * p * (1 - p)
        curve = np.stack([basis.T @ (basis * one[:, None]) for one in weight]) + np.diag(ridge + 1e-9)
        step = np.linalg.solve(curve, slope[..., None])[..., 0]
        size = np.ones(len(beta))
        for _ in range(8):
            worse = loss(beta + size[:, None] * step) > now + 1e-9
            if not worse.any():
                break
            size = np.where(worse, size / 2, size)
        beta = beta + size[:, None] * step
        now, before = loss(beta), now
        if np.abs(before - now).max() < 1e-7:
            break
    return beta
