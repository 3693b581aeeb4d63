"""The distribution that is found in one go is dp-accounting's own."""

from __future__ import annotations

import math

import numpy as np
import pytest
from dp_accounting.pld.privacy_loss_distribution import from_gaussian_mechanism
from scipy.stats import norm

from pmfed.privacy import accounting
from pmfed.privacy.accounting import Release, epsilon, noise_for
from pmfed.privacy.pld import sampled_gaussian


@pytest.mark.parametrize(
    ("rate", "noise", "steps", "delta", "grid"),
    [
        (0.2, 8.0, 400, 1e-5, 1e-3), (0.05, 1.9, 300, 1e-5, 1e-3), (1e-3, 0.44, 200, 1e-5, 1e-3), (1e-4, 0.49, 5000, 1e-6, 2e-3),
        (0.999, 1.0, 10, 1e-5, 1e-3), (0.3, 60.0, 200, 1e-9, 1e-4), (0.5, 0.05, 400, 1e-5, 0.5), (1e-6, 0.3, 100, 1e-9, 2e-3),
    ],
)  # fmt: skip
def test_it_is_the_one_that_dp_accounting_finds_cell_by_cell(rate, noise, steps, delta, grid):
    ours = sampled_gaussian(rate, noise, grid)
    theirs = from_gaussian_mechanism(noise, value_discretization_interval=grid, sampling_prob=rate)
    levels = np.arange(-3.0, 8.0, 0.37)
    assert ours.get_delta_for_epsilon(levels) == pytest.approx(theirs.get_delta_for_epsilon(levels), abs=1e-9)
    found, known = (pld.self_compose(steps).get_epsilon_for_delta(delta) for pld in (ours, theirs))
    assert found == pytest.approx(known, rel=1e-5)


@pytest.mark.parametrize(("rate", "noise"), [(0.3, 1.5), (0.01, 0.6)])
def test_it_is_never_below_the_delta_of_the_definition(rate, noise):
    """delta(e) is the integral of max(0, p - e^e p') over outcomes, for a patient removed and for one added."""
    x = np.linspace(-12 * noise, 1 + 12 * noise, 400_001)
    without = norm.pdf(x, 0, noise)
    mixed = (1 - rate) * without + rate * norm.pdf(x, 1, noise)
    found = sampled_gaussian(rate, noise, 1e-3)
    for level in (-0.2, 0.0, 0.1, 0.5, 1.5):
        pairs = ((mixed, without), (without, mixed))
        exact = max(np.trapezoid(np.clip(a - math.exp(level) * b, 0, None), x) for a, b in pairs)
        assert exact - 1e-9 <= found.get_delta_for_epsilon(level) <= exact + 1e-6


@pytest.mark.parametrize(
    ("rate", "steps", "target", "delta", "known"),
    [
        # Found by the slow search that looked at 14 distributions: rates at which a patient is hardly ever drawn.
        (1e-3, 1000, 2.0, 1e-5, 0.56012), (1e-4, 5000, 2.0, 1e-6, 0.48699), (1e-4, 20_000, 8.0, 1e-6, 0.36588),
        (2e-4, 500, 0.5, 1e-6, 0.59533), (1e-3, 200, 4.0, 1e-5, 0.44018), (0.2, 400, 2.0, 1e-5, 8.0708),
    ],
)  # fmt: skip
def test_the_search_looks_at_few_distributions_and_finds_the_same_noise(rate, steps, target, delta, known):
    accounting._epsilon.cache_clear()
    sigma = noise_for(lambda noise: (Release(rate, noise, steps),), target, delta)
    assert accounting._epsilon.cache_info().misses <= 10
    assert sigma == pytest.approx(known, rel=2e-4)
    assert epsilon((Release(rate, sigma, steps),), delta) <= target
