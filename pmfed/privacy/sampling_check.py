"""Are patients drawn as the accounting believes: each alone, at the plan's rate, anew in every step?

Shuffled batches of a fixed size look the same in the results and in the sums of canaries, but the accounting of a
Poisson-sampled Gaussian does not hold for them. They show in who was drawn: too regular a crowd.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from pmfed.privacy.audit import FALSE_ALARM, Check

_TILTS = np.concatenate([-np.geomspace(1e-3, 10, 25), np.geomspace(1e-3, 1, 25)])
_FAR = 30.0  # a squared deviation counts as so many variances at most, so that one rare count does not decide


def sampling_check(drawn: NDArray[np.bool_], rate: float) -> Check:
    """Check draws against independent ones.

    Parameters
    ----------
    drawn : (steps, patients)
        Who took part in which step.
    rate
        The plan's sampling rate.

    Notes
    -----
    With independent draws everything drawn is binomial, and so are patients drawn twice in a row (steps 1 and 2, 3 and 4, ...; rate
    squared): too many or too few of either are an alarm. So is a batch size that varies more or less than n q (1 - q),
    or a patient's number of draws more or less than T q (1 - q): the sum of squares over either has a tail that
    Chernoff's bound gives for every rate, however small. A right build fails with probability ``FALSE_ALARM`` at most.
    """
    steps, patients = drawn.shape
    pairs = drawn[0 : steps - steps % 2 : 2] & drawn[1::2][: steps // 2]
    spreads = [_spread(drawn.sum(axis=1), patients, rate), _spread(drawn.sum(axis=0), steps, rate)]
    logs = [
        _log_chance(int(drawn.sum()), drawn.size, rate),
        _log_chance(int(pairs.sum()), pairs.size, rate**2),
        *(log for _, log in spreads),
    ]
    told = "; batch sizes vary {:.2f} and patients {:.2f} times as they should".format(*(found for found, _ in spreads))
    return Check(
        "sampling",
        f"rate {drawn.mean():.4g} ({steps} steps of {patients})" + told * (rate < 1),
        f"rate {rate:.4g}" + "; 1 and 1" * (rate < 1),
        min(logs) >= math.log(FALSE_ALARM / (2 * len(logs))),
    )


def _log_chance(count: int, trials: int, chance: float) -> float:
    """Return the logarithm of the probability of a count so far from what is expected, the smaller tail."""
    return float(min(stats.binom.logcdf(count, trials, chance), stats.binom.logsf(count - 1, trials, chance)))


def _spread(counts: NDArray[np.int64], trials: int, rate: float) -> tuple[float, float]:
    """Return the counts' variance over the binomial one, and a bound on the log of its probability (its tail)."""
    variance = trials * rate * (1 - rate)
    if variance == 0:
        return 1.0, 0.0 if (counts == trials).all() else -math.inf
    possible = np.arange(trials + 1)
    squares = (possible - trials * rate) ** 2 / variance
    near = np.minimum(squares, _FAR)
    grown = special.logsumexp(stats.binom.logpmf(possible, trials, rate) + _TILTS[:, None] * near, axis=1)
    log = np.min(len(counts) * grown - _TILTS * near[counts].sum())
    return float(squares[counts].mean()), min(0.0, float(log))
