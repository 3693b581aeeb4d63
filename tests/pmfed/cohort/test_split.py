"""The split depends on the patient, the key and the fraction alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pmfed.cohort.split import folds, held_out

ids = st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=40, unique=True)
keys = st.text(max_size=8)


@settings(deadline=None)
@given(ids, keys, st.floats(0.01, 0.99), st.randoms())
def test_nobody_moves_when_the_table_is_shuffled_or_grows(
    names: list[str], key: str, fraction: float, random: object
) -> None:
    shuffled = list(names)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    extended = [*shuffled, "a patient who came later"]
    for function in (lambda n: held_out(n, key, fraction), lambda n: folds(n, key, 5)):
        before = dict(zip(names, function(names), strict=True))
        after = dict(zip(extended, function(extended), strict=True))
        assert all(before[name] == after[name] for name in names)


@settings(deadline=None)
@given(ids, keys, st.floats(0.01, 0.98))
def test_a_larger_fraction_only_adds_patients(names: list[str], key: str, fraction: float) -> None:
    assert not (held_out(names, key, fraction) & ~held_out(names, key, fraction + 0.01)).any()


@settings(deadline=None)
@given(ids, keys, st.integers(2, 10))
def test_every_patient_is_in_one_fold(names: list[str], key: str, k: int) -> None:
    fold = folds(names, key, k)
    assert fold.shape == (len(names),)
    assert ((fold >= 0) & (fold < k)).all()


def test_the_split_of_these_patients_stays_what_it_was_in_the_first_release() -> None:
    names = [f"p{number}" for number in range(12)]
    assert np.flatnonzero(held_out(names, "pmfed", 0.3)).tolist() == HELD
    assert folds(names, "pmfed", 3).tolist() == FOLDS


@pytest.mark.parametrize("fraction", [0.1, 0.5])
def test_shares_and_independence(fraction: float) -> None:
    names = [str(number) for number in range(20_000)]
    held, fold = held_out(names, "a", fraction), folds(names, "a", 4)
    assert abs(held.mean() - fraction) < 0.015
    assert abs(held_out(names, "b", fraction)[held].mean() - fraction) < 0.03  # another key, another split
    for number in range(4):
        assert abs((fold == number).mean() - 0.25) < 0.015
        assert abs(held[fold == number].mean() - fraction) < 0.03


HELD = [0, 1, 2, 4, 7, 9, 11]
FOLDS = [1, 2, 2, 0, 2, 2, 2, 1, 2, 0, 0, 1]
