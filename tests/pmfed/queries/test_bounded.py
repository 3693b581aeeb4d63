"""The one function that bounds what patients add to a sum: no row, whatever it holds, weighs more than the bound."""

from __future__ import annotations

import logging
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from pmfed.queries.bounded import bounded, bounded_sum

ROUNDING = 1 + 1e-12
HOSTILE = (
    math.nan, math.inf, -math.inf, 1e300, -1e300, 1.7e308, -1.7e308, 1e150, 1.1e150, 1e154, 1e-150, 1e-300, 5e-324, -5e-324,
    2.2e-308, 0.0, -0.0, 1.0, -1.0,
)  # fmt: skip
NUMBERS = st.one_of(st.sampled_from(HOSTILE), st.floats(), st.floats(-2, 2))
BOUNDS = st.one_of(st.sampled_from([1e-3, 0.3, 1.0, math.sqrt(3), 1e3]), st.floats(1e-6, 1e6))

Rows = NDArray[np.float64]


@st.composite
def hostile(draw: st.DrawFn, least: int = 0) -> Rows:
    """Return rows (patients, size) of anything a float can be."""
    patients, size = draw(st.integers(least, 8)), draw(st.integers(1, 6))
    found: Rows = draw(arrays(np.float64, (patients, size), elements=NUMBERS))
    return found


def length(vector: Rows) -> float:
    """Return the L2 norm in a way of its own: Python's, which neither overflows nor underflows."""
    return math.hypot(*(float(value) for value in vector))


def split(rows: Rows, cuts: list[int]) -> list[Rows]:
    return np.split(rows, sorted({cut for cut in cuts if cut <= len(rows)}))


@settings(max_examples=300, deadline=None)
@given(rows=hostile(), bound=BOUNDS)
def test_every_row_is_finite_and_no_longer_than_the_bound(rows: Rows, bound: float) -> None:
    found = bounded(rows, bound)
    assert found.shape == rows.shape
    assert found.dtype == np.float64
    assert np.isfinite(found).all()
    assert all(length(row) <= bound * ROUNDING for row in found)


@settings(max_examples=300, deadline=None)
@given(rows=hostile(), bound=BOUNDS)
def test_a_row_that_fits_stays_and_one_too_long_keeps_its_direction(rows: Rows, bound: float) -> None:
    before = rows.copy()
    for row, found in zip(rows, bounded(rows, bound), strict=True):
        if not np.isfinite(row).all():
            assert not found.any()
        elif length(row) <= bound / ROUNDING:
            assert (found == row).all()
        else:
            direction = row / np.abs(row).max()
            np.testing.assert_allclose(found, direction / length(direction) * bound, rtol=1e-9, atol=1e-12 * bound)
    np.testing.assert_array_equal(rows, before)  # what a query gave is not changed in its hands


@settings(max_examples=200, deadline=None)
@given(rows=hostile(least=1), bound=BOUNDS, data=st.data())
def test_removing_a_patient_moves_the_sum_by_the_bound_at_most(rows: Rows, bound: float, data: Any) -> None:
    gone = data.draw(st.integers(0, len(rows) - 1))
    size = rows.shape[1]
    whole = bounded_sum([rows], size, bound, len(rows))
    less = bounded_sum([np.delete(rows, gone, axis=0)], size, bound, len(rows))
    assert np.isfinite(whole).all()
    # Adding up rounds, by a part in 1e16 of the sum of all.
    assert length(whole - less) <= bound * (1 + 1e-9)


@settings(max_examples=200, deadline=None)
@given(rows=hostile(least=1), others=hostile(), bound=BOUNDS)
def test_no_row_depends_on_another(rows: Rows, others: Rows, bound: float) -> None:
    alone = [bounded(rows[place : place + 1], bound)[0] for place in range(len(rows))]
    among = bounded(rows, bound)
    np.testing.assert_array_equal(among, alone)
    fit = np.resize(others, (len(others), rows.shape[1])) if others.size else np.empty((0, rows.shape[1]))
    np.testing.assert_array_equal(bounded(np.concatenate([fit, rows]), bound)[len(fit) :], alone)


@settings(max_examples=200, deadline=None)
@given(rows=hostile(), bound=BOUNDS, cuts=st.lists(st.integers(0, 8), max_size=5))
def test_chunking_does_not_matter(rows: Rows, bound: float, cuts: list[int]) -> None:
    size = rows.shape[1]
    whole, chunked = (bounded_sum(chunks, size, bound, len(rows)) for chunks in ([rows], split(rows, cuts)))
    np.testing.assert_allclose(chunked, whole, rtol=1e-12, atol=1e-12 * bound)


def test_nobody_adds_nothing() -> None:
    for chunks in ([], [np.empty((0, 3))], [np.empty((0, 3))] * 2):
        np.testing.assert_array_equal(bounded_sum(chunks, 3, 1.0, 0), np.zeros(3))


@pytest.mark.parametrize(
    "kind", [np.float16, np.float32, np.longdouble, np.int8, np.int64, np.uint64, np.bool_, object]
)
def test_numbers_of_another_kind_are_bounded_as_precisely(kind: Any) -> None:
    """A query that counts in float32 has no norms of float32, nor sums of it: 1e-7 of a patient too much, or a wrapped int."""
    chance = np.random.default_rng(5)
    rows = chance.integers(0, 100, (200, 1000)).astype(kind)
    total = np.zeros(1000)
    for row in bounded(rows, 0.7):
        assert length(row) <= 0.7 * ROUNDING
        total += row.astype(np.float64)
    found = bounded_sum([rows[:70], rows[70:]], 1000, 0.7, 200)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, total, rtol=1e-12)


@pytest.mark.parametrize("shape", [(3,), (2, 4), (2, 2), (2, 3, 1), ()])
def test_rows_of_another_shape_are_no_sum(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="do not fit a sum of 3 numbers"):
        bounded_sum([np.zeros(shape)], 3, 1.0, 9)


def test_who_is_left_out_is_counted_and_not_told(caplog: pytest.LogCaptureFixture) -> None:
    rows = np.array([[1.0, 73.91826], [math.nan, 73.91826], [math.inf, 0.0], [0.5, 0.0]])
    with caplog.at_level(logging.WARNING):
        np.testing.assert_allclose(bounded_sum([rows[:2], rows[2:]], 2, 0.5, 4)[1], 0.5, rtol=1e-3)
    assert [record.getMessage() for record in caplog.records] == [
        "2 patient(s) left out of a sum: their rows are not finite."
    ]


@pytest.mark.parametrize("sizes", [(3,), (1, 1, 1), (2, 0, 1)])
def test_more_rows_than_patients_are_refused(sizes: tuple[int, ...]) -> None:
    """A patient with a row in each of two chunks would weigh two bounds."""
    chunks = [np.ones((size, 4)) for size in sizes]
    assert bounded_sum(chunks, 4, 1.0, 3).any()
    with pytest.raises(ValueError, match="more rows than patients"):
        bounded_sum(chunks, 4, 1.0, 2)
