"""Images: decoded exactly, never resized, never from outside the folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from readings import read_images

from pmfed.cohort.tables import Problems
from pmfed.errors import DataError
from pmfed.modality import Images

GREY = Images(table="t", folder="f", size=(4, 6))
COLOUR = Images(table="t", folder="f", size=(4, 6), channels=3, mean=0.2, scale=0.5)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "images"
    (path / "sub").mkdir(parents=True)
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (4, 6), dtype=np.uint8)).save(path / "grey.png")
    Image.fromarray(rng.integers(0, 256, (4, 6, 3), dtype=np.uint8)).save(path / "sub" / "colour.png")
    Image.fromarray(np.full((4, 6, 3), 200, dtype=np.uint8)).save(path / "flat.jpg")
    Image.fromarray(rng.integers(0, 65536, (4, 6), dtype=np.uint16)).save(path / "deep.png")
    Image.fromarray(np.zeros((6, 4), dtype=np.uint8)).save(path / "turned.png")
    (path / "broken.png").write_bytes((path / "grey.png").read_bytes()[:60])
    (path / "text.png").write_text("no image")
    (path / "scan.dcm").write_bytes(bytes(128) + b"DICM" + bytes(100))
    Image.fromarray(np.zeros((4, 6), dtype=np.uint8)).save(tmp_path / "outside.png")
    (path / "link.png").symlink_to(tmp_path / "outside.png")
    (path / "inner.png").symlink_to(path / "grey.png")
    return path


def read(spec: Images, files: list[str], folder: Path) -> NDArray[np.float32]:
    problems = Problems("north")
    images = read_images(spec, files, folder, Path("t.csv"), problems)
    problems.raise_any()
    return images


def test_grey_values_are_exact_and_a_record_without_image_is_zero(folder: Path) -> None:
    images = read(GREY, ["grey.png", "", "inner.png", "grey.png"], folder)
    pixels = np.asarray(Image.open(folder / "grey.png"), dtype=np.float64)
    assert images.shape == (4, 1, 4, 6)
    assert images.dtype == np.float32
    np.testing.assert_allclose(images[0, 0], (pixels / 255 - 0.5) / 0.25, atol=1e-6)
    assert not images[1].any()
    assert np.array_equal(images[0], images[2])
    assert np.array_equal(images[0], images[3])


def test_colour_jpeg_and_sixteen_bits(folder: Path) -> None:
    images = read(COLOUR, ["sub/colour.png", "flat.jpg"], folder)
    pixels = np.asarray(Image.open(folder / "sub" / "colour.png"), dtype=np.float64)
    np.testing.assert_allclose(images[0], ((pixels / 255 - 0.2) / 0.5).transpose(2, 0, 1), atol=1e-6)
    np.testing.assert_allclose(images[1], (200 / 255 - 0.2) / 0.5, atol=0.02)
    deep = np.asarray(Image.open(folder / "deep.png"), dtype=np.float64)
    np.testing.assert_allclose(read(GREY, ["deep.png"], folder)[0, 0], (deep / 65535 - 0.5) / 0.25, atol=1e-5)


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (["turned.png", "grey.png"], "that have another size than the study's: 1 of 2 (first at row 2)."),
        (["nobody.png", "nor.png"], "that do not exist: 2 of 2 (first at row 2)."),
        (["broken.png", "grey.png"], "that are damaged: 1 of 2 (first at row 2)."),
        (["text.png", "scan.dcm"], "that are not PNG, JPEG, TIFF, BMP, GIF or WebP: 2 of 2 (first at row 2)."),
        (["../outside.png"], "that lead out of the folder: 1 of 1 (first at row 2)."),
        (["sub/../../outside.png"], "out of the folder"),
        (["link.png"], "out of the folder"),
        (["{folder}/grey.png"], "out of the folder"),
        (["a\0b.png"], "out of the folder"),
    ],
)
def test_what_cannot_be_taken_is_counted_and_not_named(folder: Path, files: list[str], says: str) -> None:
    files = [file.format(folder=folder) for file in files]
    with pytest.raises(DataError) as caught:
        read(GREY, files, folder)
    assert says in str(caught.value)
    assert not any(Path(file).name in str(caught.value) for file in files)


def test_a_sibling_folder_with_the_same_beginning_is_outside(folder: Path) -> None:
    sibling = folder.parent / "images2"
    sibling.mkdir()
    Image.fromarray(np.zeros((4, 6), dtype=np.uint8)).save(sibling / "x.png")
    with pytest.raises(DataError, match="out of the folder"):
        read(GREY, ["../images2/x.png"], folder)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such folder"):
        read(GREY, ["a.png"], tmp_path / "none")
