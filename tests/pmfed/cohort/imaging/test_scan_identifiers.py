"""Headers name patients: nothing of them passes beyond the reader."""

from __future__ import annotations

import gc
import logging
import os
import traceback
import warnings
from pathlib import Path
from threading import Event, Thread
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
from dicom_files import picture, read, save, spec
from pydicom.datadict import DicomDictionary, keyword_for_tag
from pydicom.dataset import FileDataset
from readings import read_nifti

from pmfed.cohort.imaging import index
from pmfed.cohort.imaging.fill import Filled
from pmfed.cohort.imaging.index import read_index
from pmfed.cohort.imaging.libraries import quiet
from pmfed.cohort.imaging.places import Places
from pmfed.cohort.imaging.series import Selection
from pmfed.cohort.tables import Problems
from pmfed.errors import DataError
from pmfed.modality.scans import Nifti

PIXELS = np.arange(64, dtype=np.int16).reshape(8, 8)
TEXT = {"PN", "LO", "SH", "LT", "ST", "UT", "UC", "AE"}
KEPT = {"PatientID", "Modality", "BodyPartExamined", "TransferSyntaxUID"}


def canaries(data: FileDataset) -> FileDataset:
    """Put a canary into every attribute that takes free text, dates included where they must parse."""
    for tag, (vr, _, _, retired, keyword) in DicomDictionary.items():
        if (
            vr in TEXT
            and keyword
            and not retired
            and keyword not in KEPT
            and tag >> 16 in (0x8, 0x10, 0x18, 0x20, 0x32, 0x38, 0x40)
        ):
            setattr(data, keyword_for_tag(tag), f"CANARY{tag % 9973}")
    data.PatientID = "CANARYID"
    data.PatientBirthDate = "19111213"
    data.StudyDate = data.SeriesDate = data.ContentDate = data.AcquisitionDate = "19870304"
    data.StudyInstanceUID = "CANARYUID"  # pydicom warns of it, and quotes it
    data.SeriesInstanceUID = "1.2.826.777888999.2"
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = "1.2.826.777888999.3"
    block = data.private_block(0x0029, "CANARYMAKER", create=True)
    block.add_new(0x01, "LO", "CANARYPRIVATE")
    return data


def silent(text: str, allowed: Path) -> None:
    """Fail where a canary sings, the site's own folder apart."""
    plain = text.replace(str(allowed), "")
    for canary in ("CANARY", "777888999", "19870304", "1987-03-04", "19111213", "hidden"):
        assert canary not in plain


def shown(error: BaseException) -> str:
    """Return what a traceback would show, without the lines of this file: the error and those it was raised from."""
    lines = list[str]()
    shown: BaseException | None = error
    while shown is not None:
        lines += traceback.format_exception_only(shown)
        shown = shown.__cause__ or (None if shown.__suppress_context__ else shown.__context__)
    return "".join(lines)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(index, "FRESH", -(10**12))
    root = tmp_path / "pacs" / "CANARYFOLDER"
    with pydicom.config.disable_value_validation():
        data = canaries(picture(PIXELS))
        assert sum("CANARY" in str(one.value) for one in data) > 150
        save(data, root / "CANARYFILE.dcm")
    return tmp_path


def leaks(folder: Path) -> list[str]:
    """Return what a cache holds of canaries, in names or contents, plain or in UTF-16."""
    found = []
    for path in folder.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        for canary in (b"CANARY", b"777888999", b"19870304", b"hidden", "CANARY".encode("utf-16-le")):
            if canary in content or canary in os.fsencode(path.relative_to(folder)):
                found.append(path.name)
    return found


def test_nothing_in_outputs_cache_counts_or_repr(site: Path, caplog: pytest.LogCaptureFixture, capfd: Any) -> None:
    caplog.set_level(logging.DEBUG)
    pydicom.config.debug(True)
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            for _ in range(2):
                block = read(spec(window=(32.0, 64.0)), site / "pacs", ["CANARYID"], cache=site / "cache")
    finally:
        pydicom.config.debug(False)
    assert block.present.all()
    assert block.counts["scans from the cache"] == 1
    assert not leaks(site / "cache")
    for text in (repr(block), str(block.counts), str(block.warnings), caplog.text, *capfd.readouterr()):
        silent(text, site)
    assert not told


def test_nothing_in_errors(site: Path) -> None:
    path = site / "pacs" / "CANARYFOLDER" / "CANARYFILE.dcm"
    whole = path.read_bytes()
    damage = {
        "cut": whole[:-40],
        "header": whole[:1500],
        "number": whole.replace(b"\x28\x00\x10\x00US\x02\x00\x08\x00", b"\x28\x00\x10\x00IS\x02\x00CA"),
        "position": whole.replace(b"0.0\\0.0\\0.0", b"CANARY\\0.0\\"),
        "form": whole.replace(b"MONOCHROME2 ", b"CANARYCANARY"),
        "burned": whole,
        "size": whole,
    }
    for name, content in damage.items():
        path.write_bytes(content)
        wanted = spec(size=(9, 9)) if name == "size" else spec(size=(8, 8, 8)) if name == "position" else spec()
        try:
            read(wanted, site / "pacs", ["CANARYID"], cache=site / "cache")
        except DataError as error:
            silent(shown(error), site)
        assert not leaks(site / "cache")


def test_nothing_in_reprs(site: Path) -> None:
    found = read_index(site / "pacs")
    things = [
        found,
        Selection(),
        Filled(failed={"CANARY": "x"}),
        *found.entries.values(),
        *(one for _, one in found.pictures),
    ]
    for thing in things:
        silent(repr(thing), site)


def test_the_list_for_the_site_holds_paths_and_nothing_else(site: Path) -> None:
    path = site / "pacs" / "CANARYFOLDER" / "CANARYFILE.dcm"
    path.write_bytes(path.read_bytes()[:-30])
    detail = site / "unreadable.txt"
    with pytest.raises(DataError):
        read(spec(), site / "pacs", ["CANARYID"], places=Places(detail=detail))
    assert detail.read_text() == 'are cut off\t"CANARYFOLDER/CANARYFILE.dcm"\n'


def test_nothing_of_nifti_either(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.arange(64, dtype=np.int16).reshape(4, 4, 4), np.eye(4))
    image.header["descrip"] = b"CANARYDESCRIPTION"
    image.header["db_name"] = b"CANARYNAME"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"CANARYEXTENSION"))
    (tmp_path / "scans").mkdir()
    nib.save(image, tmp_path / "scans" / "CANARY.nii.gz")
    table = tmp_path / "scans.csv"
    table.write_text("patient_id,file\nhidden1,CANARY.nii.gz\n")
    wanted = Nifti(folder="f", table="t", size=(4, 4, 4), window="own")
    for cut in (None, 80):
        if cut:
            path = tmp_path / "scans" / "CANARY.nii.gz"
            path.write_bytes(path.read_bytes()[:cut])
        problems = Problems("north")
        block = read_nifti(
            wanted, tmp_path / "scans", ["hidden1"], None, problems, table=table, places=Places(tmp_path / "cache")
        )
        silent(repr(block) + str(block.counts) + str(block.warnings), tmp_path)
        if cut:
            with pytest.raises(DataError) as caught:
                problems.raise_any()
            silent(shown(caught.value), tmp_path)
    assert not leaks(tmp_path / "cache")


def test_nothing_is_left_open(site: Path) -> None:
    gc.collect()
    before = set(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else set()
    for _ in range(3):
        read(spec(), site / "pacs", ["CANARYID"], cache=site / "cache")
    after = set(os.listdir("/proc/self/fd")) if before else set()
    assert len(after) <= len(before)


def test_threads_that_read_at_once_stay_quiet(site: Path, caplog: pytest.LogCaptureFixture, capfd: Any) -> None:
    """Python's filters are the process's: one reader's end must not let another's warnings, which quote headers, out."""
    path = site / "pacs" / "CANARYFOLDER" / "CANARYFILE.dcm"
    first, second, left = Event(), Event(), Event()

    def short() -> None:
        with quiet():
            first.set()
            assert second.wait(10)
        left.set()

    def long() -> None:
        assert first.wait(10)
        with quiet():
            second.set()
            assert left.wait(10)
            assert str(pydicom.dcmread(path).StudyInstanceUID) == "CANARYUID"

    mode = pydicom.config.settings.reading_validation_mode
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        threads = [Thread(target=one) for one in (short, long)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
        assert not told
        assert pydicom.config.settings.reading_validation_mode == mode
        warnings.warn("heard again", stacklevel=1)
        assert [str(one.message) for one in told] == ["heard again"]
    for text in (caplog.text, *capfd.readouterr()):
        silent(text, site)


def test_a_filter_of_another_thread_lets_nothing_out(site: Path) -> None:
    """Whoever else changes Python's filters meanwhile: pydicom is told not to speak at all."""
    path = site / "pacs" / "CANARYFOLDER" / "CANARYFILE.dcm"
    with warnings.catch_warnings(record=True) as told, quiet():
        warnings.simplefilter("always")
        assert str(pydicom.dcmread(path).StudyInstanceUID) == "CANARYUID"
    assert not told
