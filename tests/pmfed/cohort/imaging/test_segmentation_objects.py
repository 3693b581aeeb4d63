"""DICOM Segmentation objects, written by highdicom: each on the series it was drawn on, or refused with a count."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pytest
import torch
from dicom_files import AXIAL, ENHANCED_CT, picture, planes, save, sequence, spec, uid
from highdicom.seg import Segmentation, SegmentDescription
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.sr.codedict import codes
from readings import read_dicom, read_segmentations
from small import small_study

from pmfed.cohort import read_cohort
from pmfed.cohort.imaging.places import Places
from pmfed.cohort.tables import Problems
from pmfed.errors import DataError
from pmfed.modality.scans import Dicom
from pmfed.models import build
from pmfed.study.outcome import Masks
from pmfed.study.outcomes import outcome_of
from pmfed.tasks import task_for

SHAPE, SPACING = (6, 10, 8), (3.0, 1.5, 2.0)
THREE = outcome_of(column="mask", task="segmentation", folder="masks", classes=("none", "Core", "Rim"))
VOLUME = spec(size=SHAPE, window=(50.0, 100.0))
OBLIQUE = (0.8, 0.6, 0.0, 0.0, 0.0, -1.0)


def series(
    folder: Path, patient: str = "p1", name: str = "s", direction: Sequence[float] = AXIAL, missing: int | None = None
) -> list[Dataset]:
    """Write a series of slices, out of order; return them in order of space."""
    made = []
    for place, where in enumerate(planes(SHAPE, SPACING, direction, (-20.0, 5.0, 7.0))):
        if place == missing:
            continue
        pixels = np.full(SHAPE[1:], place, dtype=np.int16)
        data = picture(
            pixels, patient, name, f"i{place}", FrameOfReferenceUID=uid(patient, "frame"), InstanceNumber=99 - place,
            PatientName="Canary^Name", PatientBirthDate="", PatientSex="", StudyTime="", AccessionNumber="",
            ReferringPhysicianName="", StudyID="", SeriesNumber=1, SliceThickness=3.0, **where,
        )  # fmt: skip
        save(data, folder / f"canary-{patient}-{name}-{7 * place % 6}.dcm")
        made.append(data)
    return made


def balls(shape: tuple[int, ...] = SHAPE) -> NDArray[np.uint8]:
    """Return a core in a rim, none of either at both ends."""
    far = np.sqrt(sum(((g - (n - 1) / 2) / n) ** 2 for g, n in zip(np.indices(shape), shape, strict=True)))
    return np.where(far < 0.2, 1, np.where(far < 0.35, 2, 0)).astype(np.uint8)


def drawn(
    sources: list[Dataset], classes: NDArray[np.uint8], labels: Sequence[str] = ("core", "RIM "), kind: str = "BINARY", **more: Any
) -> Segmentation:  # fmt: skip
    """Return an object with one segment per label, of the classes 1, 2, ..."""
    segments = [
        SegmentDescription(
            number, label, codes.SCT.Tissue, codes.SCT.Tissue, highdicom.seg.SegmentAlgorithmTypeValues.MANUAL
        )
        for number, label in enumerate(labels, 1)
    ]
    apart = np.stack([classes == number for number, _ in enumerate(labels, 1)], axis=-1)
    return Segmentation(
        sources, apart if kind == "BINARY" else apart.astype(np.float32), kind, segments, uid("seg series"), 7,
        uid("seg", *labels), 1, "pmfed", "tests", "1", "0", **more,
    )  # fmt: skip


def read(
    folder: Path, files: Sequence[str], outcome: Masks = THREE, wanted: Dicom = VOLUME, patients: Sequence[str] = ("p1",)
) -> NDArray[np.uint8]:  # fmt: skip
    problems = Problems("north")
    present = read_dicom(wanted, folder, patients, None, problems).present
    problems.raise_any()
    table = Path("patients.csv")
    masks = read_segmentations(outcome, wanted, files, present, folder, table, folder, patients, None, problems)
    problems.raise_any()
    return masks


def silent(made: Dataset) -> None:
    """Take away which pictures an object was drawn on."""
    del made.SourceImageSequence
    for item in made.PerFrameFunctionalGroupsSequence:
        del item.DerivationImageSequence


def refused(words: str, *asked: Any, **more: Any) -> None:
    with pytest.raises(DataError, match=words) as caught:
        read(*asked, **more)
    assert "canary" not in str(caught.value).lower()
    assert "1.2.826" not in str(caught.value)


@pytest.mark.parametrize("direction", [AXIAL, OBLIQUE])
def test_an_object_is_read_as_highdicom_reads_it(tmp_path: Path, direction: Sequence[float]) -> None:
    sources = series(tmp_path, direction=direction)
    truth = balls()
    made = drawn(sources, truth)
    assert made.NumberOfFrames < 2 * SHAPE[0]  # empty frames are left out
    made.save_as(tmp_path / "seg.dcm")
    # the oblique slices follow one another from the front to the back, rows from head to feet
    wanted = spec(size=SHAPE, window=(50.0, 100.0), orientation="SPL" if direction is AXIAL else "PIL")
    found = read(tmp_path, ["seg.dcm"], wanted=wanted)[0]
    again = highdicom.seg.segread(tmp_path / "seg.dcm")
    uids = [one.SOPInstanceUID for one in sources]
    theirs = again.get_pixels_by_source_instance(uids, combine_segments=True, assert_missing_frames_are_empty=True)
    assert np.array_equal(theirs, truth)
    assert np.array_equal(found, theirs)


def test_a_mask_goes_the_way_of_its_scan(tmp_path: Path) -> None:
    """A scan that is as bright as its mask is on stays so: turned, resampled, cut, with a slice missing."""
    truth = balls() > 0
    sources = series(tmp_path, missing=3)
    for data, on in zip(sources, np.delete(truth, 3, axis=0), strict=True):
        data.PixelData = (100 * on).astype(np.int16).tobytes()
    for path in tmp_path.glob("canary*"):
        path.unlink()
    for place, data in enumerate(sources):
        save(data, tmp_path / f"{place}.dcm")
    drawn(sources, np.delete(truth, 3, axis=0).astype(np.uint8), ["rim"]).save_as(tmp_path / "seg.dcm")
    wanted = spec(size=(8, 8, 8), spacing=(2.0, 2.0, 2.0), window=(50.0, 100.0), orientation="IAR")
    problems = Problems("north")
    bright = read_dicom(wanted, tmp_path, ["p1"], None, problems).inputs[0, 0]
    found = read(tmp_path, ["seg.dcm"], wanted=wanted)[0]
    assert set(np.unique(found)) == {0, 2}
    away = np.abs(bright - 0.5) > 0.05  # at half a voxel either is right
    assert away.mean() > 0.8
    assert np.array_equal(found[away] == 2, bright[away] > 0.5)


def test_a_picture_gets_the_mask_of_its_own_slice(tmp_path: Path) -> None:
    sources, truth = series(tmp_path), balls()
    truth[3, 0] = 1  # so that no two slices are alike
    drawn(sources, truth).save_as(tmp_path / "seg.dcm")
    assert np.array_equal(read(tmp_path, ["seg.dcm"], wanted=spec(size=SHAPE[1:]))[0], truth[3])


def test_a_scan_of_many_frames_in_one_file(tmp_path: Path) -> None:
    """Its frames have one instance: the mask's frames lie where their place says."""
    sources, truth = series(tmp_path), balls()
    truth[3, 0] = 1
    made = drawn(sources, truth)
    order = [4, 0, 5, 2, 1, 3]
    groups = [
        sequence(PlanePositionSequence=sequence(ImagePositionPatient=sources[place].ImagePositionPatient))[0]
        for place in order
    ]
    shared = sequence(
        PlaneOrientationSequence=sequence(ImageOrientationPatient=list(AXIAL)),
        PixelMeasuresSequence=sequence(PixelSpacing=list(SPACING[1:])),
    )
    whole = picture(
        np.stack([sources[place].pixel_array for place in order]), instance="all", SOPClassUID=ENHANCED_CT,
        PerFrameFunctionalGroupsSequence=groups, SharedFunctionalGroupsSequence=shared, PixelSpacing=None,
        ImagePositionPatient=None, ImageOrientationPatient=None,
    )  # fmt: skip
    for path in tmp_path.iterdir():
        path.unlink()
    save(whole, tmp_path / "all.dcm")
    for item in made.PerFrameFunctionalGroupsSequence:
        for derived in item.DerivationImageSequence:
            derived.SourceImageSequence[0].ReferencedSOPInstanceUID = whole.SOPInstanceUID
    made.save_as(tmp_path / "seg.dcm")
    assert np.array_equal(read(tmp_path, ["seg.dcm"])[0], truth)
    assert np.array_equal(read(tmp_path, ["seg.dcm"], wanted=spec(size=SHAPE[1:]))[0], truth[3])


def test_a_picture_without_a_place_is_known_by_its_instance(tmp_path: Path) -> None:
    sources, truth = series(tmp_path), balls()
    made = drawn(sources[2:3], truth[2:3])
    for path in tmp_path.iterdir():
        path.unlink()
    for name in ("ImagePositionPatient", "ImageOrientationPatient"):
        delattr(sources[2], name)
    save(sources[2], tmp_path / "xray.dcm")
    made.save_as(tmp_path / "seg.dcm")
    assert np.array_equal(read(tmp_path, ["seg.dcm"], wanted=spec(size=SHAPE[1:]))[0], truth[2])
    silent(made)
    made.save_as(tmp_path / "seg.dcm")
    refused("lie on another grid than their scan", tmp_path, ["seg.dcm"], wanted=spec(size=SHAPE[1:]))


def test_a_study_of_scans_and_their_segmentations(tmp_path: Path) -> None:
    patients = [f"p{number}" for number in range(6)]
    rows = ["patient_id,mask"]
    for number, patient in enumerate(patients):
        drawn(series(tmp_path / "pacs", patient), np.roll(balls(), number, 2)).save_as(tmp_path / f"pacs/{patient}.dcm")
        rows.append(f"{patient},{patient}.dcm")
    series(tmp_path / "pacs", "p9")
    (tmp_path / "patients.csv").write_text("\n".join([*rows, "p9,"]) + "\n")  # nobody drew p9
    chest = {"kind": "dicom", "folder": "pacs", "size": [10, 8], "window": [50, 100], "series": {"modality": ["CT"]}}
    masks = {"column": "mask", "task": "segmentation", "folder": "pacs", "classes": ["none", "core", "rim"]}
    study = small_study({"chest": chest}, outcome=masks, model={"kind": "unet", "channels": [4, 8]})
    sources = {"patients": tmp_path / "patients.csv", "pacs": tmp_path / "pacs"}
    cohort = read_cohort(study, sources, "north", Places(cache=tmp_path / "cache"))
    assert cohort.ids == tuple(patients)
    assert cohort.targets.shape == (6, *SHAPE[1:])
    assert all(np.array_equal(one, np.roll(balls(), k, 2)[3]) for k, one in enumerate(cohort.targets))
    model, task = build(study), task_for(study)
    pictures, seen = ({n: torch.from_numpy(v) for n, v in part.items()} for part in (cohort.inputs, cohort.present))
    assert task.loss(model(pictures, seen), task.targets(cohort.targets)).isfinite().all()
    with pytest.raises(ValueError, match="of scans one per patient is read"):
        study.replace(cohort={"record": "visit"})


def test_classes_by_number_where_the_study_says_so(tmp_path: Path) -> None:
    drawn(series(tmp_path), balls(), ["Läsion", "Saum"]).save_as(tmp_path / "seg.dcm")
    numbered = THREE.model_copy(update={"values": (0, 2, 1)})
    found = read(tmp_path, ["seg.dcm"], numbered)[0]
    assert np.array_equal(found, np.array([0, 2, 1])[balls()])
    refused("hold a segment that stands for no class: 1 of 1", tmp_path, ["seg.dcm"])


def test_what_does_not_belong_is_refused_with_a_count(tmp_path: Path) -> None:
    sources = series(tmp_path)
    other = series(tmp_path / "other", name="t")
    theirs = series(tmp_path / "theirs", patient="p2")
    truth = balls()
    made = drawn(theirs, truth)  # in the very same place
    made.save_as(tmp_path / "canary-theirs.dcm")
    silent(made)  # about pictures, not about the series
    made.save_as(tmp_path / "canary-silent.dcm")
    drawn(other[:2], truth[:2]).save_as(tmp_path / "canary-other.dcm")
    for path in (tmp_path / "other").iterdir():
        path.unlink()
    where = r"patients.csv: column 'mask': masks that "
    refused(where + "were drawn on another series than the one that is read: 3 of 3", tmp_path,
            ["canary-theirs.dcm", "canary-other.dcm", "canary-silent.dcm"], patients=["p1"] * 3)  # fmt: skip
    assert read(tmp_path, ["canary-theirs.dcm"], patients=["p2"]).any()

    def changed(name: str, **said: Any) -> list[str]:
        made = drawn(sources, truth)
        for key, value in said.items():
            if callable(value):
                value(made)
            else:
                setattr(made, key, value)
        made.save_as(tmp_path / f"canary-{name}.dcm")
        return [f"canary-{name}.dcm"]

    def unnamed(made: Dataset) -> None:
        del made.ReferencedSeriesSequence
        silent(made)

    def moved(made: Dataset) -> None:
        for item in made.PerFrameFunctionalGroupsSequence:
            item.PlanePositionSequence[0].ImagePositionPatient[0] += 0.5

    def swapped(made: Dataset) -> None:
        first, second = made.PerFrameFunctionalGroupsSequence[0], made.PerFrameFunctionalGroupsSequence[1]
        first.DerivationImageSequence, second.DerivationImageSequence = (
            second.DerivationImageSequence, first.DerivationImageSequence,
        )  # fmt: skip

    refused(where + "do not say which series they were drawn on", tmp_path, changed("bare", by=unnamed))
    refused(where + "lie on another grid than their scan", tmp_path, changed("moved", by=moved))
    refused(where + "lie on another grid than their scan", tmp_path, changed("swapped", by=swapped))
    refused(where + "are not DICOM Segmentation", tmp_path, ["canary-p1-s-0.dcm"])
    refused(where + "hold fractions or label maps", tmp_path, changed("fractions", SegmentationType="FRACTIONAL"))
    refused(where + "are cut off", tmp_path, changed("short", PixelData=b"\0\0"))
    refused(where + "claim to be larger", tmp_path, changed("huge", NumberOfFrames=2**30))
    refused(where + "do not exist", tmp_path, ["canary-none.dcm"])
    refused(where + "lead out of the folder", tmp_path, ["../canary.dcm"])
    refused(where + "have no scan to lie on: 1 of 1", tmp_path, ["canary-theirs.dcm"], patients=["p3"])


def test_a_fraction_is_not_an_outline(tmp_path: Path) -> None:
    made = drawn(series(tmp_path), balls(), kind="FRACTIONAL", fractional_type="PROBABILITY")
    made.save_as(tmp_path / "seg.dcm")
    refused("masks that hold fractions or label maps rather than outlines: 1 of 1", tmp_path, ["seg.dcm"])


def test_two_classes_in_one_place_are_refused(tmp_path: Path) -> None:
    made = drawn(series(tmp_path), balls())
    groups = made.PerFrameFunctionalGroupsSequence
    number = [item.SegmentIdentificationSequence[0].ReferencedSegmentNumber for item in groups]
    first, second = groups[number.index(1)], groups[number.index(2)]
    second.PlanePositionSequence = first.PlanePositionSequence
    second.DerivationImageSequence = first.DerivationImageSequence
    made.PixelData = b"\xff" * len(made.PixelData)
    made.save_as(tmp_path / "seg.dcm")
    refused("masks that hold segments of two classes in one place: 1 of 1", tmp_path, ["seg.dcm"])
