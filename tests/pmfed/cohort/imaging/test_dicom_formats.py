"""DICOM as scanners, archives and anonymisers write it: the right numbers, or a sentence. See docs/formats.md."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_files import ENHANCED_CT, picture, read, save, sequence, spec
from numpy.typing import NDArray
from pydicom.uid import ImplicitVRLittleEndian, JPEG2000Lossless, RLELossless

from pmfed.cohort.imaging.header import read_header
from pmfed.cohort.imaging.places import Places
from pmfed.cohort.tables import Problems
from pmfed.errors import DataError
from pmfed.modality.scans import Link, Series

RESCALED = {"RescaleSlope": 1, "RescaleIntercept": -1000}
ANY = Series(modality=("*",))


def flat(value: int, shape: tuple[int, int] = (8, 8)) -> NDArray[np.int16]:
    return np.full(shape, value, dtype=np.int16)


def slices(folder: Path, values: list[int], said: dict[int, dict[str, Any]] | None = None, **all_said: Any) -> None:
    for place, value in enumerate(values):
        more = {"ImagePositionPatient": [0, 0, place], **RESCALED, **all_said, **((said or {}).get(place, {}))}
        save(picture(flat(value), instance=str(place), **more), folder / f"{place}.dcm")


def volume(folder: Path, size: int = 4, **said: Any) -> list[float]:
    block = read(spec(size=(size, 8, 8), **{"window": (500.0, 1000.0), "series": ANY, **said}), folder)
    return [round(float(one), 3) for one in block.inputs[0, 0, :, 0, 0]]


def refused(says: str, folder: Path, **said: Any) -> str:
    with pytest.raises(DataError, match=says) as caught:
        read(spec(**{"series": ANY, "window": (500.0, 1000.0), **said}), folder)
    assert "canary" not in str(caught.value).lower()
    return str(caught.value)


# The unit of grey values.


@pytest.mark.parametrize("where", [0, 2, 3])
@pytest.mark.parametrize("gone", [("RescaleSlope", "RescaleIntercept"), ("RescaleIntercept",)])
@pytest.mark.parametrize("size", [(4, 8, 8), (8, 8)])
def test_a_rescale_that_one_slice_lacks(
    tmp_path: Path, where: int, gone: tuple[str, ...], size: tuple[int, ...]
) -> None:
    """dcm2niix#973: whatever the picture is made of, the series cannot be trusted."""
    slices(tmp_path, [1000, 1100, 1200, 1300], {where: dict.fromkeys(gone)})
    for view in ("middle", "brightest") if len(size) == 2 else ("middle",):
        refused("hold slices in several units, or with and without a rescale: 1 of 1", tmp_path, size=size, view=view)


def test_slopes_of_their_own_are_no_mixture(tmp_path: Path) -> None:
    slices(tmp_path, [1000] * 4, {place: {"RescaleSlope": place + 1, "RescaleIntercept": -1000} for place in range(4)})
    assert volume(tmp_path, window=(2000.0, 4000.0)) == [0, 0.25, 0.5, 0.75]


def test_frames_with_and_without_a_rescale(tmp_path: Path) -> None:
    frames = [
        sequence(
            PlanePositionSequence=sequence(ImagePositionPatient=[0, 0, place]),
            **({"PixelValueTransformationSequence": sequence(RescaleType="HU", **RESCALED)} if place != 1 else {}),
        )[0]
        for place in range(3)
    ]
    save(picture(np.stack([flat(1000)] * 3), SOPClassUID=ENHANCED_CT, PerFrameFunctionalGroupsSequence=frames), tmp_path / "a")  # fmt: skip
    refused("hold slices in several units", tmp_path, size=(3, 8, 8))


@pytest.mark.parametrize(
    ("said", "modality", "unit"),
    [
        ({"RescaleType": "MGML"}, "CT", "MGML"),  # iodine of a dual-energy CT
        ({"RescaleType": "Z_EFF"}, "CT", "Z_EFF"),
        ({"RescaleType": "HU_MOD"}, "CT", "HU_MOD"),
        ({"Units": "BQML"}, "PT", "BQML"),
        ({}, "PT", "US"),
        ({"Units": "CNTS"}, "NM", "CNTS"),
        ({"DoseGridScaling": 1.0, "DoseUnits": "GY", "RescaleSlope": None, "RescaleIntercept": None}, "RTDOSE", "GY"),
    ],
)
def test_a_window_is_in_one_unit(tmp_path: Path, said: dict[str, Any], modality: str, unit: str) -> None:
    slices(tmp_path, [1000, 1100, 1200, 1300], Modality=modality, **said)
    refused("are in another unit than the study's window is for: 1 of 1", tmp_path, size=(4, 8, 8))
    offset = 0 if unit == "GY" else -1000
    expected = np.clip((np.array([1000, 1100, 1200, 1300]) + offset) / 2000, 0, 1)
    np.testing.assert_allclose(volume(tmp_path, unit=unit, window=(1000.0, 2000.0)), expected, atol=1e-3)
    refused("are in another unit", tmp_path, size=(4, 8, 8), unit="HU")
    assert volume(tmp_path, window="own") == [0, 0.333, 0.667, 1]  # one unit within the scan is all it needs


def test_hounsfield_units_need_not_be_named_and_may_be(tmp_path: Path) -> None:
    slices(tmp_path, [1000, 1100, 1200, 1300])
    assert volume(tmp_path, unit="HU") == volume(tmp_path) == [0, 0.1, 0.2, 0.3]


def test_what_is_taken_on_trust_is_said(tmp_path: Path) -> None:
    save(picture(flat(1), RescaleType="US", RescaleSlope=1, RescaleIntercept=0), tmp_path / "a")
    save(picture(flat(1), patient="p2", RescaleType="MGML", RescaleSlope=1, RescaleIntercept=0), tmp_path / "b")
    told = " ".join(read(spec(), tmp_path, ["p1"]).warnings)
    assert "series of CT without a rescale to Hounsfield units, taken as they are: 1." in told
    told = " ".join(read(spec(window="own"), tmp_path, ["p1", "p2"]).warnings)
    assert "series in 2 units or none" in told


PET: dict[str, Any] = {
    "Modality": "PT", "Units": "BQML", "DecayCorrection": "START", "CorrectedImage": ["ATTN", "DECY"], "PatientWeight": 70.0,
    "SeriesTime": "130000", "AcquisitionTime": "130500", "RescaleSlope": 2.0, "RescaleIntercept": 0,
}  # fmt: skip
DRUG = {"RadionuclideTotalDose": 3.5e8, "RadionuclideHalfLife": 6586.2, "RadiopharmaceuticalStartTime": "120000.00"}


@pytest.mark.parametrize(
    ("said", "drug", "factor"),
    [
        ({}, {}, 70_000 / (3.5e8 * 2 ** (-3600 / 6586.2))),
        ({"SeriesTime": "003000", "AcquisitionTime": "003000"}, {"RadiopharmaceuticalStartTime": "233000"},
         70_000 / (3.5e8 * 2 ** (-3600 / 6586.2))),
        ({}, {"RadiopharmaceuticalStartTime": None, "RadiopharmaceuticalStartDateTime": "20200102120000"},
         70_000 / (3.5e8 * 2 ** (-3600 / 6586.2))),
        ({"DecayCorrection": "ADMIN"}, {}, 70_000 / 3.5e8),
        ({"Units": "GML"}, {}, 1.0),
        ({"Units": "GML", "SUVType": "BW", "PatientWeight": None}, {}, 1.0),
    ],
)  # fmt: skip
def test_standardised_uptake_values(tmp_path: Path, said: dict[str, Any], drug: dict[str, Any], factor: float) -> None:
    """By body weight, as QIBA's pseudo-code computes them; every slice has a slope of its own."""
    injected = {key: value for key, value in {**DRUG, **drug}.items() if value is not None}
    for place in range(3):
        more = {**PET, "RescaleSlope": 2.0 + place, "ImagePositionPatient": [0, 0, place], **said}
        data = picture(
            flat(1000), instance=str(place), RadiopharmaceuticalInformationSequence=sequence(**injected), **more
        )
        save(data, tmp_path / str(place))
    top = 4000 * factor
    found = volume(tmp_path, 3, unit="SUV", window=(top / 2, top))
    assert found == [0.5, 0.75, 1.0]


def test_philips_counts_have_a_factor_of_their_own(tmp_path: Path) -> None:
    for place in range(2):
        data = picture(
            flat(1000), instance=str(place), **{**PET, "Units": "CNTS", "ImagePositionPatient": [0, 0, place]}
        )
        data.private_block(0x7053, "Philips PET Private Group", create=True).add_new(0x00, "DS", "0.0005")
        save(data, tmp_path / str(place))
    assert volume(tmp_path, 2, unit="SUV", window=(1.0, 2.0)) == [0.5, 0.5]


@pytest.mark.parametrize(
    "said",
    [
        {"PatientWeight": None},
        {"PatientWeight": 0},
        {"DecayCorrection": "NONE"},
        {"CorrectedImage": ["ATTN"]},
        {"SeriesTime": "140000"},  # after the acquisition: that of a later processing
        {"Units": "CNTS"},
        {"Units": "GML", "SUVType": "LBM"},
        {"RadiopharmaceuticalInformationSequence": None},
    ],
)
def test_an_uptake_that_cannot_be_computed(tmp_path: Path, said: dict[str, Any]) -> None:
    data = picture(flat(1000), **{**PET, "RadiopharmaceuticalInformationSequence": sequence(**DRUG), **said})
    save(data, tmp_path / "canary")
    refused("lack what a standardised uptake value is computed from: 1 of 1", tmp_path, unit="SUV")


# Bits.


@pytest.mark.parametrize(
    ("stored", "high", "signed"), [(12, 15, 0), (12, 15, 1), (10, 13, 0), (10, 13, 1), (8, 15, 0), (12, 11, 1)]
)
@pytest.mark.parametrize("syntax", [None, RLELossless])
def test_bits_wherever_they_lie(tmp_path: Path, stored: int, high: int, signed: int, syntax: str | None) -> None:
    """Legal until 2014 (PS3.5 section 8.1.1): fo-dicom#140. What lies beside them is an overlay or nothing."""
    low = -(2 ** (stored - 1)) if signed else 0
    values = np.arange(64).reshape(8, 8) * (2**stored // 64) + low
    shift = high + 1 - stored
    cells = ((values & (2**stored - 1)) << shift) | ((1 << shift) - 1)
    if high < 15:
        cells = cells | (1 << (high + 1))
    kind = np.int16 if signed else np.uint16
    data = picture(cells.astype(np.uint16).view(kind), RescaleSlope=1, RescaleIntercept=0)
    if syntax is not None:
        data.compress(syntax, generate_instance_uid=False)
    data.BitsStored, data.HighBit = stored, high
    save(data, tmp_path / "a")
    found = read(spec(window="bits", series=ANY), tmp_path).inputs[0, 0]
    np.testing.assert_allclose(found, (values - low) / (2**stored - 1), atol=1e-6)


@pytest.mark.parametrize(("stored", "high"), [(12, 10), (12, 16), (17, 16)])
def test_bits_that_lie_nowhere(tmp_path: Path, stored: int, high: int) -> None:
    save(picture(flat(1), BitsStored=stored, HighBit=high), tmp_path / "a")
    refused("have their bits in a place that is not known: 1 of 1", tmp_path)


def test_bits_of_a_compressed_picture_lie_where_its_codec_says(tmp_path: Path) -> None:
    data = picture(flat(5, (64, 64)).astype(np.uint16), BitsStored=12, HighBit=11)
    data.compress(JPEG2000Lossless, generate_instance_uid=False)
    data.HighBit = 15
    save(data, tmp_path / "a")
    refused("have their bits in a place that is not known", tmp_path)


@pytest.mark.parametrize(
    ("kind", "stored", "value", "padding", "vr"),
    [
        (np.int16, 16, -2000, 63536, "US"),  # dicom-rs#460
        (np.int16, 12, -2000, 63536, "US"),
        (np.int16, 12, -2000, 2096, "US"),
        (np.int16, 16, -2000, -2000, "SS"),
        (np.uint16, 16, 63536, -2000, "SS"),
        (np.uint16, 12, 4095, 4095, "US"),
    ],
)
def test_padding_in_whatever_way_it_is_written(
    tmp_path: Path, kind: type[np.generic], stored: int, value: int, padding: int, vr: str
) -> None:
    values = np.tile(np.arange(8) * 10, (8, 1)).astype(kind)
    values[0] = value
    data = picture(values, BitsStored=stored, HighBit=stored - 1)
    data.add_new(0x00280120, vr, padding)
    save(data, tmp_path / "a")
    found = read(spec(window="own", series=ANY), tmp_path).inputs[0, 0]
    assert not found[0].any()  # black
    np.testing.assert_allclose(found[1:], np.tile(np.arange(8) / 7, (7, 1)), atol=0.02)  # and not stretched over it


def test_padding_that_no_pixel_can_be_hides_none(tmp_path: Path) -> None:
    save(picture((np.arange(64) * 65).reshape(8, 8).astype(np.uint16), BitsStored=12, HighBit=11), tmp_path / "a")
    plain = read(spec(window="bits"), tmp_path).inputs
    data = picture((np.arange(64) * 65).reshape(8, 8).astype(np.uint16), BitsStored=12, HighBit=11)
    data.add_new(0x00280120, "US", 63536)
    save(data, tmp_path / "a")
    np.testing.assert_array_equal(read(spec(window="bits"), tmp_path).inputs, plain)


# Distances.


@pytest.mark.parametrize(
    ("said", "millimetres"),
    [
        ({"PixelSpacing": [0.5, 0.5]}, 0.5),
        ({"ImagerPixelSpacing": [1, 1], "EstimatedRadiographicMagnificationFactor": 2.0}, 0.5),  # Weasis#465, dwv#1996
        ({"ImagerPixelSpacing": [1, 1], "DistanceSourceToDetector": 1800, "DistanceSourceToPatient": 900}, 0.5),
        ({"PixelSpacing": [1, 1], "ImagerPixelSpacing": [1, 1], "EstimatedRadiographicMagnificationFactor": 2.0}, 0.5),
        ({"PixelSpacing": [1, 1], "ImagerPixelSpacing": [1, 1], "PixelSpacingCalibrationType": "FIDUCIAL",
          "EstimatedRadiographicMagnificationFactor": 2.0}, 1.0),
        ({"PixelSpacing": [0.5, 0.5], "ImagerPixelSpacing": [1, 1], "EstimatedRadiographicMagnificationFactor": 2.0}, 0.5),
        ({"ImagerPixelSpacing": [0.5, 0.5]}, 0.5),
        ({"ImagerPixelSpacing": [0.5, 0.5], "EstimatedRadiographicMagnificationFactor": 0}, 0.5),
        ({"NominalScannedPixelSpacing": [0.5, 0.5]}, 0.5),  # a digitised film
        ({"SequenceOfUltrasoundRegions": sequence(PhysicalUnitsXDirection=3, PhysicalUnitsYDirection=3, PhysicalDeltaX=0.05,
          PhysicalDeltaY=0.05)}, 0.5),
    ],
)  # fmt: skip
def test_distances_are_those_in_the_patient(tmp_path: Path, said: dict[str, Any], millimetres: float) -> None:
    values = np.pad(flat(1000, (2, 2)), 3)
    more = {"PixelSpacing": None, "Modality": "DX", **said}
    save(picture(values, **more), tmp_path / "a")
    block = read(spec(size=(8, 8), window=(500.0, 1000.0), series=ANY, spacing=(0.5, 0.5)), tmp_path)
    assert (block.inputs[0, 0] > 0.5).sum() == (4 if millimetres == 0.5 else 16)


def test_distances_that_nobody_says(tmp_path: Path) -> None:
    two = [
        sequence(PhysicalUnitsXDirection=3, PhysicalUnitsYDirection=3, PhysicalDeltaX=0.1, PhysicalDeltaY=0.1)[0]
    ] * 2
    for said in ({}, {"PixelSpacing": [0, 0]}, {"SequenceOfUltrasoundRegions": two}):
        save(picture(flat(1), **{"PixelSpacing": None, "Modality": "US", **said}), tmp_path / "a")
        refused("say nothing of the distance between pixels", tmp_path, spacing=(1.0, 1.0))


# Enhanced objects and mosaics.


@pytest.mark.parametrize("shared", [True, False])
def test_one_frame_per_enhanced_file(tmp_path: Path, shared: bool) -> None:
    """Siemens XA: what is said of the frame stands in functional groups, whose rescale is its own."""
    for place in range(3):
        said = {
            "PlaneOrientationSequence": sequence(ImageOrientationPatient=[1, 0, 0, 0, 1, 0]),
            "PixelMeasuresSequence": sequence(PixelSpacing=[2, 2]),
        }
        own = {
            "PlanePositionSequence": sequence(ImagePositionPatient=[0, 0, 2 * place]),
            "PixelValueTransformationSequence": sequence(RescaleSlope=place + 1, RescaleIntercept=0, RescaleType="HU"),
        }
        groups = {
            "SharedFunctionalGroupsSequence": sequence(**(said if shared else {})),
            "PerFrameFunctionalGroupsSequence": sequence(**own, **({} if shared else said)),
        }
        data = picture(
            flat(100), instance=str(place), SOPClassUID=ENHANCED_CT, NumberOfFrames=1, PixelSpacing=None, InstanceNumber=9 - place,
            ImagePositionPatient=None, ImageOrientationPatient=None, **groups,
        )  # fmt: skip
        save(data, tmp_path / f"{9 - place}")
    assert volume(tmp_path, 3) == [0.1, 0.2, 0.3]
    assert volume(tmp_path, 3, spacing=(2.0, 2.0, 2.0)) == [0.1, 0.2, 0.3]
    middle = read(spec(series=ANY, window=(500.0, 1000.0)), tmp_path)
    assert middle.inputs[0, 0, 0, 0] == pytest.approx(0.2)
    assert not any("no position" in one for one in middle.warnings)


@pytest.mark.parametrize("kind", [["ORIGINAL", "PRIMARY", "M", "MOSAIC"], ["ORIGINAL", "PRIMARY", "VFRAME"]])
@pytest.mark.parametrize("size", [(8, 8), (4, 8, 8)])
@pytest.mark.parametrize("files", [1, 3])
def test_mosaics_are_said_to_be_some(tmp_path: Path, kind: list[str], size: tuple[int, ...], files: int) -> None:
    for place in range(files):
        save(picture(flat(1), instance=str(place), ImageType=kind, Modality="MR"), tmp_path / str(place))
    refused("are mosaics: many slices in one picture: 1 of 1", tmp_path, size=size)


@pytest.mark.parametrize("implicit", [False, True])
def test_mosaics_whose_kind_was_stripped(tmp_path: Path, implicit: bool) -> None:
    data = picture(flat(1), Modality="MR")
    data.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0A, "US", 36)
    if implicit:
        data.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    save(data, tmp_path / "a")
    refused("are mosaics: many slices in one picture: 1 of 1", tmp_path)


# Identity.


def test_the_same_picture_twice_counts_once_however_it_is_packed(tmp_path: Path) -> None:
    slices(tmp_path, [1000, 1100, 1200, 1300])
    copy = picture(
        flat(1100), instance="1", ImagePositionPatient=[0, 0, 1], InstanceNumber=77, AccessionNumber="x", **RESCALED
    )
    save(copy, tmp_path / "copy" / "plain")
    copy.compress(RLELossless, generate_instance_uid=False)
    save(copy, tmp_path / "copy" / "packed")
    for cache in (None, tmp_path.parent / "cache", tmp_path.parent / "cache"):
        block = read(spec(size=(4, 8, 8), window=(500.0, 1000.0)), tmp_path, cache=cache)
        np.testing.assert_allclose(block.inputs[0, 0, :, 0, 0], [0, 0.1, 0.2, 0.3], atol=1e-6)
        assert block.counts["second copies of a picture"] == 2


@pytest.mark.parametrize(
    "other",
    [
        {"pixels": 1500, "ImagePositionPatient": [0, 0, 1]},
        {"pixels": 1100, "ImagePositionPatient": [0, 0, 4]},  # blank slices look alike
        {"pixels": 1100, "ImagePositionPatient": [0, 0, 1], "RescaleIntercept": 0},
    ],
)
def test_two_pictures_under_one_uid_are_an_error_that_says_where(tmp_path: Path, other: dict[str, Any]) -> None:
    """dcm2niix#349 and #837 dropped one of them."""
    slices(tmp_path / "pacs", [1000, 1100, 1200, 1300])
    said = {**RESCALED, **other}
    save(picture(flat(said.pop("pixels")), instance="1", **said), tmp_path / "pacs" / "other.dcm")
    detail = tmp_path / "unreadable.txt"
    for _ in range(2):  # with a cache the second start has seen every file
        with pytest.raises(DataError, match="hold two different pictures under one SOPInstanceUID: 1 of 1") as caught:
            read(spec(size=(4, 8, 8)), tmp_path / "pacs", places=Places(tmp_path / "cache", detail))
        assert f"listed in {detail}" in str(caught.value)
        reason, path = detail.read_text().strip().split("\t")
        assert (reason, json.loads(path)) == ("hold two different pictures under one SOPInstanceUID", "other.dcm")
    block = read(spec(size=(4, 8, 8), skip_unreadable=True), tmp_path / "pacs")
    assert not block.present.any()


def test_one_picture_under_two_patients_is_said(tmp_path: Path) -> None:
    save(picture(np.eye(8, dtype=np.int16), patient="p1"), tmp_path / "a")
    save(picture(np.eye(8, dtype=np.int16), patient="p2"), tmp_path / "b")
    save(picture(2 * np.eye(8, dtype=np.int16), patient="p3"), tmp_path / "c")
    block = read(spec(window=(1.0, 2.0)), tmp_path, ["p1", "p2", "p3", "p1"])
    assert block.counts["patients with the very input of another"] == 2
    assert any("patients with the very input of another: 2; whose is it?" in one for one in block.warnings)


# Who.


def issued(folder: Path, **by: dict[str, Any]) -> None:
    for value, (name, said) in enumerate(by.items(), 1):
        save(picture(flat(value), patient="p1", instance=name, series=name, **said), folder / name)


def test_one_id_of_two_issuers_is_nobodys(tmp_path: Path) -> None:
    north, south = {"IssuerOfPatientID": "NORTH"}, {"IssuerOfPatientID": "SOUTH"}
    issued(tmp_path / "one", a=north, b={})
    assert read(spec(), tmp_path / "one").present.all()  # one scanner leaves the issuer out
    issued(tmp_path / "two", a=north, b=south)
    says = refused(r"were given by 2 issuers \(IssuerOfPatientID\)", tmp_path / "two")
    assert "NORTH" not in says
    save(picture(flat(3), patient="p2", IssuerOfPatientID="SOUTH"), tmp_path / "one" / "other")
    with pytest.raises(DataError, match="2 issuers"):
        read(spec(), tmp_path / "one", ["p1", "p2"])
    assert read(spec(), tmp_path / "one", ["p1"]).present.all()  # p2's issuer is no matter where p2 is not asked for
    table = tmp_path / "t.csv"
    table.write_text("patient_id,pid\nx,p1^^^NORTH\ny,p1^^^SOUTH\n")
    link = Link(table="t", by="patient", column="pid")
    found = read(spec(link=link, window=(2.0, 4.0)), tmp_path / "two", ["x", "y"], link=table)
    assert found.inputs[:, 0, 0, 0].tolist() == [0.25, 0.5]
    table.write_text("patient_id,pid\nx,p1\n")
    with pytest.raises(DataError, match="2 issuers"):
        read(spec(link=link), tmp_path / "two", ["x"], link=table)


def test_an_issuer_may_be_a_universal_id(tmp_path: Path) -> None:
    qualified = [
        {"IssuerOfPatientIDQualifiersSequence": sequence(UniversalEntityID=one, UniversalEntityIDType="ISO")}
        for one in ("1.2.3", "1.2.4")
    ]
    issued(tmp_path, a=qualified[0], b=qualified[1])
    refused("2 issuers", tmp_path)


# When.


@pytest.mark.parametrize(
    ("said", "clock"),
    [
        ({"AcquisitionDateTime": "20200601120000+0000", "TimezoneOffsetFromUTC": "+0200"}, "2020-06-01T14:00:00"),
        ({"AcquisitionDateTime": "20200601120000.5+0200", "TimezoneOffsetFromUTC": "+0200"}, "2020-06-01T12:00:00"),
        ({"AcquisitionDateTime": "20200601120000-0500", "TimezoneOffsetFromUTC": "-0430"}, "2020-06-01T12:30:00"),
        ({"AcquisitionDateTime": "20200601120000+0000"}, "2020-06-02T02:00:00"),  # as late as it can be on earth
        ({"AcquisitionDateTime": "20200601120000+0000", "SeriesDate": "20200601", "SeriesTime": "135900"}, "2020-06-01T13:59:00"),
        ({"AcquisitionDateTime": "20200601120000"}, "2020-06-01T12:00:00"),
    ],
)  # fmt: skip
def test_instants_with_an_offset(tmp_path: Path, said: dict[str, Any], clock: str) -> None:
    data = picture(flat(1), AcquisitionDate=None, AcquisitionTime=None, **said)
    header = read_header(str(save(data, tmp_path / "a")))
    assert not isinstance(header, str)
    assert header.taken == int(datetime.fromisoformat(clock).replace(tzinfo=UTC).timestamp())


def test_what_a_site_should_look_at(tmp_path: Path) -> None:
    """A window that shows nothing: every picture is white."""
    save(picture(flat(100)), tmp_path / "a")
    block = read(spec(), tmp_path)
    assert any("inputs of one value throughout: 1; is the window right?" in one for one in block.warnings)
    assert not Problems("north")
