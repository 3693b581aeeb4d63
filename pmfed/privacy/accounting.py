"""How much privacy a series of noisy releases spends, by Google's dp-accounting.

Every release is a Poisson-sampled Gaussian mechanism repeated some times; neighbouring cohorts differ by one
patient added or removed. Reported numbers are joint privacy loss distributions (Koskela, Jälkö, Honkela 2020;
Doroshenko et al. 2022), rounded pessimistically: the true epsilon is never above them. The Rényi bound
(Mironov 2017; Mironov, Talwar, Zhang 2019) is looser but stays valid when later runs are chosen after
looking at earlier results (Feldman, Zrnic 2021).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pmfed.errors import StudyError
from pmfed.privacy.pld import sampled_gaussian

PLAN_GRID = 1e-3
REPORT_GRID = 1e-4

_POINTS = 200_000  # grid points an epsilon may span: bounds time and memory where epsilon is absurdly large
_LEAST, _MOST = 1e-2, 1e6  # noise multipliers that are considered
_ORDERS = (*range(2, 65), 80, 96, 128, 192, 256, 512, 1024)  # whole orders: exact and quick to evaluate


@dataclass(frozen=True)
class Release:
    """A sampled Gaussian mechanism and how often it is applied.

    Parameters
    ----------
    sampling_rate
        Probability with which each patient takes part, in (0, 1].
    noise_multiplier
        Standard deviation of the noise over the most one patient can change; 0 is no noise.
    count
        How many times.
    """

    sampling_rate: float
    noise_multiplier: float
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.sampling_rate <= 1:
            raise StudyError(f"a sampling rate of {self.sampling_rate:g} is not above 0 and at most 1.")
        if not 0 <= self.noise_multiplier < math.inf:
            raise StudyError(f"a noise multiplier of {self.noise_multiplier:g} is not a finite number at or above 0.")
        if self.count < 0:
            raise StudyError(f"{self.count} releases: the number is below 0.")


def epsilon(releases: Sequence[Release], delta: float, grid: float = REPORT_GRID) -> float:
    """Return the epsilon that all releases together spend at ``delta``.

    Parameters
    ----------
    releases
        Everything released about the same patients, of any number of runs.
    delta
        Probability mass the promise may miss, in (0, 1).
    grid
        Width of the cells privacy losses are rounded up to: 1e-4 to report, 1e-3 to plan. It is refined where
        epsilon is very small and widened where epsilon is beyond about 20.

    Returns
    -------
    float
        An upper bound, tight up to the rounding; infinite when a release has no noise.
    """
    _check_delta(delta)
    return _epsilon(_merged(releases), delta, grid)


def curve(first: Sequence[Release], step: Release, counts: Sequence[int], delta: float) -> tuple[float, ...]:
    """Return the epsilon after ``first`` and ``n`` times ``step``, for each ``n`` of the ascending ``counts``.

    It is made for displays (plan grid) and composes from one count to the next, which costs a few
    milliseconds each; ``step.count`` is not looked at.
    """
    _check_delta(delta)
    if step.noise_multiplier == 0 or any(release.noise_multiplier == 0 for release in first if release.count):
        return tuple(math.inf for _ in counts)
    most = Release(step.sampling_rate, step.noise_multiplier, max(counts, default=0))
    grid = _grid(_merged([*first, most]), delta, PLAN_GRID)
    loss = _losses(_merged(first), grid)
    single = _losses((Release(step.sampling_rate, step.noise_multiplier, 1),), grid)
    gaps: dict[int, Any] = {1: single}
    done, found = 0, []
    for count in counts:
        if count < done:
            raise ValueError("counts must ascend")
        if gap := count - done:
            if gap not in gaps:
                gaps[gap] = single.self_compose(gap)
            loss = gaps[gap] if loss is None else loss.compose(gaps[gap])
            done = count
        found.append(0.0 if loss is None else float(loss.get_epsilon_for_delta(delta)))
    return tuple(found)


def rdp_epsilon(releases: Sequence[Release], delta: float) -> float:
    """Return the Rényi bound on the epsilon that all releases together spend at ``delta``.

    Never below ``epsilon`` up to rounding. It remains a bound when the releases were chosen adaptively.
    """
    _check_delta(delta)
    return _rdp_epsilon(_merged(releases), delta)


def noise_for(
    make: Callable[[float], Sequence[Release]], epsilon: float, delta: float, grid: float = REPORT_GRID
) -> float:
    """Return the least noise multiplier with which ``make(multiplier)`` stays within ``epsilon``.

    Parameters
    ----------
    make
        The releases of a plan for a given noise multiplier; more noise must not cost more.
    epsilon, delta
        The target.
    grid
        Grid of the final check.

    Returns
    -------
    float
        Four significant digits or more, rounded up: its epsilon at ``grid`` is at most the target.

    Raises
    ------
    StudyError
        No noise multiplier up to a million reaches the target.
    """
    _check_delta(delta)
    if not 0 < epsilon < math.inf:
        raise StudyError(f"an epsilon of {epsilon:g} is not a finite number above 0.")

    def over(log_noise: float) -> float:
        spent = _epsilon(_merged(make(math.exp(log_noise))), delta, PLAN_GRID)
        return math.log(max(spent, 1e-9) / epsilon)

    log_noise = _root(over, _rdp_start(make, epsilon, delta))
    if log_noise is None:
        raise StudyError(
            f"no noise reaches epsilon {epsilon:g} at delta {delta:g}.",
            "Raise privacy.epsilon, or lower what is released besides the training.",
        )
    noise = _round_up(math.exp(log_noise))
    while _epsilon(_merged(make(noise)), delta, grid) > epsilon:
        noise = _round_up(noise * 1.0005)
    return noise


def _root(over: Callable[[float], float], start: float, near: float = 1e-4) -> float | None:
    """Return where a falling function is in (-near, 0], or the end of its step there; None when it stays above 0.

    In logarithms epsilon is nearly a straight line in the noise: the secant needs a handful of evaluations where
    bisection needs twenty.
    """
    low, high = math.log(_LEAST), math.inf  # above 0 at low, not above 0 at high
    here, value, slope = start, over(start), -2.0
    while True:
        if value > 0:
            low = here
        elif value > -near:
            return here
        else:
            high = here
        if high - low < near:
            return high
        if low >= math.log(_MOST):
            return None
        there = here + min(max(-(value + near / 2) / slope, -1.0), 1.0)
        if not low < there < high:
            there = (low + high) / 2
        before, here, value = (here, value), there, over(there)
        slope = min((value - before[1]) / (here - before[0]), -1e-2)


def _rdp_start(make: Callable[[float], Sequence[Release]], epsilon: float, delta: float) -> float:
    """Return the logarithm of a multiplier near which the Rényi bound crosses epsilon, by bisection."""
    low, high = math.log(_LEAST), math.log(_MOST)
    while high - low > 1e-2:
        middle = (low + high) / 2
        if _rdp_epsilon(_merged(make(math.exp(middle))), delta) > epsilon:
            low = middle
        else:
            high = middle
    return high


def _check_delta(delta: float) -> None:
    if not 0 < delta < 1:
        raise StudyError(f"a delta of {delta:g} is not between 0 and 1.")


def _round_up(noise: float) -> float:
    unit = 10.0 ** (math.floor(math.log10(noise)) - 4)
    return float(f"{math.ceil(noise / unit - 1e-9) * unit:.5g}")


def _merged(releases: Sequence[Release]) -> tuple[Release, ...]:
    """Add up equal mechanisms and sort, so that equal histories meet in the cache."""
    counts: dict[tuple[float, float], int] = {}
    for release in releases:
        key = (release.sampling_rate, release.noise_multiplier)
        counts[key] = counts.get(key, 0) + release.count
    return tuple(Release(*key, count) for key, count in sorted(counts.items()) if count)


def _event(release: Release) -> Any:
    import dp_accounting

    event: Any = dp_accounting.GaussianDpEvent(release.noise_multiplier)
    if release.sampling_rate < 1:
        event = dp_accounting.PoissonSampledDpEvent(release.sampling_rate, event)
    return dp_accounting.SelfComposedDpEvent(event, release.count)


def _grid(releases: tuple[Release, ...], delta: float, grid: float) -> float:
    """Fit the grid to the size of epsilon, in powers of two so that distributions can be shared."""
    size = max(_rdp_epsilon(releases, delta), 1e-3)  # the Rényi bound may be 0
    while grid > size / 1000:
        grid /= 2
    while grid < size / _POINTS:
        grid *= 2
    return grid


@lru_cache(maxsize=32)
def _loss(release: Release, grid: float) -> Any:
    if release.sampling_rate < 1:
        return sampled_gaussian(release.sampling_rate, release.noise_multiplier, grid).self_compose(release.count)
    from dp_accounting.pld import pld_privacy_accountant

    accountant = pld_privacy_accountant.PLDAccountant(value_discretization_interval=grid)
    accountant.compose(_event(release))
    return accountant._pld


def _losses(releases: tuple[Release, ...], grid: float) -> Any:
    """Return the joint privacy loss distribution, or None when nothing was released."""
    total = None
    for release in releases:
        loss = _loss(release, grid)
        total = loss if total is None else total.compose(loss)
    return total


@lru_cache(maxsize=4096)
def _epsilon(releases: tuple[Release, ...], delta: float, grid: float) -> float:
    if not releases:
        return 0.0
    if any(release.noise_multiplier == 0 for release in releases):
        return math.inf
    loss = _losses(releases, _grid(releases, delta, grid))
    return float(loss.get_epsilon_for_delta(delta))


@lru_cache(maxsize=4096)
def _rdp_epsilon(releases: tuple[Release, ...], delta: float) -> float:
    if not releases:
        return 0.0
    if any(release.noise_multiplier == 0 for release in releases):
        return math.inf
    from dp_accounting.rdp import rdp_privacy_accountant

    accountant = rdp_privacy_accountant.RdpAccountant(orders=_ORDERS)
    for release in releases:
        accountant.compose(_event(release))
    return float(accountant.get_epsilon(delta))
