"""Masks: every pixel the class its number stands for, on the way of their scan; anything else refused with a count."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from readings import read_masks

from pmfed.cohort.tables import Problems
from pmfed.errors import DataError
from pmfed.modality import Images, Nifti
from pmfed.study.outcome import Masks
from pmfed.study.outcomes import outcome_of

TWO = outcome_of(column="mask", task="segmentation", folder="masks", classes=("none", "lesion"), values=(0, 255))
THREE = outcome_of(column="mask", task="segmentation", folder="masks", classes=("none", "core", "rim"))
PICTURES = Images(table="patients", folder="files", size=(4, 6))


def read(
    folder: Path,
    files: list[str],
    outcome: Masks = TWO,
    spec: Images | Nifti = PICTURES,
    scans: list[str] | None = None,
) -> NDArray[np.uint8]:
    problems = Problems("north")
    scans = scans or [""] * len(files)
    masks = read_masks(outcome, spec, files, scans, folder, folder, Path("patients.csv"), problems)
    problems.raise_any()
    return masks


def refused(words: str, *asked: object, **more: object) -> None:
    with pytest.raises(DataError, match=words) as caught:
        read(*asked, **more)  # type: ignore[arg-type]
    assert "canary" not in str(caught.value)


def test_the_numbers_of_a_picture_become_classes(tmp_path: Path) -> None:
    drawn = np.random.default_rng(0).integers(0, 2, (4, 6), dtype=np.uint8)
    Image.fromarray(255 * drawn).save(tmp_path / "grey.png")
    palette = Image.fromarray(2 * drawn, mode="P")
    palette.putpalette([0, 0, 0, 9, 9, 9, 200, 0, 0])
    palette.save(tmp_path / "palette.png")
    assert np.array_equal(read(tmp_path, ["grey.png", "grey.png"]), np.stack([drawn, drawn]))
    assert np.array_equal(read(tmp_path, ["palette.png"], THREE)[0], 2 * drawn)


def test_what_is_no_mask_is_refused_with_a_count(tmp_path: Path) -> None:
    save = {
        "canary-value": np.full((4, 6), 7),
        "canary-turned": np.zeros((6, 4)),
        "canary-colour": np.tile([9, 0, 0], (4, 6, 1)),
    }
    for name, pixels in save.items():
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{name}.png")
    (tmp_path / "canary-text.png").write_text("no picture")
    where = r"patients.csv: column 'mask': masks that "
    refused(where + "hold a number that stands for no class: 1 of 1", tmp_path, ["canary-value.png"])
    refused(where + "have another size than the study's: 2 of 2", tmp_path, ["canary-turned.png"] * 2)
    refused(where + "are in colour", tmp_path, ["canary-colour.png"])
    refused(where + "are not PNG, JPEG, TIFF, BMP, GIF or WebP", tmp_path, ["canary-text.png"])
    refused(where + "do not exist", tmp_path, ["canary-absent.png"])
    refused(where + "lead out of the folder", tmp_path, ["../canary.png"])
    refused("there is no such folder", tmp_path / "absent", ["a.png"])


def nifti(folder: Path, name: str, values: NDArray[np.float32], affine: NDArray[np.float64]) -> str:
    nibabel.Nifti1Image(values, affine).to_filename(folder / name)
    return name


def test_a_volume_goes_the_way_of_its_scan(tmp_path: Path) -> None:
    """A mask that is the scan's own bright half stays its bright half, turned, resampled and cut alike."""
    from pmfed.cohort.imaging.fit import finished, oriented, windowed

    values = np.zeros((10, 8, 6), dtype=np.float32)
    values[5:, 2:6] = 1
    affine = np.array([[0, -2.0, 0, 9], [1.5, 0, 0, -4], [0, 0, 3.0, 2], [0, 0, 0, 1]])
    scan = nifti(tmp_path, "scan.nii.gz", 100 * values, affine)
    mask = nifti(tmp_path, "mask.nii.gz", 2 * values, affine)
    spec = Nifti(table="patients", folder="files", size=(8, 8, 8), spacing=(2.0, 2.0, 2.0), window=(50, 100))
    found = read(tmp_path, [mask], THREE, spec, [scan])[0]
    turned, spacing = oriented(100 * values, affine, spec.orientation)
    bright = finished(windowed(turned.copy(), (50, 100)), spacing, spec)[0] * spec.scale + spec.mean
    assert set(np.unique(found)) == {0, 2}
    away = np.abs(bright - 0.5) > 0.05  # at half a voxel either is right
    assert np.array_equal(found[away] == 2, bright[away] > 0.5)
    flat = Nifti(table="patients", folder="files", size=(8, 10), window=(50, 100), orientation="SAR")
    turned, _ = oriented(values, affine, flat.orientation)
    if turned.shape[1:] != (8, 10):
        flat = flat.model_copy(update={"size": turned.shape[1:]})
    assert np.array_equal(read(tmp_path, [mask], THREE, flat, [scan])[0], 2 * turned[len(turned) // 2])


def test_a_mask_on_another_grid_than_its_scan_is_refused(tmp_path: Path) -> None:
    values, affine = np.zeros((4, 4, 4), dtype=np.float32), np.diag([1.0, 1, 1, 1])
    moved = affine.copy()
    moved[0, 3] = 1.0
    spec = Nifti(table="patients", folder="files", size=(4, 4, 4), window="own")
    scan = nifti(tmp_path, "scan.nii", values, affine)
    assert read(tmp_path, [nifti(tmp_path, "mask.nii", values, affine)], THREE, spec, [scan]).shape == (1, 4, 4, 4)
    for name, held, place in (("moved", values, moved), ("small", values[:3], affine)):
        mask = nifti(tmp_path, f"{name}.nii", held, place)
        refused("masks that lie on another grid than their scan: 1 of 1", tmp_path, [mask], THREE, spec, [scan])
    half = nifti(tmp_path, "half.nii", values + 0.5, affine)
    refused("hold a number that stands for no class", tmp_path, [half], THREE, spec, [scan])
