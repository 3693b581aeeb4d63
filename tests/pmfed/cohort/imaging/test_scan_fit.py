"""Window, spacing and size, beside what torch and MONAI make of the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import interpolate

from pmfed.cohort.imaging.failures import COLOUR, COLOUR_SPACE, EMPTY, NO_SPACING, OTHER_SIZE, ScanError
from pmfed.cohort.imaging.fit import coloured, sized, windowed

RNG = np.random.default_rng(0)


def test_window() -> None:
    values = np.array([-1000, -160, 40, 240, 3000, np.nan, np.inf], dtype=np.float32)
    np.testing.assert_allclose(windowed(values.copy(), (40, 400)), [0, 0, 0.5, 1, 1, 0, 0])
    np.testing.assert_allclose(windowed(values.copy(), (40, 400), inverted=True), [1, 1, 0.5, 0, 0, 0, 0])


def test_bits() -> None:
    values = np.array([-2048, 0, 2047], dtype=np.float32)
    np.testing.assert_allclose(windowed(values, "bits", (-2048, 2047)), [0, 2048 / 4095, 1], rtol=1e-6)
    for stored in ((np.nan, np.nan), (5, 5)):
        with pytest.raises(ScanError, match=COLOUR_SPACE):
            windowed(values, "bits", stored)


def test_own() -> None:
    values = np.linspace(0, 1000, 10_001, dtype=np.float32)
    found = windowed(values.copy(), "own")
    np.testing.assert_allclose(found[[0, 100, 5000, 9900, 10_000]], [0, 0, 0.5, 1, 1], atol=1e-3)
    assert not windowed(np.full(9, 7, dtype=np.float32), "own").any()
    holes = np.array([np.nan, np.nan, np.nan, 5], dtype=np.float32)
    assert np.isfinite(windowed(holes, "own")).all()


def test_nothing_at_all() -> None:
    with pytest.raises(ScanError, match=EMPTY):
        windowed(np.full(9, np.nan, dtype=np.float32), "own")


def test_colours() -> None:
    values = RNG.random((4, 5, 3)).astype(np.float32)
    assert coloured(values, 3, "bits") is values
    np.testing.assert_allclose(coloured(values, 1, "bits"), values @ [0.299, 0.587, 0.114], rtol=1e-5)
    with pytest.raises(ScanError, match=COLOUR):
        coloured(values, 1, (40, 400))


@settings(max_examples=40, deadline=None)
@given(st.tuples(*[st.integers(2, 40)] * 4))  # torch has a width of 1 wrong
def test_stretching_is_torchs(sizes: tuple[int, ...]) -> None:
    have, want = sizes[:2], sizes[2:]
    values = np.random.default_rng(sum(sizes)).random(have).astype(np.float32)
    found = sized(values, None, want, None, "stretch")
    theirs = interpolate(torch.tensor(values)[None, None], want, mode="bilinear", antialias=True, align_corners=False)
    np.testing.assert_allclose(found, theirs[0, 0].numpy(), atol=3e-5)


def test_colours_are_stretched_alike() -> None:
    values = RNG.random((9, 7, 3)).astype(np.float32)
    found = sized(values, None, (4, 5), None, "stretch")
    assert found.shape == (4, 5, 3)
    np.testing.assert_allclose(found[..., 1], sized(values[..., 1].copy(), None, (4, 5), None, "stretch"), rtol=1e-6)


def test_a_volume_of_another_spacing_is_monais() -> None:
    """Where the grid becomes finer, nothing is averaged, and MONAI's Spacing and crop give the same numbers."""
    transforms = pytest.importorskip("monai.transforms")
    from monai.data import MetaTensor

    values = RNG.random((11, 13, 9)).astype(np.float32)
    affine = np.diag([3.0, 2.0, 2.5, 1.0])
    image = MetaTensor(torch.tensor(values)[None], affine=torch.tensor(affine))
    finer = transforms.Spacing((1.5, 1.0, 1.25), mode="bilinear", padding_mode="border", align_corners=True)(image)
    wanted = transforms.CenterSpatialCrop((15, 19, 13))(finer)[0].numpy()
    found = sized(values, (3.0, 2.0, 2.5), (15, 19, 13), (1.5, 1.0, 1.25), "exact")
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_the_middle_stays_in_the_middle_and_the_rest_is_black() -> None:
    values = np.ones((4, 4), dtype=np.float32)
    found = sized(values, (1.0, 1.0), (8, 6), (1.0, 1.0), "exact")
    wanted = np.zeros((8, 6))
    wanted[2:6, 1:5] = 1
    np.testing.assert_array_equal(found, wanted)
    coarse = sized(np.ones((1, 4), dtype=np.float32), (1.0, 1.0), (1, 6), (1.0, 2.0), "exact")
    np.testing.assert_array_equal(coarse[0], [0, 0, 1, 1, 0, 0])
    ramp = np.arange(100, dtype=np.float32)[None].repeat(3, axis=0)
    np.testing.assert_allclose(sized(ramp, (1, 1), (1, 11), (1, 2), "exact")[0], np.arange(39.5, 60, 2), atol=1e-4)


@pytest.mark.parametrize("spacing", [1e-9, 1e9])
def test_a_header_that_claims_nonsense_costs_nothing(spacing: float) -> None:
    found = sized(np.ones((64, 64), dtype=np.float32), (spacing, spacing), (32, 32), (1.0, 1.0), "exact")
    assert found.shape == (32, 32)
    assert np.isfinite(found).all()


def test_nothing_is_resized_silently() -> None:
    values = np.ones((4, 4), dtype=np.float32)
    assert sized(values, None, (4, 4), None, "exact") is values
    with pytest.raises(ScanError, match=OTHER_SIZE):
        sized(values, None, (4, 5), None, "exact")
    with pytest.raises(ScanError, match=NO_SPACING):
        sized(values, None, (4, 4), (1.0, 1.0), "exact")
