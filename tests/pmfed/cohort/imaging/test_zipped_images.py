"""Pictures inside a zip: decoded as from a folder, within bounds."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image
from readings import read_images, read_pictures

from pmfed.cohort.imaging import archive as module
from pmfed.cohort.tables import Problems
from pmfed.errors import DataError
from pmfed.modality import Images

COLOUR = Images(table="t", folder="f", size=(4, 6), channels=3, mean=0.2, scale=0.5)


def png(shape: tuple[int, ...] = (4, 6, 3), seed: int = 0) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def pack(path: Path, members: dict[str, bytes], how: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", how) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def read(spec: Images, files: list[str], archive: Path) -> NDArray[np.float32]:
    problems = Problems("north")
    images = read_images(spec, files, archive, Path("t.csv"), problems)
    problems.raise_any()
    return images


def test_the_same_as_from_a_folder(tmp_path: Path) -> None:
    members = {"a.png": png(), "sub/b.png": png(seed=1)}
    files = ["sub/b.png", "", "a.png", "sub/b.png"]
    for name, content in members.items():
        (tmp_path / "f" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "f" / name).write_bytes(content)
    folder = read_images(COLOUR, files, tmp_path / "f", Path("t.csv"), Problems("north"))
    for how in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        found = read(COLOUR, files, pack(tmp_path / "f.zip", members, how))
        np.testing.assert_array_equal(found, folder)


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ({"a.png": png((5, 6, 3))}, "that have another size than the study's: 1 of 1 (first at row 2)."),
        ({"a.png": png()[:60]}, "that are damaged: 1 of 1 (first at row 2)."),
        ({"a.png": b"no picture"}, "that are not PNG, JPEG, TIFF, BMP, GIF or WebP: 1 of 1 (first at row 2)."),
        ({"b.png": png()}, "that do not exist: 1 of 1 (first at row 2)."),
        ({"a.png": bytes(30_000_000)}, "that unpack to far more than their size: 1 of 1 (first at row 2)."),
    ],
)
def test_what_cannot_be_taken_is_counted_and_not_named(tmp_path: Path, members: dict[str, bytes], says: str) -> None:
    with pytest.raises(DataError) as caught:
        read(COLOUR, ["a.png"], pack(tmp_path / "f.zip", members))
    assert says in str(caught.value)
    assert "a.png" not in str(caught.value)


def test_a_member_that_lies_about_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pack(tmp_path / "f.zip", {"a.png": bytes(5_000_000)})
    content = bytearray(path.read_bytes())
    lie = struct.pack("<I", 1000)
    content = content.replace(struct.pack("<I", 5_000_000), lie)
    path.write_bytes(content)
    with pytest.raises(DataError, match="are damaged: 1 of 1 "):
        read(COLOUR, ["a.png"], path)
    monkeypatch.setattr(module, "LARGEST_MEMBER", 100)
    with pytest.raises(DataError, match="unpack to far more"):
        read(COLOUR, ["a.png"], pack(tmp_path / "g.zip", {"a.png": png(seed=3) * 3}, zipfile.ZIP_STORED))


def test_a_picture_of_gigantic_size_is_never_decoded(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.new("1", (10_000, 8_000)).save(file, "PNG")
    with pytest.raises(DataError, match="claim to be larger than what is read"):
        read(COLOUR, ["a.png"], pack(tmp_path / "f.zip", {"a.png": file.getvalue()}))


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04" + bytes(60)])
def test_no_zip(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "f.zip").write_bytes(content)
    with pytest.raises(DataError, match="cannot be read as a zip file"):
        read(COLOUR, ["a.png"], tmp_path / "f.zip")
    with pytest.raises(DataError, match="cannot be read as a zip file"):
        read(COLOUR, ["a.png"], tmp_path / "none.zip")


def test_real_archives(public_data: Path) -> None:
    source = public_data / "fed_isic_ham10000"
    metadata = pd.read_csv(source / "metadata.csv")
    spec = Images(table="t", folder="f", size=(150, 200), channels=3)
    for archive, number in (("vienna_dias", 439), ("rosendahl", 2259)):
        names = [f"{one}.jpg" for one in metadata.loc[metadata["dataset"] == archive, "image_id"]]
        assert len(names) == number
        some = names[:: number // 40]
        images = read(spec, some, source / f"{archive}.zip")
        assert images.shape == (len(some), 3, 150, 200)
        assert images.std(axis=(1, 2, 3)).min() > 0.05


def test_what_became_of_pictures_is_counted_alike_in_a_folder_and_a_zip(tmp_path: Path) -> None:
    members = {f"{one}.png": png(seed=one) for one in range(3)} | {"cut.png": png()[:60], "large.png": png((5, 6, 3))}
    (tmp_path / "f").mkdir()
    for name, content in members.items():
        (tmp_path / "f" / name).write_bytes(content)
    spec = COLOUR.model_copy(update={"skip_unreadable": True})
    found = []
    for place in (tmp_path / "f", pack(tmp_path / "f.zip", members)):
        block = read_pictures(spec, [*members, "gone.png", ""], place, Path("t.csv"), Problems("north"))
        found.append(block.uses["picture"])
    assert found[0] == found[1]
    assert found[0].used == 3
    assert sorted(found[0].lost.values()) == [1, 1, 1]
    assert found[0].passed["no value"] == 1
    assert found[0].share == 0.5
