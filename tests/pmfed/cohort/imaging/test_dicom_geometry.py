"""Slices in space: ordered by position, whatever their numbers; gaps, copies and tilt are seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pmfed.cohort.imaging.failures import DIRECTIONS, HOLES, NO_PLACE, SAME_PLACE, SIZES, ScanError
from pmfed.cohort.imaging.fit import evened, oriented
from pmfed.cohort.imaging.geometry import Plane, stack

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def axial(*heights: float) -> list[Plane]:
    return [Plane((5.0, 6.0, height), AXIAL, (0.5, 0.7)) for height in heights]


def turned(seed: int) -> NDArray[np.float64]:
    """Return a random rotation."""
    turn, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    rotation: NDArray[np.float64] = turn * np.sign(np.linalg.det(turn))
    return rotation


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 20), st.floats(0.3, 8), st.randoms())
def test_order_follows_space_in_any_direction(seed: int, number: int, step: float, draw: object) -> None:
    row, column, normal = turned(seed).T
    places = list(range(number))
    draw.shuffle(places)  # type: ignore[attr-defined]
    direction = (*row, *column)
    planes = [Plane(tuple(normal * step * place + 3.0), direction, (0.5, 0.7)) for place in places]
    found = stack(planes)
    assert [places[one] for one in found.order] == list(range(number))
    assert found.even
    assert not found.tilted
    assert found.missing == 0
    # The affine takes (slice, row, column) to where the pixel lies, with DICOM's axes turned to NIfTI's.
    for one in (0, number - 1):
        at = np.array(planes[found.order[one]].position) + row * 0.7 * 4 + column * 0.5 * 2
        np.testing.assert_allclose(found.affine @ [one, 2, 4, 1], [-at[0], -at[1], at[2], 1], atol=1e-6)


def test_missing_slices_are_counted_and_filled_in() -> None:
    found = stack(axial(10, 0, 2, 4, 12))
    assert found.missing == 2
    assert not found.even
    np.testing.assert_allclose(found.places, [0, 1, 2, 5, 6])
    values = np.array([0.0, 1.0, 2.0, 5.0, 6.0], dtype=np.float32)[:, None, None]
    np.testing.assert_allclose(evened(values, found.places)[:, 0, 0], np.arange(7))
    np.testing.assert_allclose(found.affine[:3, 0], [0, 0, 2])


def test_uneven_slices_are_put_on_even_places() -> None:
    found = stack(axial(0, 1, 2.2, 3.2, 4))
    assert found.missing == 0
    assert not found.even
    heights = np.array([0, 1, 2.2, 3.2, 4], dtype=np.float32)[:, None, None]
    np.testing.assert_allclose(evened(heights, found.places)[:, 0, 0], np.arange(5), atol=1e-6)


def test_tilt() -> None:
    planes = [Plane((0.0, float(np.tan(np.radians(12)) * height), height), AXIAL, (1, 1)) for height in np.arange(6.0)]
    assert stack(planes).tilted
    planes = [Plane((0.0, 0.001 * height, height), AXIAL, (1, 1)) for height in np.arange(6.0)]
    assert not stack(planes).tilted


@pytest.mark.parametrize(
    ("planes", "why"),
    [
        ([], NO_PLACE),
        ([*axial(0, 1), None], NO_PLACE),
        ([Plane((0, 0, 0), (0, 0, 0, 0, 0, 0), (1, 1))], NO_PLACE),
        ([Plane((0, 0, 0), (1, 0, 0, 1, 0, 0), (1, 1))], NO_PLACE),
        (axial(0, 1, 1, 2), SAME_PLACE),
        (axial(0, 1, 1.0004, 2), SAME_PLACE),
        (axial(0, 0, 0), SAME_PLACE),
        ([*axial(0, 1), Plane((0, 0, 2), (1, 0, 0, 0, 0, 1), (0.5, 0.7))], DIRECTIONS),
        ([*axial(0, 1), Plane((0, 0, 2), AXIAL, (0.5, 0.8))], SIZES),
        (axial(0, 1, 2, 3, 1000), HOLES),
        (axial(0, 1, 2, 1e9), HOLES),
    ],
)
def test_what_is_no_volume(planes: list[Plane | None], why: str) -> None:
    with pytest.raises(ScanError) as caught:
        stack(planes)
    assert caught.value.reason == why


WILD = st.floats(-1e11, 1e11) | st.sampled_from([0.0, 1.0, -1.0])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.tuples(WILD, WILD, WILD), st.tuples(*[WILD] * 6)), max_size=6))
def test_any_headers_make_a_stack_or_one_of_our_sentences(said: list[tuple[Any, Any]]) -> None:
    with np.errstate(all="raise", under="ignore"):
        for direction in (None, AXIAL):
            try:
                found = stack([Plane(position, direction or turns, (1, 1)) for position, turns in said])
            except ScanError:
                continue
            assert np.isfinite(found.affine).all()
            assert sorted(found.order) == list(range(len(said)))
            assert found.places[-1] <= 2 * len(said)


def test_one_slice_has_a_place() -> None:
    found = stack(axial(3))
    assert found.even
    np.testing.assert_allclose(found.affine @ [0, 0, 0, 1], [-5, -6, 3, 1])


@pytest.mark.parametrize("letters", ["SPL", "RAS", "LPS", "IAR", "PSL"])
def test_orientation_is_nibabels(letters: str) -> None:
    nibabel = pytest.importorskip("nibabel")
    row, column, _ = turned(3).T
    normal = np.cross(row, column)
    planes = [Plane(tuple(normal * 2.5 * place), (*row, *column), (0.5, 0.7)) for place in range(4)]
    affine = stack(planes).affine
    values = np.random.default_rng(0).random((4, 5, 6)).astype(np.float32)
    found, spacing = oriented(values, affine, letters)
    image = nibabel.Nifti1Image(values, affine)
    change = nibabel.orientations.ornt_transform(
        nibabel.io_orientation(affine), nibabel.orientations.axcodes2ornt(tuple(letters))
    )
    wanted = image.as_reoriented(change)
    assert nibabel.aff2axcodes(wanted.affine) == tuple(letters)
    np.testing.assert_array_equal(found, wanted.get_fdata(dtype=np.float32))
    np.testing.assert_allclose(spacing, wanted.header.get_zooms(), rtol=1e-5)
