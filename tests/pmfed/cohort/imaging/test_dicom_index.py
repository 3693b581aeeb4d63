"""The index of a DICOM folder: every kind of file is told apart, nothing outside is opened, nothing is read twice."""

from __future__ import annotations

import os
import random
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest
from dicom_files import CT, OPENED, picture, save
from hypothesis import given
from hypothesis import strategies as st
from pydicom.data import get_testdata_file
from pydicom.uid import DeflatedExplicitVRLittleEndian

from pmfed.cohort.imaging import header, index, inside
from pmfed.cohort.imaging.failures import (
    CUT_OFF,
    DAMAGED,
    NAMED_ONLY,
    NO_PIXELS,
    OUTSIDE,
    TOO_LARGE,
)
from pmfed.cohort.imaging.header import moment
from pmfed.cohort.imaging.index import PICTURE, read_index
from pmfed.cohort.imaging.inside import resolve, walk

PIXELS = np.arange(64, dtype=np.int16).reshape(8, 8)


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trust files that were just written, as a hospital's were long ago."""
    monkeypatch.setattr(index, "FRESH", -(10**12))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a file of every kind."""
    root = tmp_path / "pacs"
    save(picture(PIXELS), root / "a" / "whole")
    save(picture(PIXELS, instance="2"), root / "a" / "b" / "second.dcm")
    whole = (root / "a" / "whole").read_bytes()
    (root / "cut.dcm").write_bytes(whole[:-20])
    (root / "cut-in-header").write_bytes(whole[:500])
    (root / "named.dcm").write_bytes(b"no DICOM at all" * 20)
    (root / "empty.DCM").write_bytes(b"")
    (root / "notes.txt").write_text("hello")
    (root / "damaged").write_bytes(whole[:132] + b"\x02\x00\x10\x00UI\xff" + os.urandom(0) + b"\xff" * 300)
    save(picture(PIXELS, instance="3", PixelData=None), root / "no-pixels")
    shutil.copy(get_testdata_file("test-SR.dcm"), root / "report")
    shutil.copy(get_testdata_file("DICOMDIR-nopatient"), root / "DICOMDIR")
    return root


def test_every_kind_of_file_is_told_apart(folder: Path) -> None:
    found = read_index(folder)
    states = {path: entry.state for path, entry in found.entries.items()}
    assert states == {
        "DICOMDIR": "DICOMDIR",
        "a/b/second.dcm": PICTURE,
        "a/whole": PICTURE,
        "cut-in-header": NO_PIXELS,
        "cut.dcm": CUT_OFF,
        "damaged": states["damaged"],
        "empty.DCM": NAMED_ONLY,
        "named.dcm": NAMED_ONLY,
        "no-pixels": NO_PIXELS,
        "notes.txt": "not DICOM",
        "report": "DICOM without pictures",
    }
    assert states["damaged"] in (DAMAGED, "DICOM without pictures", NO_PIXELS)
    assert [path for path, _ in found.pictures] == ["a/b/second.dcm", "a/whole"]
    assert "whole" not in repr(found)


def test_headers(folder: Path) -> None:
    (_, one) = dict(read_index(folder).pictures).popitem()
    assert (one.patient, one.modality, one.rows, one.columns, one.frames) == ("p1", "CT", 8, 8, 1)
    assert one.position == (0, 0, 0)
    assert one.direction == (1, 0, 0, 0, 1, 0)
    assert one.spacing == (1, 1)
    assert not one.may_show_text
    assert "p1" not in repr(one)


@pytest.mark.parametrize(
    ("day", "time", "says"),
    [
        ("20200102", "101530.25", "2020-01-02T10:15:30"),
        ("20200102", "1015", "2020-01-02T10:15:59"),
        ("20200102", "", "2020-01-02T23:59:59"),
        ("20200102", "000000.000000", "2020-01-02T23:59:59"),
        ("2020.01.02", "10:15:30", "2020-01-02T10:15:30"),
        ("20200102101530.5+0100", "", "2020-01-02T10:15:30"),
        ("20200102\\20210102", "", None),
        ("20201402", "", None),
        ("20200102", "250000", None),
        ("", "101530", None),
        ("2020", "", None),
    ],
)
def test_a_moment_is_never_taken_for_earlier_than_it_may_be(day: str, time: str, says: str | None) -> None:
    seconds = moment(day, time)
    assert (None if seconds is None else str(np.datetime64(seconds, "s"))) == says


@given(st.text(max_size=24), st.text(max_size=16))
def test_any_text_is_a_moment_or_none(day: str, time: str) -> None:
    for one in (day, f"20200102{day}"):
        found = moment(one, time)
        assert found is None or np.datetime64(found, "s") > np.datetime64("0000-01-01")


def test_the_latest_date_counts(tmp_path: Path) -> None:
    save(picture(PIXELS, StudyDate="20190101", SeriesDate="20200101", ContentDate="20210101"), tmp_path / "a")
    save(picture(PIXELS, StudyDate="20190101", AcquisitionDate=None, AcquisitionTime=None), tmp_path / "b")
    taken = [str(np.datetime64(one.taken or 0, "s"))[:10] for _, one in read_index(tmp_path).pictures]
    assert taken == ["2021-01-01", "2019-01-01"]


def test_links_lead_nowhere(folder: Path, tmp_path: Path) -> None:
    outside = save(picture(PIXELS), tmp_path / "elsewhere" / "secret")
    (folder / "link").symlink_to(outside)
    (folder / "door").symlink_to(outside.parent)
    (folder / "inner").symlink_to(folder / "a" / "whole")
    (folder / "a" / "up").symlink_to(folder)
    (folder / "dangling").symlink_to(tmp_path / "gone")
    os.mkfifo(folder / "pipe")
    OPENED.clear()
    found = read_index(folder)
    assert {path for path, why in found.refused.items() if why == OUTSIDE} == {"link", "door", "dangling"}
    assert len(list(found.pictures)) == 2
    assert not any("elsewhere" in path or "pipe" in path for path in OPENED)


def test_a_link_put_in_place_of_a_file_is_not_followed(tmp_path: Path) -> None:
    real = save(picture(PIXELS), tmp_path / "real")
    (tmp_path / "link").symlink_to(real)
    with pytest.raises(header.ScanError, match="may not be opened"):
        header.read_header(str(tmp_path / "link"))


@pytest.mark.parametrize("file", ["../x", "/etc/hostname", "a/../../x", "up/x", "a\0b"])
def test_listed_files_outside_the_folder(tmp_path: Path, file: str) -> None:
    folder = tmp_path / "in"
    (folder / "a").mkdir(parents=True)
    (tmp_path / "x").write_text("x")
    (folder / "up").symlink_to(tmp_path)
    with pytest.raises(header.ScanError, match=OUTSIDE):
        resolve(folder, file)


def test_the_folder_itself_may_be_a_link(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(folder)
    assert len(list(read_index(tmp_path / "alias").pictures)) == 2
    assert walk(tmp_path / "alias").files.keys() == walk(folder).files.keys()


@pytest.mark.usefixtures("settled")
def test_a_second_start_opens_no_file(folder: Path, tmp_path: Path) -> None:
    first = read_index(folder, tmp_path / "cache")
    assert first.keep()
    OPENED.clear()
    second = read_index(folder, tmp_path / "cache")
    assert not [path for path in OPENED if str(folder) in path]
    assert list(first.pictures) == list(second.pictures)
    assert first.states == second.states


@pytest.mark.usefixtures("settled")
def test_a_changed_file_is_read_again(folder: Path, tmp_path: Path) -> None:
    read_index(folder, tmp_path / "cache").keep()
    before = os.stat(folder / "a" / "whole")
    save(picture(PIXELS, patient="p2"), folder / "a" / "whole")
    os.utime(folder / "a" / "whole", ns=(before.st_atime_ns, before.st_mtime_ns))  # as rsync and cp -p do
    (folder / "a" / "b" / "second.dcm").unlink()
    assert [one.patient for _, one in read_index(folder, tmp_path / "cache").pictures] == ["p2"]


def test_a_file_written_a_moment_ago_is_not_trusted(folder: Path, tmp_path: Path) -> None:
    read_index(folder, tmp_path / "cache").keep()
    OPENED.clear()
    read_index(folder, tmp_path / "cache")
    assert [path for path in OPENED if str(folder) in path]
    assert inside.FRESH >= 10**9


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("spoil", ["cut", "flip", "key", "empty"])
def test_a_spoilt_index_is_made_anew(folder: Path, tmp_path: Path, spoil: str) -> None:
    read_index(folder, tmp_path / "cache").keep()
    (sealed,) = (tmp_path / "cache" / "scans").glob("index-*")
    content = bytearray(sealed.read_bytes())
    if spoil == "cut":
        sealed.write_bytes(content[:-1])
    elif spoil == "flip":
        content[40] ^= 1
        sealed.write_bytes(content)
    elif spoil == "empty":
        sealed.write_bytes(b"")
    else:
        (tmp_path / "cache" / "scans" / "key").write_bytes(bytes(32))
    again = read_index(folder, tmp_path / "cache")
    assert len(list(again.pictures)) == 2
    assert again.keep()
    OPENED.clear()
    read_index(folder, tmp_path / "cache")
    assert not [path for path in OPENED if str(folder) in path]


@pytest.mark.usefixtures("settled")
def test_the_sealed_index_is_private_and_says_nothing(folder: Path, tmp_path: Path) -> None:
    save(picture(PIXELS, patient="CANARY77", SeriesDescription="CANARY78"), folder / "CANARY79")
    read_index(folder, tmp_path / "cache").keep()
    for path in (tmp_path / "cache" / "scans").iterdir():
        assert b"CANARY" not in path.read_bytes()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "cache" / "scans").stat().st_mode) == 0o700


def test_progress(folder: Path) -> None:
    told: list[tuple[int, int]] = []
    read_index(folder, progress=lambda done, total: told.append((done, total)))
    assert told == [(place, 11) for place in range(1, 12)]


def test_a_deflated_file_that_unpacks_to_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = picture(np.zeros((2000, 2000), dtype=np.int16))
    data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    path = save(data, tmp_path / "bomb")
    assert path.stat().st_size < 20_000
    assert isinstance(header.read_header(str(path)), header.Header)
    monkeypatch.setattr(header, "MOST_INFLATED", 2**20)
    with pytest.raises(header.ScanError, match=TOO_LARGE):
        header.read_header(str(path))
    path.write_bytes(path.read_bytes()[:-300])
    monkeypatch.undo()
    with pytest.raises(header.ScanError, match=CUT_OFF):
        header.read_header(str(path))


def test_random_damage_never_raises_anything_else(tmp_path: Path) -> None:
    whole = save(picture(PIXELS, SOPClassUID=CT), tmp_path / "x").read_bytes()
    draw = random.Random(7)
    for _ in range(400):
        content = bytearray(whole)
        for _ in range(draw.randint(1, 12)):
            content[draw.randrange(132, len(content))] = draw.randrange(256)
        if draw.random() < 0.3:
            del content[draw.randrange(len(content)) :]
        (tmp_path / "x").write_bytes(content)
        (entry,) = read_index(tmp_path).entries.values()
        assert isinstance(entry.state, str)
