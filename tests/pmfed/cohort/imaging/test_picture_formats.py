"""Pictures and masks as cameras, viewers and annotation tools save them: the right numbers, or a sentence."""

from __future__ import annotations

import io
import json
import stat
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from readings import read_masks, read_pictures
from small import small_study

from pmfed.cohort import read_cohort
from pmfed.cohort.block import Block
from pmfed.cohort.imaging.places import Places
from pmfed.cohort.tables import Problems
from pmfed.errors import DataError
from pmfed.modality import Images
from pmfed.study.outcome import Masks
from pmfed.study.outcomes import outcome_of

SHOWN = np.array([[250, 200, 150], [100, 50, 0]], dtype=np.uint8).repeat(8, 0).repeat(8, 1)  # 16 x 24
# How a camera stores what is to be shown so, by EXIF orientation.
STORED = {
    1: SHOWN, 2: SHOWN[:, ::-1], 3: SHOWN[::-1, ::-1], 4: SHOWN[::-1], 5: SHOWN.T, 6: np.rot90(SHOWN), 7: SHOWN[::-1, ::-1].T,
    8: np.rot90(SHOWN, -1),
}  # fmt: skip


def spec(**said: Any) -> Images:
    return Images.model_validate({"table": "t", "folder": "f", "size": (16, 24), "mean": 0, "scale": 1, **said})


def read(folder: Path, *files: str, want: Images | None = None, **more: Any) -> Block:
    problems = Problems("north")
    block = read_pictures(want or spec(), files, folder, Path("t.csv"), problems, **more)
    problems.raise_any()
    return block


def refused(says: str, folder: Path, *files: str, **said: Any) -> str:
    with pytest.raises(DataError, match=f"that {says}") as caught:
        read(folder, *files, want=spec(**said))
    assert "canary" not in str(caught.value)
    return str(caught.value)


def same(block: Block, expected: NDArray[Any], tolerance: float = 0.5 / 255) -> bool:
    return bool(np.allclose(block.inputs[0], expected, atol=tolerance))


# Which way is up.


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png", "tif", "webp"])
def test_every_orientation_of_exif(tmp_path: Path, orientation: int, ending: str) -> None:
    """Pillow#9109, kraken#760."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    more = {"jpg": {"quality": 95}, "webp": {"lossless": True}}.get(ending, {})
    image = Image.fromarray(np.ascontiguousarray(STORED[orientation]))
    image.save(tmp_path / f"a.{ending}", exif=exif, **more)
    block = read(tmp_path, f"a.{ending}")
    assert same(block, SHOWN / 255, 0.03)
    assert block.counts.get("pictures turned as EXIF says", 0) == int(orientation > 1)


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_an_orientation_that_does_not_exist_turns_nothing(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(SHOWN).save(tmp_path / "a.png", exif=exif)
    assert same(read(tmp_path, "a.png"), SHOWN / 255)


@pytest.mark.parametrize("exif", [b"garbage", b"Exif\0\0II*\0\xff\xff\xff\x7f"])
@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
def test_damaged_exif_does_not_damage_a_picture(tmp_path: Path, exif: bytes, ending: str, capfd: Any) -> None:
    Image.fromarray(SHOWN).save(tmp_path / f"a.{ending}", exif=exif, **({"lossless": True} if ending == "webp" else {}))
    assert same(read(tmp_path, f"a.{ending}"), SHOWN / 255, 0.1)
    assert not any(capfd.readouterr())


# Colours, palettes, transparency.


def test_palettes_and_single_bits(tmp_path: Path) -> None:
    colours = np.stack([SHOWN, SHOWN // 2, 255 - SHOWN], axis=-1)
    image = Image.fromarray(colours)
    image.quantize(6).save(tmp_path / "a.png")
    image.quantize(6).save(tmp_path / "a.gif")
    image.save(tmp_path / "a.bmp")
    image.save(tmp_path / "a.tif")
    for name in ("a.png", "a.gif", "a.bmp", "a.tif"):
        assert same(read(tmp_path, name, want=spec(channels=3)), colours.transpose(2, 0, 1) / 255)
        assert same(read(tmp_path, name), colours @ [0.299, 0.587, 0.114] / 255, 1.5 / 255)
    Image.fromarray(SHOWN > 120).save(tmp_path / "b.png")
    assert same(read(tmp_path, "b.png"), SHOWN > 120)
    grey = read(tmp_path, "b.png", want=spec(channels=3)).inputs[0]
    assert np.array_equal(grey[0], grey[1])
    assert np.array_equal(grey[0], grey[2])


def transparent(mode: str) -> Image.Image:
    alpha = np.where(SHOWN == 250, 0, 255).astype(np.uint8)
    if mode == "P":
        image = Image.fromarray(SHOWN).quantize(6)
        image.info["transparency"] = int(np.asarray(image)[0, 0])
        return image
    if mode == "L":
        image = Image.fromarray(SHOWN)
        image.info["transparency"] = 250
        return image
    return Image.fromarray(np.stack([*[SHOWN] * (1 if mode == "LA" else 3), alpha], axis=-1))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L"])
def test_what_lies_below_a_transparent_picture_is_the_studys_to_say(tmp_path: Path, mode: str) -> None:
    """The colour under full transparency is whatever the writer left there."""
    image = transparent(mode)
    image.save(tmp_path / "canary.png", **({"transparency": image.info["transparency"]} if mode in "PL" else {}))
    refused("are transparent in places: 1 of 1", tmp_path, "canary.png")
    for ground, value in (("black", 0), ("white", 1)):
        for channels in (1, 3):
            block = read(tmp_path, "canary.png", want=spec(transparent=ground, channels=channels))
            assert same(block, np.where(SHOWN == 250, value, SHOWN / 255))
            assert block.counts["pictures laid on a ground where they are transparent"] == 1


def test_an_opaque_alpha_is_nothing(tmp_path: Path) -> None:
    full = np.full_like(SHOWN, 255)
    Image.fromarray(np.stack([SHOWN, SHOWN, SHOWN, full], axis=-1)).save(tmp_path / "a.png")
    Image.fromarray(np.stack([SHOWN, full], axis=-1)).save(tmp_path / "b.png")
    for name in ("a.png", "b.png"):
        assert same(read(tmp_path, name), SHOWN / 255)


# Bits.


def deep(values: NDArray[Any], **more: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(values.astype(np.uint16)).save(file, **{"format": "PNG", **more})
    return file.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_twelve_bits_in_sixteen(tmp_path: Path, kind: str) -> None:
    """Read as sixteen they would be nearly black."""
    (tmp_path / "canary").write_bytes(deep(SHOWN * 16.0, format=kind))
    with pytest.raises(DataError, match=r"of 16 bits that use twelve of them at most: all 1\."):
        read(tmp_path, "canary")
    assert same(read(tmp_path, "canary", want=spec(bits=12)), SHOWN * 16.0 / 4095)
    assert same(read(tmp_path, "canary", want=spec(bits=16)), SHOWN * 16.0 / 65535)
    refused("hold numbers beyond the study's bits: 1 of 1", tmp_path, "canary", bits=11)
    (tmp_path / "full").write_bytes(deep(SHOWN * 257.0, format=kind))
    block = read(tmp_path, "canary", "full")  # one that uses them all: the other is merely dark
    np.testing.assert_allclose(block.inputs[:, 0], [SHOWN * 16.0 / 65535, SHOWN / 255], atol=1e-5)
    assert not block.warnings
    (tmp_path / "half").write_bytes(deep(SHOWN * 100.0, format=kind))
    assert any("use fifteen of them at most: all 1" in one for one in read(tmp_path, "half").warnings)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("white_is_zero", [False, True])
@pytest.mark.parametrize("bits", [8, 16])
def test_tiff_in_either_order_and_with_white_as_zero(
    tmp_path: Path, order: str, white_is_zero: bool, bits: int
) -> None:
    values = SHOWN.astype(f"{order}u{bits // 8}") * (257 if bits == 16 else 1)
    stored = (2**bits - 1 - values if white_is_zero else values).astype(f"{order}u{bits // 8}")
    (tmp_path / "a.tif").write_bytes(tiff(stored, order, 0 if white_is_zero else 1))
    if (order, white_is_zero, bits) == (">", True, 16):
        refused("have colours or bits in a form that is not known", tmp_path, "a.tif")  # Pillow reads all but this
    else:
        assert same(read(tmp_path, "a.tif"), SHOWN / 255)


def tiff(values: NDArray[Any], order: str, photometric: int) -> bytes:
    """Return a TIFF of one strip, as the standard's first example."""
    rows, columns = values.shape
    bits = 8 * values.dtype.itemsize
    tags = [
        (256, columns),
        (257, rows),
        (258, bits),
        (259, 1),
        (262, photometric),
        (273, 8),
        (277, 1),
        (278, rows),
        (279, values.nbytes),
    ]
    wide = "<" if order == "<" else ">"
    head = (b"II" if order == "<" else b"MM") + np.array([42], f"{wide}u2").tobytes() + np.array([8 + values.nbytes], f"{wide}u4").tobytes()  # fmt: skip
    entries = b"".join(
        np.array([tag, 4], f"{wide}u2").tobytes() + np.array([1, value], f"{wide}u4").tobytes() for tag, value in tags
    )
    return head + values.tobytes() + np.array([len(tags)], f"{wide}u2").tobytes() + entries + bytes(4)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Image.fromarray(SHOWN.astype(np.float32)), "hold numbers of more than 16 bits"),
        (lambda: Image.fromarray(SHOWN.astype(np.int32) * 2**20), "hold numbers of more than 16 bits"),
        (lambda: Image.fromarray(SHOWN).convert("RGB").convert("CMYK"), "have colours or bits in a form that is not known"),
        (lambda: Image.fromarray(np.stack([SHOWN] * 3, -1)).convert("LAB"), "have colours or bits in a form that is not known"),
    ],
)  # fmt: skip
def test_numbers_whose_meaning_nobody_says(tmp_path: Path, make: Any, says: str) -> None:
    make().save(tmp_path / "canary.tif")
    refused(f"{says}.*: 1 of 1", tmp_path, "canary.tif")


def test_files_of_several_pictures(tmp_path: Path) -> None:
    pages = [Image.fromarray(SHOWN), Image.fromarray(255 - SHOWN)]
    for name in ("canary.tif", "canary.gif", "canary.webp", "canary.png"):
        pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:])
        refused("hold several pictures: 1 of 1", tmp_path, name)
    pages[0].save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=pages[1:], quality=95)  # a telephone's
    assert same(read(tmp_path, "a.jpg"), SHOWN / 255, 0.02)


def test_a_picture_that_claims_to_be_gigantic(tmp_path: Path) -> None:
    Image.new("1", (20_000, 10_000)).save(tmp_path / "canary.png")
    refused("claim to be larger than what is read: 1 of 1", tmp_path, "canary.png", fit="stretch")


# Sizes.


def test_fit(tmp_path: Path) -> None:
    Image.fromarray(SHOWN).save(tmp_path / "a.png")  # 16 x 24, squares of 8
    assert "nothing is resized unasked" in refused("have another size than the study's", tmp_path, "a.png", size=(4, 4))
    stretched = read(tmp_path, "a.png", want=spec(size=(2, 3), fit="stretch")).inputs[0, 0]
    assert np.abs(stretched - SHOWN[4::8, 4::8] / 255).max() < 0.12
    padded = read(tmp_path, "a.png", want=spec(size=(24, 24), fit="pad")).inputs[0, 0]
    np.testing.assert_allclose(padded[4:20], SHOWN / 255, atol=1e-6)
    assert not padded[:4].any()
    assert not padded[20:].any()
    cropped = read(tmp_path, "a.png", want=spec(size=(16, 16), fit="crop")).inputs[0, 0]
    np.testing.assert_allclose(cropped, SHOWN[:, 4:20] / 255, atol=1e-6)
    smaller = read(tmp_path, "a.png", want=spec(size=(8, 8), fit="crop")).inputs[0, 0]
    expected = Image.fromarray(SHOWN).resize((8, 8), Image.Resampling.BILINEAR, box=(4, 0, 20, 16))
    assert np.abs(smaller - np.asarray(expected) / 255)[1:-1, 1:-1].max() < 0.02


def test_a_hundred_sizes(tmp_path: Path) -> None:
    files = []
    for number in range(100):
        files.append(f"{number}.png")
        image = Image.fromarray(SHOWN).resize((24 + 3 * number, 16 + 2 * number), Image.Resampling.NEAREST)
        image.save(tmp_path / files[-1])
    for fit in ("stretch", "crop", "pad"):
        block = read(tmp_path, *files, want=spec(fit=fit))
        assert block.present.all()
        assert np.abs(block.inputs - SHOWN / 255)[:, :, 2:6, 2:6].max() < 0.03
        assert block.counts["pictures of another size than the study's"] == 99


# What the site is told.


def test_rows_lists_and_leaving_out(tmp_path: Path) -> None:
    Image.fromarray(SHOWN).save(tmp_path / "a.png")
    (tmp_path / "canary.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])
    files, detail = ["a.png", "", "canary.png", "absent.png", "canary.png"], tmp_path / "unreadable.txt"
    problems = Problems("north")
    read_pictures(spec(), files, tmp_path, Path("t.csv"), problems, rows=[2, 3, 9, 5, 4], places=Places(detail=detail))
    with pytest.raises(DataError) as caught:
        problems.raise_any()
    assert "that are damaged: 1 of 3 (first at row 4)." in str(caught.value)
    assert "that do not exist: 1 of 3 (first at row 5)." in str(caught.value)
    assert f"They are listed in {detail}" in str(caught.value)
    assert "canary" not in str(caught.value)
    listed = dict(line.split("\t") for line in detail.read_text().splitlines())
    assert {why: json.loads(path) for why, path in listed.items()} == {"are damaged": "canary.png", "do not exist": "absent.png"}  # fmt: skip
    assert stat.S_IMODE(detail.stat().st_mode) == 0o600
    block = read(tmp_path, *files, want=spec(skip_unreadable=True))
    assert block.present.tolist() == [True, False, False, False, False]
    assert not block.inputs[1:].any()
    assert any("that are damaged, left out: 1 of 3." in one for one in block.warnings)
    (tmp_path / "link.png").symlink_to("/etc/hostname")
    refused("lead out of the folder: 1 of 1", tmp_path, "link.png", skip_unreadable=True)


@pytest.mark.parametrize("source", ["pictures", "pictures.zip"])
def test_what_a_study_says_of_unreadable_pictures_holds_for_its_cohort(tmp_path: Path, source: str) -> None:
    Image.fromarray(SHOWN).save(tmp_path / "a.png")
    contents = {"a.png": (tmp_path / "a.png").read_bytes(), "canary.png": b"no picture"}
    (tmp_path / "pictures").mkdir()
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as archive:
        for name, content in contents.items():
            (tmp_path / "pictures" / name).write_bytes(content)
            archive.writestr(name, content)
    (tmp_path / "t.csv").write_text("patient_id,died,file\np1,no,a.png\np2,yes,canary.png\np3,no,a.png\n")
    where: dict[str, Path | str] = {"t": tmp_path / "t.csv", "f": tmp_path / source}
    said = spec(skip_unreadable=True).model_dump(mode="json")
    strict = small_study({"photo": {**said, "skip_unreadable": False}}, cohort={"table": "t"})
    with pytest.raises(DataError, match=r"that are not PNG, .*: 1 of 2 \(first at row 3\)\."):
        read_cohort(strict, where, "north")
    found = read_cohort(small_study({"photo": said}, cohort={"table": "t"}), where, "north")
    assert found.present["photo"].tolist() == [True, False, True]
    assert found.findings.counts["photo: patients with the very input of another"] == 2
    assert any("left out: 1 of 2." in one for one in found.findings.warnings)


def test_what_a_site_should_look_at(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(24):
        pixels = rng.integers(80, 120, (16, 24)) if number else np.full((16, 24), 255)
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{number}.png")
    (tmp_path / "copy.png").write_bytes((tmp_path / "5.png").read_bytes())
    files = [*(f"{number}.png" for number in range(24)), "copy.png"]
    block = read(tmp_path, *files, owners=[f"p{number}" for number in range(25)])
    assert block.counts["inputs of one value throughout"] == 1
    assert block.counts["patients with the very input of another"] == 2
    assert block.counts["inputs unlike the others in brightness"] == 1
    assert len(block.warnings) == 2


# Masks.

TWO = outcome_of(column="mask", task="segmentation", folder="masks", classes=("none", "lesion"), values=(0, 255))
DRAWN = (SHOWN > 120).astype(np.uint8)


def masks(folder: Path, file: str, outcome: Masks = TWO, want: Images | None = None, scan: str = "", images: Path | None = None) -> NDArray[np.uint8]:  # fmt: skip
    problems = Problems("north")
    found = read_masks(outcome, want or spec(), [file], [scan], folder, images or folder, Path("t.csv"), problems)
    problems.raise_any()
    return found[0]


def palette(drawn: NDArray[np.uint8], *colours: int) -> Image.Image:
    image = Image.fromarray(drawn, mode="P")
    image.putpalette([part for grey in colours for part in (grey, grey, grey)])
    return image


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("a.gif", lambda: palette(DRAWN, 0, 255)),  # as DRIVE's
        ("b.gif", lambda: Image.fromarray(255 * DRAWN)),
        ("a.png", lambda: palette(DRAWN, 0, 255)),
        ("b.png", lambda: palette(1 - DRAWN, 255, 0)),
        ("c.png", lambda: Image.fromarray(DRAWN > 0)),
        ("d.png", lambda: Image.fromarray(np.stack([255 * DRAWN] * 3, -1))),
        ("e.png", lambda: Image.fromarray(np.stack([*[255 * DRAWN] * 3, np.full_like(DRAWN, 255)], -1))),
        ("a.bmp", lambda: Image.fromarray(255 * DRAWN)),
        ("b.bmp", lambda: Image.fromarray(DRAWN > 0)),
        ("a.tif", lambda: Image.fromarray(255 * DRAWN)),
        ("b.tif", lambda: Image.fromarray(DRAWN > 0)),
    ],
)
def test_masks_in_every_form(tmp_path: Path, name: str, make: Any) -> None:
    make().save(tmp_path / name)
    assert np.array_equal(masks(tmp_path, name), DRAWN)


def test_places_in_a_palette_or_its_greys(tmp_path: Path) -> None:
    """Whichever the study's values are; where both are, nobody can tell."""
    ones = TWO.model_copy(update={"values": (0, 1)})
    palette(DRAWN, 0, 255).save(tmp_path / "a.gif")
    assert np.array_equal(masks(tmp_path, "a.gif", ones), DRAWN)
    Image.fromarray(DRAWN > 0).save(tmp_path / "b.png")
    assert np.array_equal(masks(tmp_path, "b.png", ones), DRAWN)
    palette(DRAWN, 1, 0).save(tmp_path / "c.png")
    with pytest.raises(DataError, match="have a palette that can be read in two ways: 1 of 1"):
        masks(tmp_path, "c.png", ones)


@pytest.mark.parametrize(
    ("name", "make", "says"),
    [
        ("canary.jpg", lambda: Image.fromarray(255 * DRAWN), "are JPEG or WebP, which change numbers"),
        ("canary.webp", lambda: Image.fromarray(255 * DRAWN), "are JPEG or WebP, which change numbers"),
        ("canary.png", lambda: Image.fromarray(np.stack([255 * DRAWN, DRAWN, DRAWN], -1)), "are in colour"),
        ("canary.png", lambda: transparent("RGBA"), "are transparent in places"),
        ("canary.tif", lambda: Image.fromarray(100 * DRAWN), "hold a number that stands for no class"),
    ],
)
def test_what_is_no_mask(tmp_path: Path, name: str, make: Any, says: str) -> None:
    make().save(tmp_path / name)
    with pytest.raises(DataError, match=f"masks that {says}.*: 1 of 1") as caught:
        masks(tmp_path, name)
    assert "canary" not in str(caught.value)


def test_a_mask_goes_its_pictures_way(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.ascontiguousarray(np.rot90(SHOWN))).save(tmp_path / "photo.png", exif=exif)
    Image.fromarray(np.ascontiguousarray(np.rot90(255 * DRAWN))).save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(255 * DRAWN).save(tmp_path / "upright.png")
    Image.fromarray(np.ascontiguousarray(np.rot90(255 * DRAWN))).save(tmp_path / "lying.png")
    for want in (
        spec(),
        spec(size=(8, 12), fit="stretch"),
        spec(size=(24, 24), fit="pad"),
        spec(size=(16, 16), fit="crop"),
    ):
        shown = read(tmp_path, "photo.png", want=want).inputs[0, 0]
        for name in ("turned.png", "upright.png"):
            drawn = masks(tmp_path, name, want=want, scan="photo.png")
            clear = np.abs(shown - 120 / 255) > 0.1
            assert np.array_equal(drawn[clear] == 1, shown[clear] > 120 / 255)
        with pytest.raises(DataError, match="lie on another grid than their scan"):
            masks(tmp_path, "lying.png", want=want, scan="photo.png")
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.write(tmp_path / "photo.png", "photo.png")
    assert np.array_equal(masks(tmp_path, "upright.png", scan="photo.png", images=tmp_path / "photos.zip"), DRAWN)
