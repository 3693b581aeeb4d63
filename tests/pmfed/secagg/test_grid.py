"""Sums on the fixed-point grid are exact, whatever wraps on the way; what could overflow is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pmfed.errors import PolicyError
from pmfed.privacy.noise import LARGEST, SecretSource
from pmfed.secagg.grid import Grid

UNIT = 1.5 / 4096


@settings(max_examples=60)
@given(data=st.data(), sites=st.integers(1, 40))
def test_the_sum_is_exact_for_everything_encode_accepts(data, sites):
    grid = Grid(UNIT, sites)
    edge = grid.limit
    units = st.one_of(st.integers(-edge, edge), st.sampled_from([-edge, edge, 0]))
    rows = data.draw(arrays(np.int64, (sites, 3), elements=units))
    masks = data.draw(arrays(np.uint32, (sites, 3), elements=st.integers(0, 2**32 - 1)))
    total = np.zeros(3, np.uint32)
    for row, mask in zip(rows, masks, strict=True):
        total = grid.add(total, grid.encode(row * UNIT))
        total = grid.add(total, mask)  # what secure aggregation adds: the running sum wraps
    for mask in masks:
        total = grid.add(total, (0 - mask.astype(np.int64)).astype(np.uint32))
    assert grid.decode(total).tolist() == (rows.sum(axis=0) * UNIT).tolist()


@given(arrays(np.float64, 5, elements=st.floats(-1e5, 1e5)))
def test_rounding_is_to_the_nearest_half_to_even(values):
    grid = Grid(1.0, 1)
    assert grid.decode(grid.encode(values)).tolist() == [float(round(value)) for value in values]
    halves = np.array([0.5, 1.5, -0.5, -1.5, 2.5])
    assert grid.decode(grid.encode(halves)).tolist() == [0, 2, 0, -2, 2]


@pytest.mark.parametrize("sites", [1, 2, 7, 21])
def test_the_worst_sum_fits_and_one_unit_more_is_refused(sites):
    grid = Grid(UNIT, sites)
    for sign in (1, -1):
        worst = np.array([sign * grid.limit * UNIT])
        total = np.zeros(1, np.uint32)
        for _ in range(sites):
            total = grid.add(total, grid.encode(worst))
        assert grid.decode(total)[0] == pytest.approx(sign * sites * grid.limit * UNIT, rel=1e-15)
        with pytest.raises(PolicyError, match="Nothing was released"):
            grid.encode(worst + sign * UNIT)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_what_is_not_a_sensible_number_is_refused(bad):
    with pytest.raises(PolicyError) as caught:
        Grid(UNIT, 2).encode(np.array([0.0, bad]))
    assert repr(bad) not in str(caught.value)


def test_the_bound_on_patients_is_right_at_its_worst():
    clip, sites = 1.5, 5
    grid = Grid(clip / 4096, sites)
    noise = LARGEST * 2.0 * clip
    most = grid.patients(clip, noise)
    assert 524_287 // sites - 25 < most <= 524_287 // sites
    grid.encode(np.array([most * clip + noise]))
    with pytest.raises(PolicyError):
        grid.encode(np.array([(most + 1) * clip + noise]))
    assert grid.patients(clip, 1e12) == 0


def test_rounding_noise_knows_nothing_of_the_values():
    """With noise of 2 units the rounding error has the same distribution wherever the value lies in its cell."""
    source, n = SecretSource(), 200_000
    grid = Grid(1.0, 1)
    for offset in (0.0, 0.25, 0.5):
        noisy = offset + source.gaussian(n, 2.0)
        error = grid.decode(grid.encode(noisy)) - noisy
        assert abs(error.mean()) < 6.2 * np.sqrt(1 / 12 / n)
        assert abs(error.var() - 1 / 12) < 6.2 * np.sqrt(1 / 180 / n)
        rounded = grid.decode(grid.encode(noisy))
        assert abs(rounded.mean() - offset) < 6.2 * np.sqrt((4 + 1 / 12) / n)


def test_too_little_noise_for_the_grid_is_refused():
    grid = Grid(UNIT, 3)
    grid.require_noise(2 * UNIT)
    for std in (1.99 * UNIT, 0.0, np.nan):
        with pytest.raises(PolicyError, match="2 units"):
            grid.require_noise(std)


def test_wrong_words_are_refused():
    grid = Grid(UNIT, 3)
    word = np.zeros(2, np.uint32)
    with pytest.raises(ValueError, match="32-bit"):
        grid.add(word, np.zeros(2, np.int64))
    with pytest.raises(ValueError, match="equal shape"):
        grid.add(word, np.zeros(3, np.uint32))
    with pytest.raises(ValueError, match="32-bit"):
        grid.decode(np.zeros(2))
    assert grid.encode(np.zeros((0,))).shape == (0,)
    for unit, sites in ((0.0, 1), (np.inf, 1), (np.nan, 1), (1.0, 0)):
        with pytest.raises(ValueError, match="grid"):
            Grid(unit, sites)
