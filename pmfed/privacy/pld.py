"""The privacy loss distribution of one Poisson-sampled Gaussian, all of its cells at once.

dp-accounting finds the same distribution one cell after another in Python, which at small sampling rates takes a
second for a single epsilon. The formula is short and closed, so it is evaluated here over the whole grid; cells, rounding
and composition remain dp-accounting's (Doroshenko et al. 2022, algorithm 1). The tests compare both.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr, ndtr

Floats = NDArray[np.float64]


def sampled_gaussian(rate: float, noise: float, grid: float) -> Any:
    """Return dp-accounting's distribution of one step.

    Parameters
    ----------
    rate
        Probability with which each patient takes part, above 0 and below 1.
    noise
        Standard deviation over the most one patient can change, above 0.
    grid
        Width of the cells that losses are rounded up to.
    """
    from dp_accounting.pld import pld_pmf
    from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution
    from dp_accounting.pld.privacy_loss_mechanism import AdjacencyType, GaussianPrivacyLoss

    found = []
    for adjacency, delta in ((AdjacencyType.REMOVE, _removed), (AdjacencyType.ADD, _added)):
        bounds = GaussianPrivacyLoss(noise, sampling_prob=rate, adjacency_type=adjacency).connect_dots_bounds()
        low, high = math.floor(bounds.epsilon_lower / grid), math.ceil(bounds.epsilon_upper / grid)
        deltas = np.clip(delta(np.arange(low, high + 1) * grid, rate, noise), 0.0, 1.0)
        found.append(pld_pmf.create_pmf_pessimistic_connect_dots_fixed_gap(grid, low, high, deltas))
    return PrivacyLossDistribution(*found)


def _removed(epsilon: Floats, rate: float, noise: float) -> Floats:
    """Return delta(epsilon) of (1 - q) N(0, s^2) + q N(1, s^2) against N(0, s^2).

    The loss is above epsilon where the outcome is above an edge; below log(1 - q) it always is.
    """
    delta = -np.expm1(epsilon)
    inside = epsilon > math.log1p(-rate)
    epsilon = epsilon[inside]
    # log(1 + (e^epsilon - 1) / q), without overflow or cancellation
    bare = epsilon - math.log(rate) + np.log(-np.expm1(math.log1p(-rate) - epsilon))
    edge = noise**2 * bare + 0.5
    with_, without = ndtr((1 - edge) / noise), ndtr(-edge / noise)
    delta[inside] = rate * with_ + (1 - rate) * without - np.exp(epsilon + log_ndtr(-edge / noise))
    return delta


def _added(epsilon: Floats, rate: float, noise: float) -> Floats:
    """Return delta(epsilon) of N(0, s^2) against (1 - q) N(0, s^2) + q N(1, s^2).

    The loss is above epsilon where the outcome is below an edge; above -log(1 - q) it never is.
    """
    delta = np.zeros_like(epsilon)
    inside = epsilon < -math.log1p(-rate)
    epsilon = epsilon[inside]
    bare = -epsilon - math.log(rate) + np.log(-np.expm1(math.log1p(-rate) + epsilon))
    edge = noise**2 * bare + 0.5
    mixed = np.logaddexp(math.log1p(-rate) + log_ndtr(edge / noise), math.log(rate) + log_ndtr((edge - 1) / noise))
    delta[inside] = ndtr(edge / noise) - np.exp(epsilon + mixed)
    return delta
