"""Patients are drawn one by one, independently, at the promised rate."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from pmfed.errors import StudyError
from pmfed.privacy.noise import SecretSource
from pmfed.privacy.sampling import poisson

RARE = 1e-9


def test_batch_sizes_are_binomial_and_not_fixed():
    source, n, rate, steps = SecretSource(), 200, 0.15, 4_000
    sizes = np.array([len(poisson(n, rate, source)) for _ in range(steps)])
    variance = n * rate * (1 - rate)
    assert stats.norm.sf(abs(sizes.mean() - n * rate) / np.sqrt(variance / steps)) > RARE
    statistic = ((sizes - n * rate) ** 2).sum() / variance
    assert min(stats.chi2.cdf(statistic, steps), stats.chi2.sf(statistic, steps)) > RARE


def test_every_patient_is_drawn_at_the_rate_and_independently_across_steps_and_patients():
    source, n, rate, steps = SecretSource(), 50, 0.3, 4_000
    drawn = np.zeros((steps, n))
    for step in range(steps):
        drawn[step, poisson(n, rate, source)] = 1
    for patient in range(n):
        assert stats.binomtest(int(drawn[:, patient].sum()), steps, rate).pvalue > RARE
    centred = (drawn - rate) / np.sqrt(rate * (1 - rate))
    following = (centred[1:] * centred[:-1]).sum() / np.sqrt((steps - 1) * n)
    beside = (centred[:, 1:] * centred[:, :-1]).sum() / np.sqrt(steps * (n - 1))
    assert max(abs(following), abs(beside)) < 6.2  # two-sided p < 1e-9


def test_edges():
    source = SecretSource()
    chosen = poisson(5, 1.0, source)
    assert chosen.tolist() == [0, 1, 2, 3, 4]
    assert chosen.dtype == np.int64
    assert len(poisson(0, 0.5, source)) == 0
    assert len(poisson(100, 1e-300, source)) == 0
    draws = poisson(1_000, 0.5, source)
    assert (np.diff(draws) > 0).all()
    for rate in (0.0, -0.1, 1.0001, float("nan")):
        with pytest.raises(StudyError):
            poisson(5, rate, source)
