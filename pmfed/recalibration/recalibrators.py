"""What a patient adds to the sum from which a line is fitted, and the line that fits it best: one class per kind of output.

A site adds up bounded rows; the coordinator fits the noised sum, knowing how much noise is in it. Scores are bounded first:
they count as at most ``REACH`` away from what a model says that knows only the public baseline.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pmfed.recalibration.line import SHIFTS, STRETCHES, Floats, Line, posterior_mean

REACH = 4.0  # of a logit around the public baseline's
BINS = 8
WIDTH = 2 * REACH / BINS
BELL = 1.5  # standard deviation of scores, as far as anybody knows before
LONGEST = 1.0  # expected events up to which a patient is followed
CURVE = 0.5  # variance of logits within a patient's classes, as far as anybody knows before
RANGE = 3.0  # most that a class's logit may stand out among the classes'


class Recalibrator(Protocol):
    """One kind of output.

    Attributes
    ----------
    size
        Length of a row.
    bound
        L2 norm that no row exceeds.
    """

    size: int
    bound: float

    def rows(self, outputs: Floats, values: NDArray[np.float64]) -> Floats:
        """Return what each record adds, (records, size), from outputs (records, out) and outcomes in natural units."""
        ...

    def fit(self, total: Floats, noise: float, patients: float) -> Line:
        """Return the line from a sum over about so many patients with noise of this standard deviation in every number."""
        ...


class Logistic:
    """One output, the logit of the second of two classes: a histogram of scores by outcome, one cell per record.

    Notes
    -----
    In a bin of score z with n0 and n1 records, ``n1 (1 - p) - n0 p`` is 0 on average at the right p, noised or not; its
    variance is that of the outcomes and of the noise. Bins with few records but noise so weigh little.
    """

    bound = 1.0

    def __init__(self, baseline: float) -> None:
        self.centre = float(np.log(baseline / (1 - baseline)))
        self.size = 2 * BINS

    def rows(self, outputs: Floats, values: NDArray[np.float64]) -> Floats:
        place = _bin(outputs[:, 0] - self.centre) + BINS * (np.asarray(values) > 0.5)
        return np.asarray(np.eye(self.size)[place], dtype=np.float64)

    def fit(self, total: Floats, noise: float, patients: float) -> Line:
        negative, positive = total[:BINS], total[BINS:]
        expected = patients * _bell()
        count = _counted(negative + positive, expected, noise * np.sqrt(2))
        p = 1 / (1 + np.exp(-self.centre - _lines(_middles(count))))
        shift, slope = _best(positive, negative, p, 1 - p, count * p * (1 - p), expected, noise)
        return Line((shift + (1 - slope) * self.centre,), slope)


class Hazards:
    """One output per interval, the logit of the hazard there: by bin of risk, events and events expected.

    A patient is followed until more than ``LONGEST`` events were expected of him. When to stop depends on the model alone, so
    what is seen and what is expected still agree on average.

    Parameters
    ----------
    hazards
        Public baseline of the hazard in every interval.
    at
        The interval that ends at the horizon.
    pieces
        Turns outcomes into what was lived through and where the event came, (records, 2, intervals).

    Notes
    -----
    Crowson, Atkinson, Therneau (2016), Statistical Methods in Medical Research 25:1692: events against expected ones, by
    Poisson's likelihood. A shift of the logits multiplies hazards, while they are small.
    """

    bound = float(np.hypot(1.0, LONGEST))

    def __init__(
        self, hazards: Sequence[float], at: int, pieces: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    ) -> None:
        share = np.asarray(hazards, dtype=np.float64)
        self.logits = np.log(share / (1 - share))
        self.at, self.pieces = at, pieces
        self.size = 2 * BINS

    def rows(self, outputs: Floats, values: NDArray[np.float64]) -> Floats:
        lived, failed = np.moveaxis(np.asarray(self.pieces(values), dtype=np.float64), 1, 0)
        expected = (lived + failed) / (1 + np.exp(-np.clip(outputs, -30, 30)))
        followed = np.cumsum(expected, axis=1) <= LONGEST
        place = _bin(np.log(self._risk(outputs) / self._risk(self.logits[None])))
        rows = np.zeros((len(outputs), self.size))
        record = np.arange(len(outputs))
        rows[record, place] = (failed * followed).sum(axis=1)
        rows[record, BINS + place] = (expected * followed).sum(axis=1)
        return rows

    def fit(self, total: Floats, noise: float, patients: float) -> Line:
        events, seen = total[:BINS], total[BINS:]
        risk = float(self._risk(self.logits[None])[0])
        expected = patients * min(risk, LONGEST) * _bell()
        count = _counted(seen, expected, noise)
        factor = np.exp(SHIFTS[:, None, None] + (np.exp(STRETCHES)[:, None] - 1) * _middles(count))
        shift, slope = _best(events, seen, factor, 1.0, factor * count, expected, noise)
        return Line(tuple(float(one) for one in shift + (1 - slope) * self.logits), slope)

    def _risk(self, outputs: Floats) -> Floats:
        """Return the cumulative hazard by the horizon."""
        return np.asarray(np.logaddexp(0.0, np.clip(outputs[:, : self.at + 1], -30, 30)).sum(axis=1), dtype=np.float64)


class Temperature:
    """One output per class: one step of Newton's method for the slope of all logits together.

    Parameters
    ----------
    shares
        Public baseline of the classes.
    balanced
        Whether outputs are meant for classes of equal size, and the shares are added to them before they are compared
        with what happened.

    Notes
    -----
    With c between -r and r and mean m, variance at most (r - m)(r + m) (Bhatia and Davis 2000), and slope at most r + |m|:
    (r + |m|)^2 (1 + (1 - |m|/r)^2) <= 4 r^2, so a row is no longer than 1.
    """

    bound = 1.0
    size = 2

    def __init__(self, shares: Sequence[float], balanced: bool) -> None:
        self.logs = np.log(np.asarray(shares, dtype=np.float64))
        self.balanced = balanced

    def rows(self, outputs: Floats, values: NDArray[np.float64]) -> Floats:
        apart = outputs if self.balanced else outputs - self.logs
        apart = apart - (apart.max(axis=1, keepdims=True) + apart.min(axis=1, keepdims=True)) / 2
        apart = np.clip(apart, -RANGE, RANGE)
        logits = apart + self.logs
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        mean = (p * apart).sum(axis=1)
        truth = apart[np.arange(len(apart)), np.asarray(values, dtype=np.int64)]
        variance = (p * apart**2).sum(axis=1) - mean**2
        return np.stack([truth - mean, variance / RANGE], axis=1) / (2 * RANGE)

    def fit(self, total: Floats, noise: float, patients: float) -> Line:
        slope, curve = total * 2 * RANGE
        expected = np.array([patients * CURVE / RANGE])
        count = _counted(np.array([curve]), expected, noise * 2 * RANGE)
        towards = np.zeros((len(SHIFTS), 1, 1)) + RANGE * STRETCHES[:, None]
        _, found = _best(slope, curve, towards, 1.0, count * RANGE, expected, noise * 2 * RANGE)
        intercept = np.zeros(len(self.logs)) if self.balanced else (1 - found) * self.logs
        return Line(tuple(float(one) for one in intercept), found)


def _bin(score: Floats) -> NDArray[np.int64]:
    return np.clip((score + REACH) / (2 * REACH) * BINS, 0, BINS - 1).astype(np.int64)


def _bell() -> Floats:
    """Return which share of the patients each bin is thought to hold, before anything is seen."""
    middle = (np.arange(BINS) + 0.5) * WIDTH - REACH
    share = np.exp(-0.5 * (middle / BELL) ** 2)
    return np.asarray(share / share.sum(), dtype=np.float64)


def _counted(seen: Floats, expected: Floats, noise: float) -> Floats:
    """Return counts between what a noised sum says and what is expected, give or take as much; none of them below zero."""
    trust = expected**2 / (expected**2 + noise**2 + 1e-12)
    return np.asarray(np.maximum(expected + trust * (seen - expected), 0.02 * expected), dtype=np.float64)


def _middles(count: Floats) -> Floats:
    """Return the scores that bins stand for: towards the others, for most of a bell lies on that side (Sheppard)."""
    middle = (np.arange(BINS) + 0.5) * WIDTH - REACH
    share = count / count.sum()
    mean = float(share @ middle)
    spread = max(float(share @ (middle - mean) ** 2), WIDTH**2 / 3)
    return np.asarray(mean + (middle - mean) * (1 - WIDTH**2 / 12 / spread), dtype=np.float64)


def _lines(score: Floats) -> Floats:
    """Return scores on every line that is looked at, (shifts, stretches, bins)."""
    return np.asarray(SHIFTS[:, None, None] + np.exp(STRETCHES)[:, None] * score, dtype=np.float64)


def _best(
    x: Floats, y: Floats, towards_x: Floats, towards_y: Floats | float, sampling: Floats, expected: Floats, noise: float
) -> tuple[float, float]:
    """Return shift and slope from sums (x, y) per bin, whose means are a count times (towards_x, towards_y).

    What lies across that direction is 0 on average at the right line. What lies along it tells the count, of which no more is known
    than ``expected``, give or take as much: without it, noise alone would seem to prefer some lines to others. ``sampling`` is
    the variance of ``x towards_y - y towards_x`` by chance of the outcomes.
    """
    length = np.hypot(towards_x, towards_y)
    across = (x * towards_y - y * towards_x) / length
    along = (x * towards_x + y * towards_y) / length - expected * length
    spread = sampling / length**2 + noise**2 + 0.05  # an empty bin without noise says nothing
    room = (expected * length) ** 2 + noise**2 + 0.05
    log = across**2 / spread + np.log(spread) + along**2 / room + np.log(room)
    return posterior_mean(-0.5 * log.sum(axis=-1))
