"""NIfTI as converters write it: the right numbers and the right way round, or a sentence. See docs/formats.md."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from typing import Any

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

from pmfed.cohort.imaging.failures import (
    CUT_OFF,
    DAMAGED,
    NO_PLACE,
    NOT_NIFTI,
    NOT_SCALAR,
    SEVERAL_VOLUMES,
    TOO_LARGE,
    ScanError,
)
from pmfed.cohort.imaging.nifti import decode_nifti

VALUES = np.arange(24, dtype=np.int16).reshape(2, 3, 4)


def whole(values: NDArray[Any] = VALUES, two: bool = False, **said: Any) -> bytes:
    """Return a file with some of its header's fields changed afterwards."""
    kind = nibabel.Nifti2Image if two else nibabel.Nifti1Image
    content = kind(values, np.diag([2.0, 3, 4, 1])).to_bytes()
    start = content[: 540 if two else 348]
    header = (nibabel.Nifti2Header if two else nibabel.Nifti1Header)(start, check=False)
    for name, value in said.items():
        header[name] = value
    return bytes(header.binaryblock) + content[len(start) :]


def decoded(content: bytes) -> NDArray[np.float32]:
    return decode_nifti(content, None)[0]


@pytest.mark.parametrize("two", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_voxels_that_begin_right_behind_the_header(two: bool, packed: bool) -> None:
    """An offset of 0 in a single file is what some writers mean by that."""
    content = whole(two=two, vox_offset=0)
    np.testing.assert_array_equal(decoded(gzip.compress(content) if packed else content), VALUES)


@pytest.mark.parametrize("offset", [1, 100, 348, 351, 352.5, -16, 2**30])
def test_an_offset_into_the_header_or_nowhere(offset: float) -> None:
    with pytest.raises(ScanError, match=f"{DAMAGED}|{CUT_OFF}|{TOO_LARGE}"):
        decoded(whole(vox_offset=offset))


def test_an_offset_of_nothing_where_extensions_follow() -> None:
    content = bytearray(whole(vox_offset=0))
    content[348] = 1
    with pytest.raises(ScanError, match=DAMAGED):
        decoded(bytes(content))


def test_extensions_are_stepped_over() -> None:
    image = nibabel.Nifti1Image(VALUES, np.eye(4))
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"CANARY" * 50))
    np.testing.assert_array_equal(decoded(image.to_bytes()), VALUES)


@pytest.mark.parametrize(
    ("slope", "intercept", "expected"),
    [(2, 5, 2 * VALUES + 5), (0, 7, VALUES), (np.nan, np.nan, VALUES), (-1, 0, -VALUES), (1, 0, VALUES)],
)
def test_slope_and_intercept(slope: float, intercept: float, expected: NDArray[Any]) -> None:
    """0 and not a number mean none; nilearn and SPM write either."""
    np.testing.assert_array_equal(decoded(whole(scl_slope=slope, scl_inter=intercept)), expected)


def test_either_byte_order() -> None:
    image = nibabel.Nifti1Image(VALUES, np.eye(4), nibabel.Nifti1Header(endianness=">"))
    image.header.set_data_dtype(np.int16)
    np.testing.assert_array_equal(decoded(image.to_bytes()), VALUES)


@pytest.mark.parametrize(
    "kind", ["u1", "i1", "u2", "i4", "u4", "i8", "u8", "f4", "f8"]
)  # what MRIcroGL, FreeSurfer, ITK and numpy write
def test_every_kind_of_plain_number(kind: str) -> None:
    header = nibabel.Nifti1Header()
    header.set_data_dtype(kind)
    np.testing.assert_array_equal(
        decoded(nibabel.Nifti1Image(VALUES.astype(kind), np.eye(4), header).to_bytes()), VALUES
    )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"datatype": 128, "bitpix": 24}, NOT_SCALAR),  # red, green and blue
        ({"datatype": 32, "bitpix": 64}, NOT_SCALAR),  # complex: which of its parts is meant?
        ({"sform_code": 0, "qform_code": 0}, NO_PLACE),
        ({"sform_code": 1, "srow_x": [0, 0, 0, 0]}, NO_PLACE),
        ({"sform_code": 1, "srow_x": [np.nan, 0, 0, 0]}, NO_PLACE),
        ({"magic": b"ni1"}, NOT_NIFTI),  # a header whose voxels are in another file
        ({"magic": b""}, NOT_NIFTI),  # Analyze
        ({"dim": [3, 2, 3, 400, 1, 1, 1, 1]}, CUT_OFF),
        ({"dim": [3, 2, 0, 4, 1, 1, 1, 1]}, NOT_SCALAR),
    ],
)
def test_what_is_no_scan(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ScanError, match=f"^{says.replace('(', '.').replace(')', '.')}$"):
        decoded(whole(**change))


def test_a_vector_or_a_series_is_no_volume() -> None:
    with pytest.raises(ScanError, match=SEVERAL_VOLUMES):
        decoded(whole(np.zeros((2, 3, 4, 1, 3), np.float32)))
    with pytest.raises(ScanError, match=SEVERAL_VOLUMES):
        decoded(whole(np.zeros((2, 3, 4, 2), np.int16)))
    assert decoded(whole(np.zeros((2, 3, 4, 1), np.int16))).shape == (2, 3, 4)
    assert decoded(whole(np.zeros((2, 3), np.int16))).shape == (2, 3, 1)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda header: header.set_xyzt_units("meter"), np.diag([2000.0, 3000, 4000, 1])),
        (lambda header: header.set_xyzt_units("micron"), np.diag([0.002, 0.003, 0.004, 1])),
        (lambda header: header.set_xyzt_units("mm", "sec"), np.diag([2.0, 3, 4, 1])),
        (lambda header: header.set_xyzt_units(), np.diag([2.0, 3, 4, 1])),
        (lambda header: header.set_sform(np.diag([-2.0, 3, 4, 1]), 1), np.diag([-2.0, 3, 4, 1])),
        (lambda header: header.set_qform(np.diag([-2.0, 3, 4, 1]), 1), np.diag([2.0, 3, 4, 1])),  # the sform counts
    ],
)
def test_where_it_lies(change: Callable[[Any], Any], place: NDArray[np.float64]) -> None:
    image = nibabel.Nifti1Image(VALUES, np.diag([2.0, 3, 4, 1]))
    image.header.set_sform(np.diag([2.0, 3, 4, 1]), 2)
    change(image.header)
    content = bytes(image.header.binaryblock) + image.to_bytes()[348:]
    np.testing.assert_allclose(decode_nifti(content, None)[1], place, rtol=1e-5, atol=1e-9)


def test_the_sign_of_the_third_axis() -> None:
    """pixdim[0] of a qform: -1 turns the slices round, 0 is read as 1 (NIfTI-1, qfac)."""
    image = nibabel.Nifti1Image(VALUES, None)
    image.header.set_qform(np.diag([2.0, 3, -4, 1]), 1)
    image.header.set_sform(None, 0)
    content = bytes(image.header.binaryblock) + image.to_bytes()[348:]
    up, down = (decode_nifti(one, None)[1][2, 2] for one in (_with_qfac(content, 0), content))
    assert abs(up) == abs(down) == 4
    assert up == -down


def _with_qfac(content: bytes, sign: float) -> bytes:
    header = nibabel.Nifti1Header(content[:348], check=False)
    header["pixdim"][0] = sign
    return bytes(header.binaryblock) + content[348:]
