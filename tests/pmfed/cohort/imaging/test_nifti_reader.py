"""NIfTI-1 and NIfTI-2 files listed in a table, beside what nibabel makes of them."""

from __future__ import annotations

import gzip
import tracemalloc
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from dicom_files import OPENED
from hypothesis import given, settings
from hypothesis import strategies as st
from readings import read_nifti

from pmfed.cohort.block import Block
from pmfed.cohort.imaging.failures import (
    CUT_OFF,
    DAMAGED,
    NO_PLACE,
    NO_SUCH_VOLUME,
    NOT_NIFTI,
    NOT_SCALAR,
    SEVERAL_VOLUMES,
    TOO_LARGE,
    ScanError,
)
from pmfed.cohort.imaging.nifti import decode_nifti
from pmfed.cohort.imaging.places import Places
from pmfed.cohort.tables import Problems
from pmfed.errors import DataError
from pmfed.modality.scans import Nifti

RNG = np.random.default_rng(0)
AFFINE = np.array([[-2.0, 0, 0, 90], [0, 0, 1.5, -20], [0, 3, 0, 5], [0, 0, 0, 1]])


def blob(values: Any, affine: Any = AFFINE, kind: Any = nib.Nifti1Image, **said: Any) -> bytes:
    image = kind(values, affine)
    for name, value in said.items():
        image.header[name] = value
    content: bytes = image.to_bytes()
    return content


def spec(**said: Any) -> Nifti:
    usual = {"folder": "f", "table": "t", "size": (4, 5, 6), "window": (50.0, 100.0), "mean": 0.0, "scale": 1.0}
    return Nifti.model_validate({**usual, **said})


def read(wanted: Nifti, folder: Path, rows: str, patients: list[str], when: Any = None, **said: Any) -> Block:
    """Read, and raise what is wrong; ``rows`` is the table below its header."""
    table = folder.parent / "scans.csv"
    header = "patient_id,file,day\n" if wanted.date else "patient_id,file\n"
    table.write_text(header + rows)
    problems = Problems("north")
    block = read_nifti(wanted, folder, patients, when, problems, table=table, **said)
    problems.raise_any()
    return block


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "scans"
    path.mkdir()
    return path


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("dtype", ["u1", "<i2", ">i2", "<u2", "<f4", ">f8", "<i4"])
@pytest.mark.parametrize("packed", [False, True])
def test_what_nibabel_reads(kind: Any, dtype: str, packed: bool) -> None:
    values = RNG.integers(0, 200, (4, 5, 6)).astype(dtype)
    image = kind(values, AFFINE)
    image.header.set_data_dtype(np.dtype(dtype))
    image.header.set_slope_inter(0.5, -7)
    content = image.to_bytes()
    found, affine = decode_nifti(gzip.compress(content, mtime=0) if packed else content, None)
    np.testing.assert_allclose(found, kind.from_bytes(content).get_fdata(), rtol=1e-6)
    np.testing.assert_allclose(affine, AFFINE)


def test_qform_where_there_is_no_sform_and_other_units() -> None:
    image = nib.Nifti1Image(np.zeros((2, 3, 4), dtype=np.int16), None)
    image.set_qform(AFFINE, code=1)
    image.header["sform_code"] = 0
    image.header.set_xyzt_units("micron")
    _, affine = decode_nifti(image.to_bytes(), None)
    np.testing.assert_allclose(affine[:3], AFFINE[:3] / 1000, atol=1e-5)


def test_one_volume_of_several() -> None:
    values = RNG.integers(0, 200, (4, 5, 6, 3)).astype("i2")
    for packed in (False, True):
        content = gzip.compress(blob(values), mtime=0) if packed else blob(values)
        for number in range(3):
            np.testing.assert_array_equal(decode_nifti(content, number)[0], values[..., number])
    with pytest.raises(ScanError, match=SEVERAL_VOLUMES):
        decode_nifti(blob(values), None)
    with pytest.raises(ScanError, match=NO_SUCH_VOLUME):
        decode_nifti(blob(values), 3)
    np.testing.assert_array_equal(decode_nifti(blob(values[..., :1]), None)[0], values[..., 0])


def lying(**said: Any) -> bytes:
    """Return a file whose header was changed after it was written."""
    content = bytearray(blob(np.zeros((4, 5, 6), dtype=np.int16)))
    header = nib.Nifti1Header(bytes(content[:348]))
    for name, value in said.items():
        header[name] = value
    content[:348] = header.binaryblock
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", NOT_NIFTI),
        (b"hello" * 100, NOT_NIFTI),
        (gzip.compress(b"hello" * 100, mtime=0), NOT_NIFTI),
        (gzip.compress(blob(np.zeros((4, 5, 6), dtype=np.int16)), mtime=0)[:90], DAMAGED),
        (blob(np.zeros((4, 5, 6), dtype=np.int16))[:400], CUT_OFF),
        (blob(np.zeros((4, 5, 6), dtype=np.int16))[:300], CUT_OFF),
        (lying(magic=b"ni1"), NOT_NIFTI),
        (lying(dim=[3, 30000, 30000, 30000, 1, 1, 1, 1]), TOO_LARGE),
        (lying(dim=[3, -4, 5, 6, 1, 1, 1, 1]), NOT_SCALAR),
        (lying(dim=[1, 120, 1, 1, 1, 1, 1, 1]), NOT_SCALAR),
        (lying(vox_offset=2**30), TOO_LARGE),
        (lying(vox_offset=np.nan), DAMAGED),
        (lying(datatype=99), DAMAGED),
        (lying(sform_code=0, qform_code=0), NO_PLACE),
        (lying(srow_x=[np.nan, 0, 0, 0]), NO_PLACE),
        (lying(srow_x=[0, 0, 0, 0]), NO_PLACE),
        (lying(scl_slope=1, scl_inter=np.inf), DAMAGED),
        (blob(np.zeros((4, 5, 6), dtype=np.complex64)), NOT_SCALAR),
        (blob(np.zeros((4, 5, 6), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])), NOT_SCALAR),
    ],
)
def test_what_is_wrong_is_one_of_our_sentences(content: bytes, why: str) -> None:
    with np.errstate(invalid="ignore"), pytest.raises(ScanError) as caught:
        decode_nifti(content, None)
    assert caught.value.reason == why


def test_a_gzip_bomb_is_unpacked_no_further_than_its_header_says() -> None:
    bomb = gzip.compress(blob(np.ones((4, 5, 6), dtype=np.int16)) + bytes(100_000_000), 1)
    tracemalloc.start()
    try:
        assert decode_nifti(bomb, None)[0].sum() == 120
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=60), st.integers(0, 700), st.integers(0, 740))
def test_random_damage_is_one_of_our_sentences(noise: bytes, at: int, end: int) -> None:
    content = bytearray(blob(np.ones((4, 5, 6), dtype=np.int16)))
    content[at : at + len(noise)] = noise
    with np.errstate(all="ignore"):
        try:
            values, affine = decode_nifti(bytes(content[: max(end, at)]), None)
        except ScanError:
            return
    assert values.ndim == 3
    assert np.isfinite(affine).all()


def test_a_volume_turned_and_sampled(folder: Path) -> None:
    values = RNG.integers(0, 100, (6, 4, 5)).astype(np.int16)  # Left, Superior, Anterior by AFFINE
    nib.save(nib.Nifti1Image(values, AFFINE), folder / "a.nii.gz")
    block = read(spec(orientation="SPL"), folder, "p1,a.nii.gz\n", ["p1"])
    wanted = values.transpose(1, 2, 0)[:, ::-1, :] / 100
    np.testing.assert_allclose(block.inputs[0, 0], wanted, atol=1e-6)
    turned = read(spec(orientation="LAS", size=(6, 5, 4)), folder, "p1,a.nii.gz\n", ["p1"])
    np.testing.assert_allclose(turned.inputs[0, 0], values.transpose(0, 2, 1) / 100, atol=1e-6)
    half = read(spec(spacing=(3.0, 1.5, 1.0), size=(4, 5, 11)), folder, "p1,a.nii.gz\n", ["p1"])
    np.testing.assert_allclose(half.inputs[0, 0, ..., ::2], wanted, atol=1e-6)
    middle = read(spec(size=(5, 6)), folder, "p1,a.nii.gz\n", ["p1"])
    np.testing.assert_allclose(middle.inputs[0, 0], wanted[2], atol=1e-6)
    brightest = read(spec(size=(5, 6), view="brightest"), folder, "p1,a.nii.gz\n", ["p1"])
    np.testing.assert_allclose(brightest.inputs[0, 0], wanted.max(axis=0), atol=1e-6)


def test_voxels_that_are_not_numbers_are_black_and_said(folder: Path) -> None:
    values = np.full((4, 5, 6), 75, dtype=np.float32)
    values[0, 0, 0], values[1, 1, 1] = np.nan, np.inf
    nib.save(nib.Nifti1Image(values, np.eye(4)), folder / "a.nii")
    for _ in range(2):
        block = read(spec(orientation="RAS"), folder, "p1,a.nii\n", ["p1"], places=Places(folder.parent / "cache"))
        assert (block.inputs == 0).sum() == 2
        assert (block.inputs == 0.75).sum() == 118
        assert any(
            "scans that hold voxels that are not numbers, which count as black: 1." in line for line in block.warnings
        )
    nib.save(nib.Nifti1Image(values * np.nan, np.eye(4)), folder / "b.nii")
    with pytest.raises(DataError, match="listed files that hold no value at all: 1 of 1"):
        read(spec(), folder, "p1,b.nii\n", ["p1"])


def test_the_latest_before_the_index_date(folder: Path) -> None:
    for number in range(4):
        nib.save(nib.Nifti1Image(np.full((4, 5, 6), number * 10, dtype=np.int16), np.eye(4)), folder / f"{number}.nii")
    rows = "p1,0.nii,2020-01-01\np1,1.nii,2020-01-05 12:00\np1,2.nii,2020-01-05\np1,3.nii,\n"
    rows += "p2,3.nii,2021-01-01T08:30:00.5\np3,,\n"
    when = np.array(["2019-01-01", "2020-01-05T12:01:00", "2020-01-06", "2020-01-05T12:00:59"], dtype="datetime64[s]")
    dated = spec(date="day", fit="stretch")
    block = read(dated, folder, rows, ["p1"] * 4, when)
    np.testing.assert_allclose(block.inputs[:, 0, 0, 0, 0] * 10, [0, 1, 2, 0], atol=1e-6)
    assert block.present.tolist() == [False, True, True, True]
    assert read(dated, folder, rows, ["p1", "p2", "p3"]).present.tolist() == [True, True, False]
    assert read(dated.model_copy(update={"take": "earliest"}), folder, rows, ["p1"], when[2:3]).inputs.max() == 0
    with pytest.raises(DataError, match="does not say in which column the day of a scan stands"):
        read(spec(fit="stretch"), folder, "p1,0.nii\n", ["p1"], when[:1])
    with pytest.raises(DataError, match=r"column 'day': 2 cells are no date\."):
        read(dated, folder, "p1,0.nii,31.12.2020\np1,1.nii,2020-13-01\n", ["p1"])


def test_the_table(folder: Path) -> None:
    nib.save(nib.Nifti1Image(np.ones((4, 5, 6), dtype=np.int16), np.eye(4)), folder / "a.nii")
    wanted = spec(orientation="RAS")
    block = read(wanted, folder, "p1,a.nii\np9,a.nii\n", ["p1", "p2", "p1"])
    assert block.present.tolist() == [True, False, True]
    assert block.counts["files of patients outside the cohort"] == 1
    with pytest.raises(DataError, match="lists several files for 1 patient"):
        read(wanted, folder, "p1,a.nii\np1,b.nii\n", ["p1"])
    with pytest.raises(DataError, match="listed files that do not exist: 1 of 1"):
        read(wanted, folder, "p1,none.nii\n", ["p1"])
    (folder / "link.nii").symlink_to("/etc/hostname")
    for file in ("../scans.csv", "/etc/hostname", "link.nii"):
        with pytest.raises(DataError, match="listed files that lead out of the folder: 1 of 1"):
            read(wanted, folder, f"p1,{file}\n", ["p1"])
    skipped = read(spec(orientation="RAS", skip_unreadable=True), folder, "p1,a.nii\np2,none.nii\n", ["p1", "p2"])
    assert skipped.present.tolist() == [True, False]
    assert any("left out as unreadable: 1 of 2" in line for line in skipped.warnings)
    with pytest.raises(DataError, match="there is no such folder"):
        read(wanted, folder / "none", "p1,a.nii\n", ["p1"])


def test_a_second_start_reads_no_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pmfed.cohort.imaging import digests

    monkeypatch.setattr(digests, "FRESH", -(10**12))
    nib.save(nib.Nifti1Image(np.ones((4, 5, 6), dtype=np.int16), np.eye(4)), folder / "a.nii")
    places = Places(folder.parent / "cache")
    wanted = spec(orientation="RAS")
    first = read(wanted, folder, "p1,a.nii\n", ["p1"], places=places)
    OPENED.clear()
    again = read(wanted, folder, "p1,a.nii\n", ["p1"], places=places)
    assert again.counts["scans from the cache"] == 1
    assert not [path for path in OPENED if "a.nii" in path]
    (folder / "a.nii").rename(folder / "b.nii")  # known by its content
    assert read(wanted, folder, "p1,b.nii\n", ["p1"], places=places).counts["scans from the cache"] == 1
    (folder / "b.nii").rename(folder / "a.nii")
    np.testing.assert_array_equal(first.inputs, again.inputs)
    nib.save(nib.Nifti1Image(np.full((4, 5, 6), 2, dtype=np.int16), np.eye(4)), folder / "a.nii")
    changed = read(wanted, folder, "p1,a.nii\n", ["p1"], places=places)
    assert "scans from the cache" not in changed.counts
    assert changed.inputs.max() == pytest.approx(0.02)


def test_real_samples(public_data: Path, tmp_path: Path) -> None:
    """Every sample is read; one of several volumes only where the study says which."""
    source = public_data / "dicom_nifti_samples"
    names = sorted(path.name for path in source.iterdir() if ".nii" in path.name)
    assert len(names) == 4
    table = tmp_path / "scans.csv"
    table.write_text("patient_id,file\n" + "".join(f"p{number},{name}\n" for number, name in enumerate(names)))
    patients = [f"p{number}" for number in range(4)]
    wanted = spec(size=(12, 32, 32), fit="stretch", window="own", volume=0)
    problems = Problems("north")
    block = read_nifti(wanted, source, patients, None, problems, table=table)
    problems.raise_any()
    assert block.present.all()
    assert block.inputs.std(axis=(1, 2, 3, 4)).min() > 0.1
    read_nifti(wanted.model_copy(update={"volume": None}), source, patients, None, problems, table=table)
    with pytest.raises(DataError, match=r"listed files that hold several volumes: 3 of 4\."):
        problems.raise_any()
