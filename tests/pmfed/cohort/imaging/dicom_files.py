"""Writes DICOM files for the tests: real ones, by pydicom."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from readings import read_dicom

from pmfed.cohort.block import Block
from pmfed.cohort.imaging.places import Places
from pmfed.cohort.tables import Problems
from pmfed.modality.scans import Dicom, Series

CT = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"
CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)

OPENED: list[str] = []
"""Paths of all files that Python opens, from the moment a test clears it."""


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and isinstance(arguments[0], str):
        OPENED.append(arguments[0])


sys.addaudithook(_hook)

Where = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def uid(*parts: object) -> str:
    """Return a UID that is the same for the same parts."""
    return str(generate_uid(entropy_srcs=[str(part) for part in parts]))


def picture(
    pixels: NDArray[Any], patient: str = "p1", series: str = "s", instance: str = "i", **said: Any
) -> FileDataset:
    """Return a CT picture; ``said`` adds or replaces attributes, None removes them."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = said.get("SOPClassUID", CT)
    meta.MediaStorageSOPInstanceUID = uid(patient, series, instance)
    data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    colour = pixels.shape[-1] == 3 and pixels.ndim > 2
    frames = pixels.shape[0] if pixels.ndim - colour == 3 else 1
    rows, columns = pixels.shape[-3:-1] if colour else pixels.shape[-2:]
    usual: dict[str, Any] = {
        "SOPClassUID": CT,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "StudyInstanceUID": uid(patient, "study"),
        "SeriesInstanceUID": uid(patient, series),
        "PatientID": patient,
        "Modality": "CT",
        "SeriesDescription": "Thorax 2.0 B30f",
        "BodyPartExamined": "CHEST",
        "StudyDate": "20200102",
        "AcquisitionDate": "20200102",
        "AcquisitionTime": "101500",
        "Rows": rows,
        "Columns": columns,
        "SamplesPerPixel": 3 if colour else 1,
        "PhotometricInterpretation": "RGB" if colour else "MONOCHROME2",
        "BitsAllocated": 8 * pixels.dtype.itemsize,
        "BitsStored": 8 * pixels.dtype.itemsize,
        "HighBit": 8 * pixels.dtype.itemsize - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
        "InstanceNumber": 1,
        "PixelSpacing": [1.0, 1.0],
        "ImagePositionPatient": [0.0, 0.0, 0.0],
        "ImageOrientationPatient": list(AXIAL),
        "PixelData": pixels.tobytes() + b"\0" * (pixels.nbytes % 2),
    }
    if frames > 1:
        usual["NumberOfFrames"] = frames
    if colour:
        usual["PlanarConfiguration"] = 0
    for name, value in {**usual, **said}.items():
        if value is not None:
            setattr(data, name, value)
    return data


def save(data: FileDataset, path: Path) -> Path:
    """Write a data set as a DICOM Part 10 file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path


def sequence(**said: Any) -> list[Dataset]:
    """Return a sequence of one item."""
    item = Dataset()
    for name, value in said.items():
        setattr(item, name, value)
    return [item]


def planes(
    shape: tuple[int, int, int], spacing: Sequence[float], direction: Sequence[float], first: Sequence[float]
) -> list[dict[str, Any]]:
    """Return where every slice of a stack lies; ``spacing`` of slices, rows, columns."""
    row, column = np.array(direction[:3]), np.array(direction[3:])
    normal = np.cross(row, column)
    return [
        {
            "ImagePositionPatient": list(np.array(first) + normal * spacing[0] * place),
            "ImageOrientationPatient": list(direction),
            "PixelSpacing": [spacing[1], spacing[2]],
        }
        for place in range(shape[0])
    ]


def phantom(
    where: Where, shape: tuple[int, int, int], spacing: Sequence[float], plane: dict[str, Any]
) -> NDArray[np.int16]:
    """Return one slice of a body: ``where`` maps (..., 3) mm to the Left, Posterior, Superior to values."""
    row, column = np.array(plane["ImageOrientationPatient"][:3]), np.array(plane["ImageOrientationPatient"][3:])
    down, across = np.mgrid[: shape[1], : shape[2]]
    points = (
        np.array(plane["ImagePositionPatient"])
        + down[..., None] * column * spacing[1]
        + across[..., None] * row * spacing[2]
    )
    return np.rint(where(points)).astype(np.int16)


def spec(**said: Any) -> Dicom:
    """Return a modality of 8 x 8 pictures of CT series."""
    usual: dict[str, Any] = {
        "folder": "pacs", "size": (8, 8), "series": Series(modality=("CT",)), "window": (0.0, 2.0), "mean": 0.0,
        "scale": 1.0,
    }  # fmt: skip
    return Dicom.model_validate({**usual, **said})


def read(
    wanted: Dicom,
    source: Path,
    patients: Sequence[str] = ("p1",),
    when: Any = None,
    cache: Path | None = None,
    **said: Any,
) -> Block:
    """Read, and raise what is wrong."""
    problems = Problems("north")
    places = said.pop("places", None) or Places(cache=cache)
    block = read_dicom(wanted, source, patients, when, problems, places=places, **said)
    problems.raise_any()
    return block
