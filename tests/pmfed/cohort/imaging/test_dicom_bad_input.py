"""What hospitals' folders really hold: each fault stops the study with a sentence, or is left out where it says so."""

from __future__ import annotations

import json
import random
import shutil
import stat
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_files import picture, read, save, spec, uid
from numpy.typing import NDArray
from pydicom.data import get_testdata_file

from pmfed.cohort.imaging import assemble
from pmfed.cohort.imaging.failures import CHANGED
from pmfed.cohort.imaging.index import read_index
from pmfed.cohort.imaging.inside import ScanError, read_bytes, walk
from pmfed.cohort.imaging.places import Places
from pmfed.errors import DataError
from pmfed.modality.scans import Series


def flat(value: int) -> NDArray[np.int16]:
    return np.full((8, 8), value, dtype=np.int16)


@pytest.mark.slow
def test_ten_thousand_files_with_three_bad_ones(tmp_path: Path) -> None:
    """They are counted, listed for the site alone, and left out only when the study says so."""
    root = tmp_path / "pacs"
    whole = save(picture(flat(1), patient="patient-0000"), root / "00" / "patient-0000").read_bytes()
    ids = [f"patient-{number:04}" for number in range(10_000)]
    for number, one in enumerate(ids):
        folder = root / f"{number % 100:02}"
        folder.mkdir(exist_ok=True)
        (folder / one).write_bytes(whole.replace(b"patient-0000", one.encode()))
    for one in ids[17], ids[4711], ids[8000]:
        path = root / f"{int(one[-4:]) % 100:02}" / one
        path.write_bytes(path.read_bytes()[:-30])
    detail = tmp_path / "unreadable.txt"
    some = ids[:20] + ids[4700:4720]
    started = time.process_time()
    with pytest.raises(DataError) as caught:
        read(spec(), root, some, cache=tmp_path / "cache", places=Places(tmp_path / "cache", detail))
    speed = 10_000 / (time.process_time() - started)
    assert f"{root}: files that are cut off: 3 of 10,000." in str(caught.value)
    assert "Export them again. They are listed in" in str(caught.value)
    assert "patient-" not in str(caught.value).replace(str(root), "")
    listed = [line.split("\t") for line in detail.read_text().splitlines()]
    assert sorted(json.loads(path) for _, path in listed) == ["00/patient-8000", "11/patient-4711", "17/patient-0017"]
    assert {why for why, _ in listed} == {"are cut off"}
    assert stat.S_IMODE(detail.stat().st_mode) == 0o600
    block = read(spec(skip_unreadable=True), root, some, places=Places(tmp_path / "cache", detail))
    assert block.present.sum() == 38
    assert block.counts["files that are cut off"] == 3
    assert any("files left out that are cut off: 3 of 10,000." in line for line in block.warnings)
    assert not any("patient-" in line.replace(str(root), "") for line in block.warnings)
    assert speed > 300


def test_the_list_of_an_earlier_start_does_not_stay(tmp_path: Path) -> None:
    root, detail = tmp_path / "pacs", tmp_path / "unreadable.txt"
    save(picture(flat(1)), root / "a")
    (root / "b.dcm").write_text("")
    with pytest.raises(DataError, match=r"are called \.dcm but are not DICOM: 1 of 2"):
        read(spec(), root, places=Places(detail=detail))
    assert detail.exists()
    (root / "b.dcm").unlink()
    read(spec(), root, places=Places(detail=detail))
    assert not detail.exists()


def test_a_picture_without_pixels(tmp_path: Path) -> None:
    save(picture(flat(1), PixelData=None), tmp_path / "a")
    with pytest.raises(DataError, match="files that are pictures without pixels: 1 of 1"):
        read(spec(), tmp_path)


def test_what_is_no_picture_is_passed_over_and_counted(tmp_path: Path) -> None:
    save(picture(np.eye(8, dtype=np.int16), RescaleSlope=1, RescaleIntercept=0), tmp_path / "a")
    (tmp_path / "notes.txt").write_text("x")
    shutil.copy(get_testdata_file("test-SR.dcm"), tmp_path / "report")
    shutil.copy(get_testdata_file("DICOMDIR"), tmp_path / "DICOMDIR")
    block = read(spec(), tmp_path)
    assert block.present.all()
    assert block.counts == {
        "pictures": 1, "not DICOM": 1, "DICOM without pictures": 1, "DICOMDIR": 1, "series that fit": 1, "scans": 1,
    }  # fmt: skip
    assert not block.warnings


def test_a_link_out_of_the_folder_stops_even_a_study_that_skips(tmp_path: Path) -> None:
    save(picture(flat(1)), tmp_path / "pacs" / "a")
    other = save(picture(flat(2), patient="p2"), tmp_path / "elsewhere" / "b")
    (tmp_path / "pacs" / "link").symlink_to(other)
    for skip in (False, True):
        with pytest.raises(DataError, match="files that lead out of the folder: 1 of 2"):
            read(spec(skip_unreadable=skip), tmp_path / "pacs", ["p2"])


def test_pictures_of_other_sizes(tmp_path: Path) -> None:
    save(picture(np.zeros((9, 8), dtype=np.int16)), tmp_path / "a")
    save(picture(flat(1), patient="p2"), tmp_path / "b")
    with pytest.raises(DataError) as caught:
        read(spec(), tmp_path, ["p1", "p2"])
    assert "series that have another size than the study's: 1 of 2." in str(caught.value)
    assert 'set "spacing" or "fit"' in str(caught.value)
    block = read(spec(skip_unreadable=True), tmp_path, ["p1", "p2"])
    assert block.present.tolist() == [False, True]
    assert read(spec(fit="stretch"), tmp_path, ["p1", "p2"]).present.all()


def stack(folder: Path, **odd: Any) -> None:
    """Write eight slices; the fifth has something else."""
    for height in range(8):
        said = {"ImagePositionPatient": [0, 0, height], **(odd if height == 4 else {})}
        pixels = said.pop("pixels", flat(height))
        save(picture(pixels, instance=str(height), **said), folder / str(height))


@pytest.mark.parametrize(
    ("odd", "why"),
    [
        ({"pixels": np.zeros((8, 9), dtype=np.int16)}, "mix pictures of several sizes or spacings"),
        ({"PixelSpacing": [1, 2]}, "mix pictures of several sizes or spacings"),
        ({"ImagePositionPatient": None}, "say nothing of position and orientation"),
        ({"ImageOrientationPatient": None}, "say nothing of position and orientation"),
        ({"PixelSpacing": None}, "say nothing of position and orientation"),
        ({"ImageOrientationPatient": [1, 0, 0, 0, 0, 1]}, "hold slices that point in several directions"),
        ({"ImagePositionPatient": [0, 0, 3]}, "hold several slices in one place"),
        ({"ImagePositionPatient": [0, 0, 900]}, "lack more slices than they have"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "have colours or bits in a form that is not known"),
        ({"RescaleSlope": 0}, "hold slices in several units, or with and without a rescale"),
    ],
)
def test_series_that_are_no_volume(tmp_path: Path, odd: dict[str, Any], why: str) -> None:
    stack(tmp_path, **odd)
    volume = spec(size=(8, 8, 8), window=(4.0, 8.0))
    with pytest.raises(DataError, match=f"series that {why}: 1 of 1."):
        read(volume, tmp_path)
    skipped = read(volume.model_copy(update={"skip_unreadable": True}), tmp_path)
    assert not skipped.present.any()
    assert not skipped.inputs.any()
    assert any("series left out as unreadable: 1 of 1." in line for line in skipped.warnings)


def test_a_slice_of_a_volume_that_cannot_be_decoded(tmp_path: Path) -> None:
    stack(tmp_path)
    path = tmp_path / "4"
    content = path.read_bytes()
    path.write_bytes(content.replace(b"MONOCHROME2 ", b"MONOCHROME9 "))
    detail = tmp_path.parent / f"{tmp_path.name}.txt"
    with pytest.raises(DataError, match="series that are damaged: 1 of 1"):
        read(spec(size=(8, 8, 8)), tmp_path, places=Places(detail=detail))
    assert detail.read_text() == 'are damaged\t"0"\n'


def test_no_pixel_spacing_where_the_study_needs_it(tmp_path: Path) -> None:
    save(picture(flat(1), PixelSpacing=None), tmp_path / "a")
    with pytest.raises(DataError, match="say nothing of the distance between pixels: 1 of 1"):
        read(spec(spacing=(1.0, 1.0)), tmp_path)


def test_a_volume_larger_than_what_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stack(tmp_path)
    monkeypatch.setattr(assemble, "MOST_VALUES", 8 * 8 * 8 - 1)
    with pytest.raises(DataError, match="claim to be larger than what is read: 1 of 1"):
        read(spec(size=(8, 8, 8)), tmp_path)


def test_a_file_that_changes_while_it_is_read(tmp_path: Path) -> None:
    path = save(picture(flat(1)), tmp_path / "a")
    (stamp,) = walk(tmp_path).files.values()
    assert read_bytes(str(path), stamp)
    save(picture(flat(2)), path)
    with pytest.raises(ScanError, match=CHANGED):
        read_bytes(str(path), stamp)


def test_one_instance_number_for_two_patients_is_no_trouble(tmp_path: Path) -> None:
    """The same UIDs under two patients, as careless anonymisers write them."""
    same = {"SeriesInstanceUID": uid("x"), "StudyInstanceUID": uid("y"), "SOPInstanceUID": uid("z")}
    save(picture(flat(1), patient="p1", **same), tmp_path / "a")
    save(picture(flat(2), patient="p2", **same), tmp_path / "b")
    found = read(spec(window=(2.0, 4.0)), tmp_path, ["p1", "p2"]).inputs[:, 0, 0, 0]
    np.testing.assert_allclose(found, [0.25, 0.5])


def test_random_damage_ends_in_a_sentence(tmp_path: Path) -> None:
    whole = save(picture(flat(1), PixelPaddingValue=0, RescaleSlope=1), tmp_path / "x").read_bytes()
    draw = random.Random(11)
    for _ in range(300):
        content = bytearray(whole)
        for _ in range(draw.randint(1, 10)):
            content[draw.randrange(132, len(content))] = draw.randrange(256)
        (tmp_path / "x").write_bytes(content)
        said = ""
        try:
            block = read(spec(series=Series(modality=("*",)), window="own", burned_in="take"), tmp_path)
            assert np.isfinite(block.inputs).all()
        except DataError as error:
            said = str(error)
        assert "p1" not in said.replace(str(tmp_path), "")


def test_an_empty_folder(tmp_path: Path) -> None:
    block = read(spec(), tmp_path)
    assert not block.present.any()
    assert not list(read_index(tmp_path).pictures)
