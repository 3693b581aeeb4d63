"""Pixels of every form and every compression, beside what pydicom's own uncompressed twins hold."""

from __future__ import annotations

import io
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from dicom_files import ENHANCED_CT, picture, sequence
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, RLELossless

from pmfed.cohort.imaging import pixels as module
from pmfed.cohort.imaging.codestream import check_size
from pmfed.cohort.imaging.failures import (
    COMPRESSION,
    CUT_OFF,
    DAMAGED,
    NO_PIXELS,
    RESCALE,
    TOO_LARGE,
    ScanError,
)
from pmfed.cohort.imaging.libraries import quiet
from pmfed.cohort.imaging.pixels import Picture

GREY = np.arange(-32, 32, dtype=np.int16).reshape(8, 8)


def content(data: Any) -> bytes:
    file = io.BytesIO()
    data.save_as(file, enforce_file_format=True)
    return file.getvalue()


def sample(name: str) -> Picture:
    return Picture(Path(str(get_testdata_file(name))).read_bytes())


@pytest.mark.parametrize(
    "name",
    [
        "MR_small_implicit.dcm",
        "MR_small_bigendian.dcm",
        "MR_small_padded.dcm",
        "MR_small_RLE.dcm",
        "MR_small_jp2klossless.dcm",
        "MR_small_jpeg_ls_lossless.dcm",
    ],
)
def test_every_lossless_way_of_writing_gives_the_same(name: str) -> None:
    with quiet():
        found, plain = sample(name).decode(), sample("MR_small.dcm").decode()
    np.testing.assert_array_equal(found.values, plain.values)
    assert (found.low, found.high) == (-32768, 32767)
    assert found.values.max() == 2145


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("SC_rgb_rle.dcm", 0),
        ("SC_rgb_jpeg_gdcm.dcm", 0),  # JPEG lossless
        ("SC_rgb_gdcm_KY.dcm", 0),  # JPEG 2000
        ("SC_rgb_jls_lossy_line.dcm", 0.02),
        ("SC_rgb_dcmtk_+eb+cy+np.dcm", 0.04),  # JPEG baseline, YBR_FULL_422
        ("SC_rgb_dcmtk_+eb+cy+s4.dcm", 0.04),
        ("SC_rgb_dcmtk_+eb+cr.dcm", 0.04),  # RGB
        ("SC_ybr_full_422_uncompressed.dcm", 0.04),
        ("SC_rgb_rle_16bit.dcm", 0.004),
        ("SC_rgb_rle_32bit.dcm", 0.004),
    ],
)
def test_colours_in_every_form(name: str, near: float) -> None:
    found = sample(name).decode()
    assert found.coloured
    # The sample shows bars of pure colours and greys; each row's first pixels are within one bar.
    bars = [[1, 0, 0], [1, 0.5, 0.5], [0, 1, 0], [0.5, 1, 0.5], [0, 0, 1], [0.5, 0.5, 1], [0, 0, 0]]
    np.testing.assert_allclose(found.values[0, 5:75:10, 50], bars, atol=near + 0.003)


def test_a_compression_nobody_reads_is_said_to_be_one(tmp_path: Path) -> None:
    data = picture(GREY)
    data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.102"  # MPEG-4
    data.PixelData = encapsulate([b"\0\0\0\1film"])
    with pytest.raises(ScanError, match=COMPRESSION):
        Picture(content(data))
    twelve_bits = sample("JPGExtended.dcm")
    if find_spec("libjpeg") is None:
        with pytest.raises(ScanError, match=COMPRESSION):
            twelve_bits.decode()
    else:
        assert twelve_bits.decode().values.max() > 255


def test_rescale_signed_and_fewer_bits() -> None:
    data = picture(GREY, RescaleSlope=2, RescaleIntercept=-1024, BitsStored=12, HighBit=11)
    found = Picture(content(data)).decode()
    np.testing.assert_array_equal(found.values[0], GREY * 2.0 - 1024)
    assert (found.low, found.high) == (-2048 * 2 - 1024, 2047 * 2 - 1024)
    unsigned = Picture(content(picture(np.arange(64, dtype=np.uint8).reshape(8, 8), RescaleSlope=-1))).decode()
    assert (unsigned.low, unsigned.high) == (-255, 0)
    assert unsigned.values.min() == -63


def test_bits_above_those_stored_are_not_pixels() -> None:
    dirty = np.full((8, 8), 0x7005, dtype=np.uint16)  # an overlay's bits above twelve of the picture
    found = Picture(content(picture(dirty, BitsStored=12, HighBit=11))).decode()
    assert np.all(found.values == 5)


def test_black_and_white_turned_round() -> None:
    assert Picture(content(picture(GREY, PhotometricInterpretation="MONOCHROME1"))).decode().inverted
    assert not Picture(content(picture(GREY))).decode().inverted


def test_padding_is_nothing() -> None:
    data = picture(GREY, PixelPaddingValue=-32)
    assert np.isnan(Picture(content(data)).decode().values[0, 0, 0])
    data = picture(GREY, PixelPaddingValue=-32, PixelPaddingRangeLimit=-30)
    assert np.isnan(Picture(content(data)).decode().values).sum() == 3


@pytest.mark.parametrize("slope", [b"0       ", b"1e400   ", b"abc     ", b"1\\2     "])
def test_a_rescale_without_sense(slope: bytes) -> None:
    blob = content(picture(GREY, RescaleSlope="1.234567"))
    with pytest.raises(ScanError, match=f"{RESCALE}|{DAMAGED}"):
        Picture(blob.replace(b"1.234567", slope)).decode()


def test_every_frame_has_its_own_rescale_and_place() -> None:
    frames = np.stack([GREY, GREY, GREY])
    per_frame = [
        sequence(
            PixelValueTransformationSequence=sequence(RescaleSlope=frame + 1, RescaleIntercept=frame, RescaleType="HU"),
            PlanePositionSequence=sequence(ImagePositionPatient=[0, 0, 3.0 * frame]),
        )[0]
        for frame in range(3)
    ]
    shared = sequence(
        PlaneOrientationSequence=sequence(ImageOrientationPatient=[1, 0, 0, 0, 1, 0]),
        PixelMeasuresSequence=sequence(PixelSpacing=[0.5, 0.6]),
    )
    data = picture(
        frames, SOPClassUID=ENHANCED_CT, PerFrameFunctionalGroupsSequence=per_frame, PixelSpacing=None,
        SharedFunctionalGroupsSequence=shared, ImagePositionPatient=None, ImageOrientationPatient=None,
    )  # fmt: skip
    whole = Picture(content(data))
    found = whole.decode().values
    np.testing.assert_array_equal(found, [GREY, GREY * 2 + 1, GREY * 3 + 2])
    np.testing.assert_array_equal(whole.decode(2).values[0], found[2])
    planes = whole.planes()
    assert [plane.position[2] for plane in planes if plane] == [0, 3, 6]
    assert {plane.spacing for plane in planes if plane} == {(0.5, 0.6)}


def test_frames_of_a_film_have_no_place_of_their_own() -> None:
    assert Picture(content(picture(np.stack([GREY, GREY])))).planes() == [None, None]


def test_a_modality_table() -> None:
    data = picture(np.arange(64, dtype=np.uint8).reshape(8, 8))
    data.ModalityLUTSequence = sequence(LUTDescriptor=[64, 0, 16], ModalityLUTType="US")
    data.ModalityLUTSequence[0].add_new(0x00283006, "OW", (np.arange(64, dtype="<u2") * 1000).tobytes())
    found = Picture(content(data)).decode()
    np.testing.assert_array_equal(found.values[0].ravel(), np.arange(64) * 1000)
    assert (found.low, found.high) == (0, 65535)


@pytest.mark.parametrize("stored", [8, 16])
def test_palette(stored: int) -> None:
    red = np.arange(64, dtype=np.uint16) * 4 * (1 if stored == 8 else 257)
    descriptor = [64, 0, 16]
    data = picture(np.arange(64, dtype=np.uint8).reshape(8, 8), PhotometricInterpretation="PALETTE COLOR")
    for name, table in (("Red", red), ("Green", red[::-1]), ("Blue", red * 0)):
        setattr(data, f"{name}PaletteColorLookupTableDescriptor", descriptor)
        setattr(data, f"{name}PaletteColorLookupTableData", table.astype("<u2").tobytes())
    found = Picture(content(data)).decode()
    np.testing.assert_allclose(found.values[0, ..., 0].ravel(), np.arange(64) * 4 / 255, atol=1e-6)
    np.testing.assert_allclose(found.values[0, ..., 1].ravel(), np.arange(64)[::-1] * 4 / 255, atol=1e-6)
    assert not found.values[..., 2].any()
    assert sample("examples_palette.dcm").decode().values.shape == (1, 350, 800, 3)


def test_floats_keep_what_is_not_a_number() -> None:
    values = np.array([[1.5, np.nan], [np.inf, -2]], dtype=np.float32)
    data = picture(GREY[:2, :2], PixelData=None, BitsAllocated=32, BitsStored=None, HighBit=None)
    data.FloatPixelData = values.tobytes()
    found = Picture(content(data)).decode()
    np.testing.assert_array_equal(np.isnan(found.values[0]), [[False, True], [True, False]])
    assert np.isnan(found.high)


def test_what_is_cut_off_or_empty() -> None:
    with pytest.raises(ScanError, match=CUT_OFF):
        Picture(content(picture(GREY, PixelData=GREY.tobytes()[:100])))
    for missing in ("PixelData", "Rows"):
        with pytest.raises(ScanError, match=NO_PIXELS):
            Picture(content(picture(GREY, **{missing: None})))
    with pytest.raises(ScanError, match=DAMAGED):
        Picture(b"\0" * 200)


@pytest.mark.parametrize("said", [{"Rows": 65535, "Columns": 65535}, {"NumberOfFrames": 2**31 - 1}])
@pytest.mark.parametrize("syntax", [None, RLELossless, JPEG2000Lossless])
def test_a_header_that_claims_too_much_is_refused_before_decoding(said: dict[str, int], syntax: str | None) -> None:
    data = picture(GREY)
    if syntax is not None:
        data.file_meta.TransferSyntaxUID = syntax
        data.PixelData = encapsulate([b"\xff\x4f\xff\x51" + bytes(40)])
    for name, value in said.items():
        setattr(data, name, value)
    with pytest.raises(ScanError, match=TOO_LARGE):
        Picture(content(data))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("MR_small_jp2klossless.dcm", (64, 64, 1)),
        ("MR_small_jpeg_ls_lossless.dcm", (64, 64, 1)),
        ("SC_rgb_jpeg_dcmtk.dcm", (100, 100, 3)),
        ("SC_rgb_jpeg_gdcm.dcm", (100, 100, 3)),
        ("examples_jpeg2k.dcm", (480, 640, 3)),
    ],
)
def test_a_frame_that_claims_another_size_is_refused_before_decoding(name: str, shape: tuple[int, int, int]) -> None:
    data = pydicom.dcmread(str(get_testdata_file(name)))
    (frame,) = pydicom.encaps.generate_frames(data.PixelData, number_of_frames=1)
    check_size(frame, *shape)
    big = (60000).to_bytes(4 if b"\xff\x4f\xff\x51" in frame else 2, "big")
    rows = shape[0].to_bytes(len(big), "big")
    lying = frame.replace(rows, big) if len(big) == 4 else frame.replace(rows + shape[1].to_bytes(2, "big"), big + big)
    with pytest.raises(ScanError, match=DAMAGED):
        check_size(lying, *shape)
    data.PixelData = encapsulate([lying])
    with pytest.raises(ScanError, match=DAMAGED):
        Picture(content(data))
    for end in range(0, 12, 2):
        with pytest.raises(ScanError, match=DAMAGED):
            check_size(frame[:end], *shape)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([b"", b"\xff\xd8", b"\xff\xd8\xff\xe0\0\4ab", b"\xff\x4f\xff\x51"]), st.binary(max_size=80))
def test_random_frames_have_no_size_of_ours(start: bytes, rest: bytes) -> None:
    with pytest.raises(ScanError, match=DAMAGED):
        check_size(start + rest, 70_000, 70_000, 5)


@pytest.mark.parametrize(
    "name", ["MR_small_jp2klossless.dcm", "MR_small_RLE.dcm", "SC_rgb_jpeg_gdcm.dcm", "SC_rgb_dcmtk_+eb+cr.dcm"]
)
def test_damaged_frames_are_one_sentence(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    data = pydicom.dcmread(str(get_testdata_file(name)))
    data.PatientID, data.PatientName = "CANARY1", "CANARY2"
    (frame,) = pydicom.encaps.generate_frames(data.PixelData, number_of_frames=1)
    data.PixelData = encapsulate([frame[: len(frame) // 3]])
    with quiet(), suppress(ScanError):  # some decoders make up the rest
        Picture(content(data)).decode()
    data.PixelData = encapsulate([frame[:20] + bytes(200)])
    with quiet(), pytest.raises(ScanError, match=DAMAGED):
        Picture(content(data)).decode()
    said = capfd.readouterr()  # a decoder may complain of the frame it was given, which is all that it knows
    assert said.out == ""
    assert not any(str(data[name].value) in said.err for name in ("PatientID", "PatientName", "SOPInstanceUID"))


def test_the_bound_holds_for_colours_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_VALUES", 8 * 8 * 3 - 1)
    Picture(content(picture(GREY)))
    with pytest.raises(ScanError, match=TOO_LARGE):
        Picture(content(picture(np.zeros((8, 8, 3), dtype=np.uint8))))
