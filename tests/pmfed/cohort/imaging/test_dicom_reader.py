"""From a DICOM folder to inputs: the right series, at the right place in the body, of the right patient."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_files import (
    AXIAL,
    CAPTURE,
    CT,
    ENHANCED_CT,
    phantom,
    picture,
    planes,
    read,
    save,
    sequence,
    spec,
)
from numpy.typing import NDArray
from readings import read_dicom

from pmfed.cohort.tables import Problems
from pmfed.errors import DataError
from pmfed.modality.scans import Link, Series

DAY = np.timedelta64(1, "D")


def flat(value: int) -> NDArray[np.int16]:
    return np.full((8, 8), value, dtype=np.int16)


def body(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a value per place: it grows to the Left, Posterior and Superior at different rates."""
    found: NDArray[np.float64] = points @ [1.0, 3.0, 7.0] + 500
    return found


def write_stack(
    folder: Path, direction: Any = AXIAL, spacing: Any = (3.0, 2.0, 1.5), shape: Any = (6, 9, 12), **said: Any
) -> None:
    """Write a volume, its files and numbers in an order that says nothing."""
    where = planes(shape, spacing, direction, (-4.0, 5.0, 6.0))
    names = random.Random(5).sample(range(1000), len(where))
    for plane, name in zip(where, names, strict=True):
        pixels = phantom(body, shape, spacing, plane)
        save(picture(pixels, instance=str(name), InstanceNumber=name, **{**plane, **said}), folder / str(name))


SIDEWAYS = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)  # sagittal, as scanners write it
OBLIQUE = tuple(np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))[0].T[:2].ravel())


@pytest.mark.parametrize("direction", [AXIAL, SIDEWAYS, (-1.0, 0, 0, 0, 1.0, 0), (0, -1.0, 0, 1.0, 0, 0)])
def test_a_volume_lies_in_the_body_as_it_should(tmp_path: Path, direction: Any) -> None:
    write_stack(tmp_path, direction)
    wanted = spec(size=(5, 7, 7), spacing=(1.5, 1.5, 1.5), window=(500.0, 1000.0), orientation="SPL")
    (found,) = read(wanted, tmp_path).inputs[:, 0]
    values = found * 1000
    # Along every axis the value grows at the body's own rate, in mm to the Superior, Posterior and Left.
    for axis, rate in enumerate((7.0, 3.0, 1.0)):
        np.testing.assert_allclose(np.diff(values, axis=axis), rate * 1.5, atol=0.6)
    assert values.mean() == pytest.approx(_middle(direction), abs=0.6)
    (turned,) = read(
        spec(size=(7, 7, 5), spacing=(1.5,) * 3, window=(500.0, 1000.0), orientation="RAI"), tmp_path
    ).inputs[:, 0]
    np.testing.assert_allclose(turned, found.transpose(2, 1, 0)[::-1, ::-1, ::-1], atol=1e-3)


def _middle(direction: Any) -> float:
    row, column = np.array(direction[:3]), np.array(direction[3:])
    centre = np.array([-4.0, 5.0, 6.0]) + np.cross(row, column) * 3 * 2.5 + column * 2 * 4 + row * 1.5 * 5.5
    return float(body(centre))


def test_an_oblique_volume_keeps_its_own_axes(tmp_path: Path) -> None:
    write_stack(tmp_path, OBLIQUE)
    (found,) = read(spec(size=(5, 7, 7), spacing=(1.5,) * 3, window=(500.0, 1000.0)), tmp_path).inputs[:, 0]
    assert found.mean() * 1000 == pytest.approx(_middle(OBLIQUE), abs=0.6)


def test_many_frames_in_one_file_give_the_same_volume(tmp_path: Path) -> None:
    write_stack(tmp_path / "classic", SIDEWAYS)
    shape, spacing = (6, 9, 12), (3.0, 2.0, 1.5)
    where = planes(shape, spacing, SIDEWAYS, (-4.0, 5.0, 6.0))
    order = random.Random(3).sample(range(6), 6)
    frames = np.stack([phantom(body, shape, spacing, where[place]) for place in order])
    groups = [
        sequence(PlanePositionSequence=sequence(ImagePositionPatient=where[place]["ImagePositionPatient"]))[0]
        for place in order
    ]
    shared = sequence(
        PlaneOrientationSequence=sequence(ImageOrientationPatient=list(SIDEWAYS)),
        PixelMeasuresSequence=sequence(PixelSpacing=[2.0, 1.5]),
    )
    enhanced = picture(
        frames, SOPClassUID=ENHANCED_CT, PerFrameFunctionalGroupsSequence=groups, PixelSpacing=None,
        SharedFunctionalGroupsSequence=shared, ImagePositionPatient=None, ImageOrientationPatient=None,
    )  # fmt: skip
    save(enhanced, tmp_path / "enhanced" / "all")
    wanted = spec(size=(5, 7, 7), spacing=(1.5,) * 3, window=(500.0, 1000.0))
    one, other = (read(wanted, tmp_path / name).inputs for name in ("classic", "enhanced"))
    np.testing.assert_array_equal(one, other)
    flat_ = spec(size=(9, 12), window=(500.0, 1000.0))
    one, other = (read(flat_, tmp_path / name).inputs for name in ("classic", "enhanced"))
    np.testing.assert_array_equal(one, other)
    np.testing.assert_allclose(one[0, 0] * 1000, phantom(body, shape, spacing, where[3]), atol=0.1)


def test_the_middle_and_the_brightest(tmp_path: Path) -> None:
    for place, height in enumerate((4, 0, 2, 1, 3)):
        pixels = flat(height * 100)
        pixels[0, height] = 1000
        save(
            picture(pixels, instance=str(place), InstanceNumber=place, ImagePositionPatient=[0, 0, height]),
            tmp_path / str(place),
        )
    middle = read(spec(window=(500.0, 1000.0)), tmp_path)
    assert middle.inputs[0, 0, 4, 4] == pytest.approx(0.2)
    brightest = read(spec(window=(500.0, 1000.0), view="brightest"), tmp_path)
    np.testing.assert_allclose(brightest.inputs[0, 0, 0], [1, 1, 1, 1, 1, 0.4, 0.4, 0.4], rtol=1e-5)
    # In a picture whose greatest value is black, the brightest is the least.
    for path in list(tmp_path.iterdir()):
        path.unlink()
    for place in range(2):
        save(
            picture(flat(place * 10), instance=str(place), PhotometricInterpretation="MONOCHROME1"),
            tmp_path / str(place),
        )
    turned = read(spec(window=(5.0, 10.0), view="brightest"), tmp_path)
    assert np.all(turned.inputs == 1)


def test_values_of_the_window_mean_and_scale(tmp_path: Path) -> None:
    pixels = np.arange(64, dtype=np.int16).reshape(8, 8)
    save(picture(pixels, RescaleSlope=2, RescaleIntercept=-60, PhotometricInterpretation="MONOCHROME1"), tmp_path / "a")
    found = read(spec(window=(0.0, 100.0), mean=0.5, scale=0.25, channels=3), tmp_path)
    expected = (1 - np.clip((pixels * 2.0 - 60 + 50) / 100, 0, 1) - 0.5) / 0.25
    assert found.inputs.shape == (1, 3, 8, 8)
    assert found.inputs.dtype == np.float32
    for channel in range(3):
        np.testing.assert_allclose(found.inputs[0, channel], expected, atol=1e-5)


def test_bits_and_colours(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    save(picture(colour, Modality="ES"), tmp_path / "a")
    wanted = {"series": Series(modality=("ES",)), "window": "bits"}
    found = read(spec(channels=3, **wanted), tmp_path).inputs[0]
    np.testing.assert_allclose(found, colour.transpose(2, 0, 1) / 255, atol=1e-6)
    grey = read(spec(**wanted), tmp_path).inputs[0, 0]
    np.testing.assert_allclose(grey, colour @ [0.299, 0.587, 0.114] / 255, atol=1e-5)
    with pytest.raises(DataError, match="are in colour, where the study's window is for grey values: 1 of 1"):
        read(spec(series=Series(modality=("ES",))), tmp_path)
    signed = picture(flat(-32768), patient="p2", series="t")
    save(signed, tmp_path / "b")
    assert not read(spec(window="bits"), tmp_path, ["p2"]).inputs.any()


def test_each_patient_gets_its_own_and_each_series_is_read_once(tmp_path: Path) -> None:
    for number in range(4):
        save(picture(flat(number), patient=f"p{number}"), tmp_path / str(number))
    told: list[tuple[int, int]] = []
    from pmfed.cohort.imaging.places import Places

    block = read(
        spec(window=(2.0, 4.0)), tmp_path, ["p3", "p1", "nobody", "p3"],
        places=Places(decoding=lambda done, total: told.append((done, total))),
    )  # fmt: skip
    np.testing.assert_allclose(block.inputs[:, 0, 0, 0], [0.75, 0.25, 0, 0.75])
    assert block.present.tolist() == [True, True, False, True]
    assert told == [(1, 2), (2, 2)]
    assert block.counts["scans"] == 2
    assert block.counts["series of patients outside the cohort"] == 2


def test_series_are_selected_by_their_headers(tmp_path: Path) -> None:
    said = [
        {"Modality": "MR"},
        {"BodyPartExamined": "KNEE"},
        {"SeriesDescription": "scout"},
        {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]},
        {"SeriesDescription": "thorax [lung]", "BodyPartExamined": "CHEST"},
    ]
    for number, one in enumerate(said):
        save(picture(flat(number), series=str(number), **one), tmp_path / str(number))
    series = Series(modality=("ct",), body_part=("chest", "thorax"), description=("*[LUNG]*", "Thorax ?.0*"))
    block = read(spec(series=series, window=(4.0, 8.0)), tmp_path)
    assert block.inputs[0, 0, 0, 0] == pytest.approx(0.5)
    assert block.counts["scouts"] == 1
    assert block.counts["pictures of other kinds"] == 3
    nothing = read(spec(series=Series(modality=("US",))), tmp_path)
    assert not nothing.present.any()
    assert any("no series fits" in line for line in nothing.warnings)


def test_nothing_after_the_index_date(tmp_path: Path) -> None:
    for number, (day, time) in enumerate(
        [("20200101", "080000"), ("20200105", "120000"), ("20200105", ""), ("20200109", "")]
    ):
        save(
            picture(flat(number), series=str(number), AcquisitionDate=day, AcquisitionTime=time), tmp_path / str(number)
        )
    save(picture(flat(9), series="9", AcquisitionDate=None, StudyDate=None, AcquisitionTime=None), tmp_path / "9")
    moments = ["2020-01-01T08:00:00", "2020-01-05T12:00:00", "2020-01-05T12:00:01", "2020-01-06", "2020-02-01", "NaT"]
    when = np.array(moments, dtype="datetime64[s]")
    block = read(spec(window=(5.0, 10.0)), tmp_path, ["p1"] * len(when), when)
    np.testing.assert_allclose(block.inputs[:, 0, 0, 0] * 10, [0, 0, 1, 2, 3, 0], atol=1e-5)
    assert block.present.tolist() == [False, True, True, True, True, False]
    assert block.counts["records without an index date"] == 1
    assert block.counts["records whose scans are not before the index date, or without a date"] == 1
    early = read(
        spec(window=(5.0, 10.0), series=Series(modality=("CT",), take="earliest")), tmp_path, ["p1"] * len(when), when
    )
    assert early.present.tolist() == block.present.tolist()
    assert not early.inputs.any()
    latest = read(spec(window=(5.0, 10.0)), tmp_path, ["p1"])
    assert latest.inputs[0, 0, 0, 0] * 10 == pytest.approx(3)


def test_a_scan_is_as_late_as_its_latest_picture(tmp_path: Path) -> None:
    for height, day in enumerate(("20200101", "20200110", "20200101")):
        save(
            picture(flat(1), instance=str(height), AcquisitionDate=day, ImagePositionPatient=[0, 0, height]),
            tmp_path / str(height),
        )
    when = np.array(["2020-01-05"], dtype="datetime64[s]")
    assert not read(spec(), tmp_path, ["p1"], when).present.any()
    assert read(spec(), tmp_path, ["p1"], when + 10 * DAY).present.all()


def test_of_two_series_at_one_moment_the_larger(tmp_path: Path) -> None:
    write_stack(tmp_path / "a", shape=(3, 9, 12), series="thin")
    write_stack(tmp_path / "b", shape=(5, 9, 12), series="thick")
    save(picture(flat(1), series="single"), tmp_path / "c")
    block = read(spec(size=(5, 9, 12), orientation="SPL", window=(0.0, 9000.0)), tmp_path)
    assert block.present.all()
    assert block.counts["series of a single slice"] == 1


@pytest.mark.parametrize(
    ("by", "keys"),
    [
        ("patient", ["PACS1", "PACS2"]),
        ("accession", ["acc1", "acc2"]),
        ("folder", ["one/ct/", "two"]),
    ],
)
def test_a_table_says_whose_a_scan_is(tmp_path: Path, by: str, keys: list[str]) -> None:
    root = tmp_path / "pacs"
    save(picture(flat(1), patient="PACS1", AccessionNumber="acc1"), root / "one" / "ct" / "deep" / "x")
    save(picture(flat(2), patient="PACS2", AccessionNumber="acc2"), root / "two" / "x")
    save(picture(flat(3), patient="PACS3", AccessionNumber=""), root / "three" / "x")
    table = tmp_path / "link.csv"
    table.write_text(f"mrn,key\n007,{keys[0]}\n008,{keys[1]}\n009,\n,zzz\n")
    link = Link(table="link", by=by, column="key")  # type: ignore[arg-type]
    block = read(spec(link=link, window=(2.0, 4.0)), root, ["008", "007", "PACS1"], link=table, patient="mrn")
    np.testing.assert_allclose(block.inputs[:, 0, 0, 0], [0.5, 0.25, 0])
    assert block.counts["series of nobody: no patient id, or not in the link table"] == 1
    table.write_text(f"mrn,key\n007,{keys[0]}\n008,{keys[0]}\n")
    with pytest.raises(DataError, match="1 value of it stand for two patients or more"):
        read(spec(link=link), root, ["008"], link=table, patient="mrn")
    table.write_text("mrn,other\n007,x\n")
    with pytest.raises(DataError, match="lacks 1 column"):
        read(spec(link=link), root, ["008"], link=table, patient="mrn")


@pytest.mark.parametrize("by", ["study", "series"])
def test_a_table_of_uids(tmp_path: Path, by: str) -> None:
    data = picture(flat(1), patient="PACS1")
    save(data, tmp_path / "pacs" / "x")
    uid = data.StudyInstanceUID if by == "study" else data.SeriesInstanceUID
    table = tmp_path / "link.csv"
    table.write_text(f"patient_id,uid\n007,{uid}\n")
    link = Link(table="link", by=by, column="uid")  # type: ignore[arg-type]
    assert read(spec(link=link), tmp_path / "pacs", ["007"], link=table).present.all()


def test_nobody_of_the_cohort_is_said(tmp_path: Path) -> None:
    save(picture(flat(1), patient="PACS1"), tmp_path / "x")
    (warning,) = read(spec(), tmp_path, ["007"]).warnings
    assert "1 series fit the study, and none is of a patient of the cohort" in warning


@pytest.mark.parametrize(
    ("said", "burned"),
    [
        ({}, False),
        ({"BurnedInAnnotation": "NO"}, False),
        ({"BurnedInAnnotation": "YES"}, True),
        ({"SOPClassUID": CAPTURE}, True),
        ({"SOPClassUID": CAPTURE + ".4"}, True),
        ({"SOPClassUID": CAPTURE, "BurnedInAnnotation": "NO"}, False),
        ({"SOPClassUID": CT}, False),
    ],
)
def test_burned_in_text(tmp_path: Path, said: dict[str, str], burned: bool) -> None:
    save(picture(flat(1), AcquisitionDate="20200102", **said), tmp_path / "x")
    save(picture(flat(2), series="older", AcquisitionDate="20190102"), tmp_path / "y")
    if burned:
        with pytest.raises(DataError, match=r"series that may have text burned into the picture: 1 of 1\."):
            read(spec(), tmp_path)
    else:
        assert read(spec(window=(2.0, 4.0)), tmp_path).inputs[0, 0, 0, 0] == pytest.approx(0.25)
    left_out = read(spec(window=(2.0, 4.0), burned_in="skip"), tmp_path)
    assert left_out.inputs[0, 0, 0, 0] == pytest.approx(0.5 if burned else 0.25)
    taken = read(spec(window=(2.0, 4.0), burned_in="take"), tmp_path)
    assert taken.inputs[0, 0, 0, 0] == pytest.approx(0.25)
    assert taken.counts.get("scans that may show burned-in text", 0) == burned


def test_a_tilted_gantry_and_missing_slices_are_said(tmp_path: Path) -> None:
    for height in range(8):
        tilted = picture(flat(1), instance=str(height), ImagePositionPatient=[0, 0.4 * height, height])
        save(tilted, tmp_path / f"t{height}")
        if height not in (3, 4):
            save(
                picture(flat(height), patient="p2", instance=str(height), ImagePositionPatient=[0, 0, height]),
                tmp_path / f"g{height}",
            )
    block = read(spec(size=(8, 8, 8), window=(4.0, 8.0)), tmp_path, ["p1", "p2"])
    np.testing.assert_allclose(block.inputs[1, 0, :, 0, 0] * 8, np.arange(8), atol=1e-5)
    assert any("tilted gantry, used as they are (sheared): 1." in line for line in block.warnings)
    assert any(
        "lack slices in between, which are filled in from their neighbours: 1." in line for line in block.warnings
    )
    assert block.counts["slices filled in"] == 2


def test_second_copies_of_a_slice_are_dropped(tmp_path: Path) -> None:
    write_stack(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    wanted = spec(size=(5, 7, 7), spacing=(1.5,) * 3, window=(500.0, 1000.0))
    block = read(wanted, tmp_path)
    np.testing.assert_array_equal(block.inputs, read(wanted, tmp_path / "a").inputs)
    assert block.counts["second copies of a picture"] == 6


def test_pictures_without_a_position_are_taken_by_number_and_that_is_said(tmp_path: Path) -> None:
    for number in range(3):
        save(
            picture(
                np.stack([flat(number)] * 1)[0],
                instance=str(number),
                InstanceNumber=5 - number,
                ImagePositionPatient=None,
            ),
            tmp_path / str(number),
        )
    block = read(spec(window=(1.0, 2.0)), tmp_path)
    assert block.inputs[0, 0, 0, 0] == pytest.approx(0.5)
    assert any("have no position" in line for line in block.warnings)


def test_no_folder(tmp_path: Path) -> None:
    problems = Problems("north")
    block = read_dicom(spec(), tmp_path / "none", ["p1"], None, problems)
    assert not block.present.any()
    with pytest.raises(DataError, match="there is no such folder"):
        problems.raise_any()


def test_real_samples(public_data: Path, tmp_path: Path) -> None:
    """Every sample is read, or refused with a sentence."""
    source = public_data / "dicom_nifti_samples"
    patients = ["1CT1", "CQ500-CT-310", "4MR1", "021234567", "99000"]
    everything = Series(modality=("CT", "MR", "SEG"))
    block = read(spec(series=everything, window="own", size=(64, 64), fit="stretch"), source, patients)
    assert block.present.all()
    assert block.inputs.min() >= 0
    assert block.inputs.std(axis=(1, 2, 3)).min() > 0.1
    assert block.counts["not DICOM"] == 5  # four NIfTI files and SOURCE.txt
    table = tmp_path / "link.csv"
    table.write_text("patient_id,folder\nall,.\n")
    link = Link(table="link", by="folder", column="folder")
    enhanced = spec(series=Series(modality=("MR",), body_part=("HEAD",)), window="own", size=(64, 64), link=link)
    assert read(enhanced, source, ["all"], link=table).present.all()
    with pytest.raises(DataError, match="say nothing of position and orientation: 1 of 1"):
        read(enhanced.model_copy(update={"size": (10, 64, 64)}), source, ["all"], link=table)
    segmentation = spec(series=Series(modality=("SEG",)), window="bits", size=(3, 512, 512))
    masks = read(segmentation, source, ["99000"])
    assert set(np.unique(masks.inputs)) == {0, 1}
