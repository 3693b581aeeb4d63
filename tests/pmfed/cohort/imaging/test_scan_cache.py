"""The cache: keyed by content, private, whole or absent, and shared by several processes."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import stat
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_files import picture, planes, read, save, spec
from numpy.typing import NDArray
from pydicom.uid import JPEG2000Lossless

from pmfed.cohort.block import Block
from pmfed.cohort.imaging import identity, index
from pmfed.cohort.imaging.cache import STALE, Cache, key_of
from pmfed.cohort.imaging.seal import Seal

SCAN = np.random.default_rng(0).random((1, 8, 8)).astype(np.float32)
KEY = key_of(["a" * 64], {"size": [8, 8]})


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trust files that were just written, as a hospital's were long ago."""
    monkeypatch.setattr(index, "FRESH", -(10**12))


def entry(folder: Path) -> Path:
    (path,) = folder.rglob("*.safetensors")
    return path


def test_what_was_stored_is_loaded(tmp_path: Path) -> None:
    Cache(tmp_path).store(KEY, SCAN, {"tilted": 1})
    cache = Cache(tmp_path)
    values, counts = cache.load(KEY, SCAN.shape) or (None, None)
    np.testing.assert_array_equal(values, SCAN)
    assert counts == {"tilted": 1}
    assert cache.hits == 1
    assert cache.load(key_of(["b"], {}), SCAN.shape) is None
    assert cache.load(KEY, (1, 4, 16)) is None


def test_the_key_is_content_and_study() -> None:
    assert key_of(["a", "b"], {"x": 1}) == key_of(["b", "a"], {"x": 1})
    assert (
        len({key_of(["a"], {"x": 1}), key_of(["b"], {"x": 1}), key_of(["a"], {"x": 2}), key_of(["a", "a"], {"x": 1})})
        == 4
    )


def test_nobody_else_can_look(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        (tmp_path / "scans").mkdir(mode=0o777)
        Cache(tmp_path).store(KEY, SCAN, {})
    finally:
        os.umask(before)
    for path in (tmp_path / "scans").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)
    assert stat.S_IMODE((tmp_path / "scans").stat().st_mode) == 0o700


@pytest.mark.parametrize("spoil", ["cut", "empty", "flip", "counts", "shape", "text", "folder"])
def test_a_spoilt_entry_counts_as_absent_and_is_written_anew(tmp_path: Path, spoil: str) -> None:
    Cache(tmp_path).store(KEY, SCAN, {"tilted": 0})
    path = entry(tmp_path)
    content = bytearray(path.read_bytes())
    if spoil == "flip":
        content[-3] ^= 4
    elif spoil == "counts":
        content = content.replace(b'tilted\\": 0', b'tilted\\": 9')
    elif spoil == "shape":
        content = content.replace(b"[1,8,8]", b"[8,8,1]")
    elif spoil == "cut":
        content = content[:-9]
    elif spoil == "empty":
        content = bytearray()
    elif spoil == "text":
        content = bytearray(b"no tensor")
    assert content != path.read_bytes() or spoil == "folder"
    path.write_bytes(content)
    if spoil == "folder":
        path.unlink()
        path.mkdir()
    cache = Cache(tmp_path)
    assert cache.load(KEY, SCAN.shape) is None
    cache.store(KEY, SCAN, {"tilted": 0})
    if spoil != "folder":
        assert Cache(tmp_path).load(KEY, SCAN.shape) is not None


def test_a_cache_that_cannot_be_written_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    save(picture(np.ones((8, 8), dtype=np.int16)), tmp_path / "pacs" / "a")
    block = read(spec(), tmp_path / "pacs", cache=tmp_path / "file" / "below")
    assert block.present.all()
    assert any("the cache cannot be written" in line for line in block.warnings)


def test_what_a_dead_process_left_is_removed(tmp_path: Path) -> None:
    Cache(tmp_path).store(KEY, SCAN, {})
    left = entry(tmp_path).with_name(f".{KEY}.safetensors.0123.part")
    left.write_bytes(b"half")
    Cache(tmp_path)
    assert left.exists()  # another process may be writing it
    os.utime(left, (time.time() - STALE - 9,) * 2)
    Cache(tmp_path)
    assert not left.exists()
    assert Cache(tmp_path).load(KEY, SCAN.shape) is not None


def _rush(folder: str, seed: int, told: Any) -> None:
    rng = np.random.default_rng(seed)
    wrong = 0
    for _ in range(120):
        number = int(rng.integers(8))
        key = key_of([str(number)], {})
        cache = Cache(Path(folder))
        kept = cache.load(key, (1, 64, 64))
        if kept is not None and not np.all(kept[0] == number):
            wrong += 1
        cache.store(key, np.full((1, 64, 64), number, dtype=np.float32), {})
        seal = Seal(Path(folder) / "scans", "index-x")
        found = seal.load()
        wrong += found is not None and found not in range(4)
        seal.store(seed)
        if number == 0 and rng.random() < 0.3:
            for path in (Path(folder) / "scans").rglob("*.safetensors"):
                path.unlink(missing_ok=True)
    told.put(wrong)


def test_several_processes_at_once(tmp_path: Path) -> None:
    """They read, write and delete the same entries; nobody ever sees half of one."""
    fork = multiprocessing.get_context("fork")
    told: Any = fork.Queue()
    crowd = [fork.Process(target=_rush, args=(str(tmp_path), seed, told)) for seed in range(4)]
    for one in crowd:
        one.start()
    assert [told.get(timeout=60) for _ in crowd] == [0, 0, 0, 0]
    for one in crowd:
        one.join()
        assert one.exitcode == 0
    assert Seal(tmp_path / "scans", "index-x").load() in range(4)
    assert not list(tmp_path.rglob("*.part"))
    assert len(list((tmp_path / "scans").glob(".key-*"))) == 0


def hospital(folder: Path, patients: int = 12, slices: int = 6) -> list[str]:
    """Write a compressed volume per patient; return the patients."""
    rng = np.random.default_rng(1)
    where = planes((slices, 96, 96), (2.0, 1.0, 1.0), (1, 0, 0, 0, 1, 0), (0, 0, 0))
    for patient in range(patients):
        for number, plane in enumerate(where):
            pixels = rng.integers(0, 2000, (96, 96), dtype=np.int16)
            data = picture(pixels, patient=f"p{patient}", instance=str(number), **plane)
            data.compress(JPEG2000Lossless)
            save(data, folder / f"p{patient}" / str(number))
    return [f"p{patient}" for patient in range(patients)]


VOLUME = spec(size=(6, 32, 32), spacing=(2.0, 3.0, 3.0), window=(1000.0, 2000.0))


def cached(folder: Path, patients: list[str], cache: Path) -> Block:
    return read(VOLUME, folder, patients, cache=cache)


def test_a_second_start_decodes_nothing(tmp_path: Path) -> None:
    patients = hospital(tmp_path / "pacs")
    one = cached(tmp_path / "pacs", patients, tmp_path / "cache")
    other = cached(tmp_path / "pacs", patients, tmp_path / "cache")
    np.testing.assert_array_equal(one.inputs, other.inputs)
    assert one.counts["scans"] == other.counts["scans"] == other.counts["scans from the cache"] == 12


def test_moved_files_and_a_lost_index_are_known_by_their_content(tmp_path: Path) -> None:
    patients = hospital(tmp_path / "pacs", 2)
    one = cached(tmp_path / "pacs", patients, tmp_path / "cache")
    shutil.move(tmp_path / "pacs", tmp_path / "archive")
    moved = cached(tmp_path / "archive", patients, tmp_path / "cache")
    assert moved.counts["scans from the cache"] == 2
    for path in (tmp_path / "cache" / "scans").glob("index-*"):
        path.unlink()
    lost = cached(tmp_path / "archive", patients, tmp_path / "cache")
    assert lost.counts["scans from the cache"] == 2
    np.testing.assert_array_equal(one.inputs, lost.inputs)


def test_another_study_or_another_pixel_is_another_entry(tmp_path: Path) -> None:
    def flat(value: int) -> NDArray[np.int16]:
        return np.full((8, 8), value, dtype=np.int16)

    path = save(picture(flat(1)), tmp_path / "pacs" / "a")
    first = read(spec(window=(2.0, 4.0)), path.parent, cache=tmp_path / "cache")
    assert first.inputs[0, 0, 0, 0] == 0.25
    assert read(spec(window=(1.0, 2.0)), path.parent, cache=tmp_path / "cache").inputs[0, 0, 0, 0] == 0.5
    save(picture(flat(3)), path)
    again = read(spec(window=(2.0, 4.0)), path.parent, cache=tmp_path / "cache")
    assert again.inputs[0, 0, 0, 0] == 0.75
    assert "scans from the cache" not in again.counts
    # Which series is taken is no part of the key: another selection finds the same scan.
    other = spec(window=(2.0, 4.0), burned_in="take", skip_unreadable=True)
    assert read(other, path.parent, cache=tmp_path / "cache").counts["scans from the cache"] == 1


def test_warnings_come_from_the_cache_too(tmp_path: Path) -> None:
    for height in (0, 1, 2, 5, 6):
        pixels = np.full((8, 8), height, dtype=np.int16)
        save(
            picture(
                pixels,
                instance=str(height),
                ImagePositionPatient=[0, 0.5 * height, height],
                RescaleSlope=1,
                RescaleIntercept=0,
            ),
            tmp_path / "pacs" / str(height),
        )
    first, second = (read(spec(size=(7, 8, 8)), tmp_path / "pacs", cache=tmp_path / "cache") for _ in range(2))
    assert second.counts["scans from the cache"] == 1
    assert first.warnings == second.warnings
    assert len(first.warnings) == 2


def test_a_second_copy_of_a_file_is_read_once_and_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = save(picture(np.ones((8, 8), dtype=np.int16)), tmp_path / "pacs" / "a")
    shutil.copy(original, original.with_name("b"))
    decoded = []
    monkeypatch.setattr(identity, "Picture", decoded.append)
    for start in range(2):
        block = read(spec(), tmp_path / "pacs", cache=tmp_path / "cache")
        assert block.counts["second copies of a picture"] == 1
        assert block.counts["scans from the cache"] == start
        monkeypatch.setattr(identity, "read_bytes", decoded.append)  # from here on its digest is known
    assert not decoded
