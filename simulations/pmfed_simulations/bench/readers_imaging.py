"""How fast scans are read: beside the bare library loops, and on a second start from the cache."""

from __future__ import annotations

import importlib.util
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from pmfed.cohort.imaging.dicom import read_dicom
from pmfed.cohort.imaging.index import read_index
from pmfed.cohort.imaging.inside import FRESH
from pmfed.cohort.imaging.places import Places
from pmfed.cohort.reading import Reading
from pmfed.cohort.tables import Problems
from pmfed.modality.scans import Dicom, Series
from pmfed_simulations.bench import BenchRow, compare, timed

PICTURES = 400
PACKED = 100
SIDE = 512
CENTRE, WIDTH = 40.0, 400.0

SPEC = Dicom(folder="pacs", size=(64, 64), fit="stretch", series=Series(modality=("CT",)), window=(CENTRE, WIDTH))


def rows() -> list[BenchRow]:
    """Measure and return the rows; what cannot run is a row with the reason."""
    if importlib.util.find_spec("pydicom") is None:
        return [BenchRow("DICOM folders", 0.0, 0.0, 0.0, None, note="skipped: pip install 'pmfed[imaging]'")]
    with tempfile.TemporaryDirectory() as place:
        plain, packed = Path(place) / "plain", Path(place) / "packed"
        _write(plain, PICTURES, packed=False)
        _write(packed, PACKED, packed=True)
        time.sleep(FRESH / 1e9 + 0.1)  # files that were just written are not trusted to stay as they are
        kept = Path(place) / "kept"
        _read(plain, PICTURES, kept)
        what = f"{SIDE} x {SIDE} to 64 x 64"
        return [
            compare(
                f"{PICTURES} DICOM headers: index / bare pydicom loop",
                timed(lambda: read_index(plain)),
                timed(lambda: _bare_headers(plain)),
                None,
                work=(PICTURES, "headers"),
            ),
            compare(
                f"{PICTURES} CT slices, {what}: whole reader / bare pydicom loop",
                timed(lambda: _read(plain, PICTURES, None)),
                timed(lambda: _bare(plain)),
                None,
                work=(PICTURES, "images"),
            ),
            compare(
                f"{PACKED} CT slices in JPEG 2000, {what}: whole reader / bare pydicom loop",
                timed(lambda: _read(packed, PACKED, None)),
                timed(lambda: _bare(packed)),
                None,
                work=(PACKED, "images"),
            ),
            compare(
                f"{PICTURES} CT slices, {what}: second start from the cache / first start",
                timed(lambda: _read(plain, PICTURES, kept)),
                timed(lambda: _first(plain)),
                0.1,
                work=(PICTURES, "images"),
            ),
        ]


def _write(folder: Path, number: int, packed: bool) -> None:
    """Write a slice per patient with a CT's headers; the pixels are a smooth body with noise."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, JPEG2000Lossless, generate_uid

    folder.mkdir()
    rng = np.random.default_rng(0)
    down, across = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    body = 1000 * (down**2 + across**2 < 0.7) + 24
    for patient in range(number):
        pixels = (body + rng.normal(0, 20, body.shape)).astype(np.int16)
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        for name, value in {
            "SOPClassUID": meta.MediaStorageSOPClassUID, "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
            "StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid(), "PatientID": f"p{patient}",
            "Modality": "CT", "StudyDate": "20200101", "Rows": SIDE, "Columns": SIDE, "SamplesPerPixel": 1,
            "PhotometricInterpretation": "MONOCHROME2", "BitsAllocated": 16, "BitsStored": 16, "HighBit": 15,
            "PixelRepresentation": 1, "RescaleSlope": 1, "RescaleIntercept": -1024, "PixelSpacing": [0.7, 0.7],
            "ImagePositionPatient": [0, 0, 0], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
            "PixelData": pixels.tobytes(),
        }.items():  # fmt: skip
            setattr(data, name, value)
        if packed:
            data.compress(JPEG2000Lossless, generate_instance_uid=False)
        data.save_as(folder / f"{patient:05}", enforce_file_format=True)


def _read(folder: Path, number: int, cache: Path | None) -> None:
    problems = Problems("bench")
    patients = [f"p{one}" for one in range(number)]
    sources: dict[str, Path | str] = {SPEC.folder: folder}
    reading = Reading(
        spec=SPEC, sources=sources, patients=patients, when=None, problems=problems, places=Places(cache)
    )  # fmt: skip
    block = read_dicom(reading)
    problems.raise_any()
    assert block.present.all()


def _first(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as cache:
        _read(folder, PICTURES, Path(cache))


def _bare(folder: Path) -> None:
    """The same inputs by a script: no index, no choice, no checks, no cache."""
    import pydicom

    found = []
    for path in sorted(folder.iterdir()):
        data = pydicom.dcmread(path)
        values = data.pixel_array.astype(np.float32) * float(data.RescaleSlope) + float(data.RescaleIntercept)
        shown = torch.from_numpy(np.clip((values - CENTRE) / WIDTH + 0.5, 0, 1))
        small = torch.nn.functional.interpolate(shown[None, None], (64, 64), mode="bilinear", antialias=True)
        found.append((small - 0.5) / 0.25)
    torch.cat(found)


def _bare_headers(folder: Path) -> None:
    import pydicom

    for path in sorted(folder.iterdir()):
        pydicom.dcmread(path, stop_before_pixels=True)
