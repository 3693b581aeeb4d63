"""Columns into inputs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pmfed.cohort.encode import encode
from pmfed.cohort.leaks import chance_equal
from pmfed.cohort.tables import Problems
from pmfed.errors import DataError
from pmfed.modality import Genotypes, Table


def table(**features: dict[str, Any]) -> Table:
    return Table.model_validate({"table": "t", "features": features})


def genotypes(**variants: dict[str, Any]) -> Genotypes:
    return Genotypes.model_validate({"table": "t", "variants": variants})


def inputs(modality: Table | Genotypes, **columns: Any) -> NDArray[np.float32]:
    frame = pd.DataFrame(columns)
    frame.index += 2
    problems = Problems("north")
    encoded = encode(modality, frame, Path("t.csv"), problems)
    problems.raise_any()
    assert encoded.inputs.shape == (len(frame), len(modality.names))
    return encoded.inputs


def test_numeric_is_bounded_transformed_and_scaled() -> None:
    spec = {
        "type": "numeric",
        "minimum": 0,
        "maximum": 99,
        "mean": 1.5,
        "scale": 0.5,
        "transform": "log1p",
        "indicator": True,
    }
    got = inputs(table(x=spec), x=["0", "99", ""])
    np.testing.assert_allclose(got, [[-3.0, 0], [(math.log(100) - 1.5) / 0.5, 0], [0, 1]], rtol=1e-6)


def test_numeric_without_constants_waits_on_the_bounded_scale() -> None:
    got = inputs(table(x={"type": "numeric", "minimum": 10, "maximum": 30}), x=["10", "25", "30", "NA"])
    np.testing.assert_allclose(got[:, 0], [-1, 0.5, 1, np.nan])


def test_features_come_in_the_order_of_their_names_and_from_their_columns() -> None:
    spec = table(
        b={"type": "numeric", "minimum": 0, "maximum": 9, "mean": 0, "scale": 1, "column": "Big B"},
        a={"type": "categorical", "values": ["x", "y"], "other": True, "indicator": True},
    )
    assert spec.names == ("a=x", "a=y", "a=other", "a missing", "b")
    got = inputs(spec, a=["y", "z", "", " x "], **{"Big B": [1, 2, 3, 4]})
    assert got.tolist() == [[0, 1, 0, 0, 1], [0, 0, 1, 0, 2], [0, 0, 0, 1, 3], [1, 0, 0, 0, 4]]


@pytest.mark.parametrize("column", [["1", "1.0", "2.50", "-0"], [1.0, 1, 2.5, 0.0]])
def test_a_number_is_the_same_category_however_written(column: list[Any]) -> None:
    got = inputs(table(x={"type": "categorical", "values": ["0", "1", "2.5"]}), x=column)
    assert got.argmax(axis=1).tolist() == [1, 1, 2, 0]
    assert got.sum() == 4


def test_codes_with_leading_zeros_are_not_numbers() -> None:
    spec = {"type": "categorical", "values": ["1", "01"], "other": True}
    assert inputs(table(x=spec), x=["1", "01", "001", "1.0"]).argmax(axis=1).tolist() == [0, 1, 2, 0]


def test_none_is_a_value_and_so_is_na_when_listed() -> None:
    assert inputs(table(x={"type": "categorical", "values": ["NA", "None"]}), x=["NA", "None", ""]).tolist() == [
        [1, 0], [0, 1], [0, 0],
    ]  # fmt: skip


def test_calls_count_alleles_in_any_order_and_separator() -> None:
    spec = genotypes(v={"alleles": ["A", "*3"], "frequency": [0.4, 0.0], "known": ["A", "G", "*3"], "indicator": True})
    got = inputs(spec, v=["A/G", "G|A", "A/A", "G/*3", "G/G", "", ".", "./.", ".|.", "NA", "A/."])
    scale = math.sqrt(2 * 0.4 * 0.6)
    expected = [[(n - 0.8) / scale, m, 0] for n, m in [(1, 0), (1, 0), (2, 0), (0, 1), (0, 0)]] + [[0, 0, 1]] * 6
    np.testing.assert_allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize("column", [["0", "1.5", "2", "", "./.", "."], [0, 1.5, 2, None, None, None]])
def test_dosages(column: list[Any]) -> None:
    got = inputs(genotypes(v={"frequency": [0.25]}), v=column)
    scale = math.sqrt(2 * 0.25 * 0.75)
    np.testing.assert_allclose(got[:, 0], [-0.5 / scale, 1 / scale, 1.5 / scale, 0, 0, 0], rtol=1e-6)


NUMERIC = {"type": "numeric", "minimum": 0, "maximum": 100}


@pytest.mark.parametrize(
    ("modality", "column", "says"),
    [
        (
            table(x=NUMERIC),
            ["1", "patient", "ancient"],
            "'x': 2 rows with text where a number is expected (first at row 3)",
        ),
        (table(x=NUMERIC), ["1,5", "2", "3,25"], "decimal comma"),
        (table(x=NUMERIC), ["-7777", "2", "inf"], "'x': 1 row outside 0 to 100, the possible values (first at row 2)"),
        (
            table(x={"type": "categorical", "values": ["a", "b"]}),
            ["a", "SECRET", "SECRET2"],
            "'x': 2 rows with a category that is none of the study's 2",
        ),
        (
            genotypes(x={"alleles": ["A"], "known": ["A", "G"]}),
            ["A/T", "A/G", "C/C"],
            "'x': 2 rows with an allele that is none of the 2 known",
        ),
        (genotypes(x={"alleles": ["A"]}), ["AG", "A/G/A", "A/G"], "'x': 2 rows without a call of two alleles"),
        (genotypes(x={}), ["2.5", "-1", "1"], "'x': 2 rows outside 0 to 2, the possible dosages"),
        (genotypes(x={}), ["A/G", "1", "1"], "'x': 1 row with text where a number is expected"),
    ],
)
def test_bad_cells_are_counted_and_never_shown(modality: Table | Genotypes, column: list[str], says: str) -> None:
    with pytest.raises(DataError) as caught:
        inputs(modality, x=column)
    assert says in str(caught.value)
    assert "t.csv" in str(caught.value)
    for cell in ("patient", "ancient", "7777", "SECRET", "A/T", "C/C", "2.5", "3,25"):
        assert cell not in str(caught.value).replace("patients", "")


def test_several_columns_are_reported_together() -> None:
    with pytest.raises(DataError) as caught:
        inputs(table(x=NUMERIC, y=NUMERIC), x=["a", "500"], y=["1", "-1"])
    assert "3 problems" in str(caught.value)


@settings(deadline=None)
@given(
    st.lists(st.one_of(st.none(), st.floats(-50, 50)), min_size=1, max_size=30),
    st.lists(st.sampled_from(["a", "b", "c", "", "NA"]), min_size=30, max_size=30),
    st.randoms(),
)
def test_every_row_is_encoded_by_itself(numbers: list[float | None], kinds: list[str], random: Any) -> None:
    spec = table(
        k={"type": "categorical", "values": ["a", "b"], "other": True, "indicator": True},
        n={"type": "numeric", "minimum": -50, "maximum": 50, "indicator": True},
    )
    columns = {"n": ["" if x is None else repr(x) for x in numbers], "k": kinds[: len(numbers)]}
    got = inputs(spec, **columns)
    assert (got[:, :4].sum(axis=1) == 1).all()  # one of a, b, other, missing
    assert np.array_equal(np.isnan(got[:, 4]), got[:, 5] == 1)
    assert np.nanmax(np.abs(got), initial=0) <= 1
    order = list(range(len(numbers)))
    random.shuffle(order)
    shuffled = inputs(spec, **{name: [cells[place] for place in order] for name, cells in columns.items()})
    assert np.array_equal(shuffled, got[order], equal_nan=True)


@settings(deadline=None)
@given(st.lists(st.sampled_from(["A", "G", "."]), min_size=2, max_size=40))
def test_calls_do_not_depend_on_phase(alleles: list[str]) -> None:
    spec = genotypes(v={"alleles": ["A"], "indicator": True})
    pairs = list(zip(alleles[::2], alleles[1::2], strict=False))
    one = inputs(spec, v=[f"{a}/{b}" for a, b in pairs])
    assert np.array_equal(one, inputs(spec, v=[f"{b}|{a}" for a, b in pairs]))
    assert np.isfinite(one).all()


def test_chance_equal() -> None:
    rng = np.random.default_rng(0)
    outcome = rng.integers(0, 2, 40).astype(float)
    dose = rng.gamma(4, 8, 40)
    for values, target, ordered in [
        (outcome, outcome, True), (1 - outcome, outcome, False), (7 - 2 * dose, dose, True), (np.sqrt(dose), dose, True),
        ((np.arange(40) % 3) * 1.0, ((np.arange(40) + 1) % 3) * 1.0, False),
    ]:  # fmt: skip
        chance = chance_equal(values, target, ordered)
        assert chance is not None
        assert chance < 1e-8
    assert chance_equal(rng.random(40), outcome, True) is None
    assert chance_equal(np.ones(40), outcome, True) is None
    assert chance_equal(rng.random(40), dose, False) == pytest.approx(1.0)  # all differ: that says nothing
    assert chance_equal(outcome[:3] * 0 + [0, 0, 1], np.array([0.0, 0, 1]), True) == pytest.approx(2 / 3)
    swapped = outcome.copy()
    swapped[0] = 1 - swapped[0]
    assert chance_equal(swapped, outcome, True) is None
    gaps = np.where(np.arange(40) < 5, np.nan, outcome)
    assert (chance_equal(gaps, outcome, True) or 1) < 1e-4
