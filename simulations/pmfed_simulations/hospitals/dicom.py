"""A hospital's pictures as a DICOM folder (PS3.10), each hospital in the way of its scanner."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pmfed_simulations.hospitals.habits import Scanner
from pmfed_simulations.hospitals.history import Hospital
from pmfed_simulations.hospitals.model import Bools, Floats
from pmfed_simulations.hospitals.picture import Scene, draw_pictures

SIDE = 64  # pixels
SCENE = Scene(SIDE, (25, 38), (0.88, 1.14), radius=12.0, growth=3.2, edge=1.0, smooth=4, texture=0.7)
BLACK, GREY_LEVELS = -200.0, 400.0  # a scene of 0..1 is written in units of -200..200
ROOT = "1.2.826.0.1.3680043.8.498."  # pydicom's, for files that nobody registers
CLASSES = {"CT": "1.2.840.10008.5.1.4.1.1.2", "CR": "1.2.840.10008.5.1.4.1.1.1"}
SYNTAXES = {"explicit": "1.2.840.10008.1.2.1", "implicit": "1.2.840.10008.1.2", "rle": "1.2.840.10008.1.2.5"}
BATCH = 64


def write_dicom(folder: Path, hospital: Hospital, tick: Callable[[int], None] = lambda done: None) -> None:
    """Write a file per picture, a folder per study.

    PatientID is the patient's id at the hospital. The same arguments and the same pydicom give the same bytes.

    Parameters
    ----------
    folder
        A new folder.
    hospital
        One that has a scanner.
    tick
        Called with the number of pictures written since the last call.
    """
    scanner, scans = hospital.habits.scanner, hospital.scans
    assert scanner is not None
    rng = hospital.rng(4)
    number = np.zeros(hospital.size, dtype=np.int64)
    for start in range(0, len(scans.owner), BATCH):
        rows = np.arange(start, min(start + BATCH, len(scans.owner)))
        values = render(scans.burden[rows], scans.lesion[rows], scanner, rng)
        for row, picture in zip(rows.tolist(), values, strict=True):
            owner = scans.owner[row]
            number[owner] += 1
            place = folder / f"ST{row + 1:06d}"
            place.mkdir(parents=True)
            dataset = _dataset(hospital, scanner, row, int(number[owner]), picture)
            dataset.save_as(place / "IM000001.dcm", enforce_file_format=True)
        tick(len(rows))


def render(burden: Floats, lesion: Bools, scanner: Scanner, rng: np.random.Generator) -> Floats:
    """Draw a picture per burden (n,) as the scanner sees it: (n, 64, 64), -200 is black and 200 white."""
    look = {"brightness": scanner.brightness, "contrast": scanner.contrast, "noise": scanner.noise}
    return BLACK + GREY_LEVELS * draw_pictures(burden, lesion, SCENE, **look, rng=rng)


def stored(picture: Floats, scanner: Scanner) -> NDArray[Any]:
    """Return the numbers a scanner stores for a scene."""
    shown = -picture if scanner.inverted else picture
    return np.rint((shown - scanner.intercept) / scanner.slope).astype(np.int16 if scanner.signed else np.uint16)


def _dataset(hospital: Hospital, scanner: Scanner, row: int, number: int, picture: Floats) -> Any:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import UID, RLELossless, generate_uid

    people, scans = hospital.people, hospital.scans
    owner = scans.owner[row]

    def uid(kind: str) -> UID:
        return generate_uid(ROOT, entropy_srcs=[f"{hospital.seed} {hospital.number} {row} {kind}"])

    taken = str(scans.when[row])
    day, time = taken[:10].replace("-", ""), taken[11:].replace(":", "")
    data = Dataset()
    data.SOPClassUID, data.SOPInstanceUID = UID(CLASSES[scanner.modality]), uid("instance")
    data.StudyInstanceUID, data.SeriesInstanceUID = uid("study"), uid("series")
    data.FrameOfReferenceUID = uid("frame")
    for of in ("Study", "Series", "Acquisition", "Content"):
        setattr(data, f"{of}Date", day)
        setattr(data, f"{of}Time", time)
    data.ImageType = ["DERIVED", "SECONDARY", "AXIAL"] if scanner.modality == "CT" else ["DERIVED", "SECONDARY"]
    data.Modality, data.Manufacturer = scanner.modality, "Nobody (virtual patients)"
    data.AccessionNumber, data.StudyID = f"A{hospital.number}{row + 1:07d}", str(number)
    data.SeriesNumber, data.InstanceNumber = 1, 1
    lesion = bool(scans.lesion[row])
    data.SeriesDescription = scanner.description if lesion else "Scout of the skull"
    data.BodyPartExamined = "HEART" if lesion else "SKULL"
    data.PatientID, data.PatientName = str(people["id"][owner]), f"Virtual^{people['id'][owner]}"
    data.PatientBirthDate = str(people["birth"][owner]).replace("-", "")
    data.PatientSex = "M" if people["male"][owner] else "F"
    data.BurnedInAnnotation = "NO"
    if scanner.modality == "CT":
        data.ImagePositionPatient, data.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
        data.SliceThickness = 1
        data.PixelSpacing = [1, 1]
    else:
        data.ImagerPixelSpacing = [1, 1]
    data.SamplesPerPixel, data.Rows, data.Columns = 1, SIDE, SIDE
    data.PhotometricInterpretation = "MONOCHROME1" if scanner.inverted else "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
    data.PixelRepresentation = int(scanner.signed)
    data.RescaleIntercept, data.RescaleSlope = scanner.intercept, scanner.slope
    data.RescaleType = "HU" if scanner.modality == "CT" else "US"
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = UID(SYNTAXES[scanner.syntax])
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = data.SOPClassUID, data.SOPInstanceUID
    meta.ImplementationClassUID = UID(ROOT + "1")
    data.file_meta = meta
    pixels = stored(picture, scanner)
    if scanner.syntax == "rle":
        data.compress(RLELossless, pixels, generate_instance_uid=False)
    else:
        data.PixelData = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
    return data
