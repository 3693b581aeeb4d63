"""Left joins and the cap on records per patient."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pmfed.cohort.joins import left_join, under_cap


@settings(deadline=None)
@given(st.lists(st.integers(0, 5), max_size=12), st.lists(st.integers(-1, 7), max_size=12))
def test_left_join_is_the_textbook_one(left: list[int], right: list[int]) -> None:
    expected = []
    for row, key in enumerate(left):
        partners = [place for place, other in enumerate(right) if other == key]
        expected += [(row, place) for place in partners or [-1]]
    rows = left_join(np.array(left, dtype=np.int64), np.array(right, dtype=np.int64))
    assert list(zip(*map(np.ndarray.tolist, rows), strict=True)) == expected


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(1, 5))
def test_cap_keeps_exactly_the_cap(sizes: list[int], cap: int) -> None:
    owner = np.repeat(np.arange(len(sizes)), sizes)
    ids = [f"p{number}" for number in range(len(sizes))]
    keep = under_cap(owner, ids, cap, "key", "table")
    assert np.bincount(owner[keep], minlength=len(sizes)).tolist() == [min(size, cap) for size in sizes]
    # The draw for a patient does not depend on who else is there.
    alone = [
        under_cap(np.zeros(size, dtype=np.int64), [one], cap, "key", "table")
        for one, size in zip(ids, sizes, strict=True)
    ]
    assert np.array_equal(keep, np.concatenate(alone))


def test_the_draw_is_even_over_places() -> None:
    owner = np.repeat(np.arange(4000), 5)
    keep = under_cap(owner, [str(number) for number in range(4000)], 2, "key", "table").reshape(4000, 5)
    assert np.abs(keep.mean(axis=0) - 0.4).max() < 0.04
