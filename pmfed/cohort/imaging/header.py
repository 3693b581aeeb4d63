"""What a DICOM file says about itself (PS3.10, PS3.3), read without its pixels."""

from __future__ import annotations

import os
import re
import struct
import zlib
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, BinaryIO

from pmfed.cohort.imaging.failures import (
    CLOSED,
    CUT_OFF,
    DAMAGED,
    NAMED_ONLY,
    NO_PIXELS,
    TOO_LARGE,
    ScanError,
    as_scan_error,
)
from pmfed.cohort.imaging.inside import open_inside
from pmfed.cohort.imaging.measures import TAGS, numbers, quantity, spacing

if TYPE_CHECKING:
    from pydicom import Dataset

Position = tuple[float, float, float]

DICOMDIR = "1.2.840.10008.1.3.10"
DEFLATED = "1.2.840.10008.1.2.1.99"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
LATEST_CLOCKS = 14 * 3600  # seconds by which the easternmost clocks are ahead of UTC
MOST_INFLATED = 2**30  # bytes of a deflated file, unpacked

# Kinds of files in a folder that are not pictures, which is no fault.
OTHER_FILE, OTHER_DICOM, DIRECTORY = "not DICOM", "DICOM without pictures", "DICOMDIR"

_TAGS = (
    "SOPClassUID", "SOPInstanceUID", "ImageType", "StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate",
    "AcquisitionDateTime", "StudyTime", "SeriesTime", "AcquisitionTime", "ContentTime", "AccessionNumber",
    "Modality", "SeriesDescription", "PatientID", "BodyPartExamined", "StudyInstanceUID", "SeriesInstanceUID",
    "InstanceNumber", "ImagePositionPatient", "ImageOrientationPatient", "SamplesPerPixel", "NumberOfFrames",
    "Rows", "Columns", "BurnedInAnnotation", "IssuerOfPatientID", "IssuerOfPatientIDQualifiersSequence",
    "TimezoneOffsetFromUTC", *TAGS,
)  # fmt: skip
MAKER, TILES = 0x00190010, 0x0019100A
_READ: Any = [*_TAGS, MAKER, TILES]
_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")


@dataclass(frozen=True, slots=True, repr=False)
class Header:
    """One picture file. It names a patient, so it has no repr and stays with the readers.

    ``taken`` is in seconds since 1970 in the hospital's own time; a day without a time counts as its last second, so
    that a scan is never taken for earlier than it was. ``number`` is InstanceNumber. ``position``, ``direction`` and
    ``spacing`` (between rows, between columns) are in mm; None where the headers have none for the whole file. ``issuer``
    is who gave the patient's id, ``quantity`` the unit of grey values (`pmfed.cohort.imaging.measures.quantity`),
    ``mosaic`` whether many slices lie side by side in one picture.
    """

    patient: str
    issuer: str
    accession: str
    study: str
    series: str
    instance: str
    modality: str
    body_part: str
    description: str
    taken: int | None
    number: int
    rows: int
    columns: int
    frames: int
    samples: int
    captured: bool
    burned_in: str
    localizer: bool
    mosaic: bool
    quantity: str
    position: Position | None
    direction: tuple[float, ...] | None
    spacing: tuple[float, float] | None

    @property
    def may_show_text(self) -> bool:
        """Whether text may be burned in: the header says so, or it is a secondary capture that does not deny it."""
        return self.burned_in == "YES" or (self.captured and self.burned_in != "NO")


def read_header(path: str) -> Header | str:
    """Read the header of one file.

    Parameters
    ----------
    path
        A real path inside the site's folder.

    Returns
    -------
    Header or str
        The header of a picture, or which other kind of file it is.

    Raises
    ------
    ScanError
        It should be a picture and cannot be read.
    """
    import pydicom

    try:
        number = open_inside(path)
    except OSError:
        raise ScanError(CLOSED) from None
    with os.fdopen(number, "rb") as file:
        start = file.read(132)
        if start[128:] != b"DICM":
            if path.lower().endswith((".dcm", ".dicom")):
                raise ScanError(NAMED_ONLY)
            return OTHER_FILE
        with as_scan_error(DAMAGED):
            # Group 2 says how the rest is written, and is itself always written in one way (PS3.10 section 7.1).
            meta = pydicom.filereader.read_dataset(file, False, True, stop_when=lambda tag, *_: tag >> 16 != 2)
            syntax = str(meta.get("TransferSyntaxUID", ""))
            if meta.get("MediaStorageSOPClassUID") == DICOMDIR:
                return DIRECTORY
            if syntax == DEFLATED:
                _check_deflated(file)
            file.seek(0)
            dataset = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=_READ)
            named = dataset.get("SOPClassUID") or meta.get("MediaStorageSOPClassUID")
            has_pixels = syntax == DEFLATED or _has_pixels(file, dataset)
            if not has_pixels:
                picture = "Image Storage" in getattr(named, "name", "") or "Rows" in dataset
                if picture:
                    raise ScanError(NO_PIXELS)
                return OTHER_DICOM
            if "NumberOfFrames" in dataset and numbers(dataset.NumberOfFrames, 1, (1.0,))[0] <= 1:
                file.seek(0)  # one frame of an enhanced object: what is said of it stands in functional groups
                _level(dataset, pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(_GROUPS)))
            return _header(dataset)


def _check_deflated(file: BinaryIO) -> None:
    """Refuse a deflated file that unpacks to more than is read; pydicom unpacks it whole, whatever its size."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    total = 0
    while not inflater.eof and (block := inflater.unconsumed_tail or file.read(2**16)):
        total += len(inflater.decompress(block, 2**20))
        if total > MOST_INFLATED:
            raise ScanError(TOO_LARGE)
    if not inflater.eof:
        raise ScanError(CUT_OFF)


def _has_pixels(file: BinaryIO, dataset: Dataset) -> bool:
    """Tell whether pixels follow the header that was just read; raise when the file ends before they do."""
    here = file.tell()
    start = file.read(12)
    order = "<" if dataset.original_encoding[1] else ">"
    if len(start) < 8:
        return False
    group, element = struct.unpack(f"{order}HH", start[:4])
    if group != 0x7FE0 or element not in (0x0008, 0x0009, 0x0010):
        return False
    if start[4:6] not in (b"OB", b"OW", b"OF", b"OD", b"UN"):  # implicit, whatever the transfer syntax promised
        head, length = 8, struct.unpack(f"{order}I", start[4:8])[0]
    elif len(start) == 12:
        head, length = 12, struct.unpack(f"{order}I", start[8:])[0]
    else:
        raise ScanError(CUT_OFF)
    if length != 0xFFFFFFFF and here + head + length > os.fstat(file.fileno()).st_size:
        raise ScanError(CUT_OFF)
    return bool(length > 0)


def _level(dataset: Dataset, groups: Dataset) -> None:
    """Put what the functional groups say of the only frame where files of one frame have it (PS3.3 C.7.6.16)."""
    for group in _GROUPS:  # the frame's own last, as it counts more
        for item in (groups.get(group) or ())[:1]:
            for macro in (element.value for element in item if element.VR == "SQ" and element.value):
                for element in macro[0]:
                    if element.keyword in _TAGS and element.value is not None:
                        dataset[element.tag] = element


def _issuer(dataset: Dataset) -> str:
    """Return who gave the patient's id: their name, else their universal id."""
    named = _text(dataset, "IssuerOfPatientID")
    more: Any = dataset.get("IssuerOfPatientIDQualifiersSequence") or ()
    return named or (_text(more[0], "UniversalEntityID") if len(more) else "")


def _tiles(dataset: Dataset) -> int:
    """Return how many slices Siemens' private NumberOfImagesInMosaic says lie in the picture."""
    if TILES not in dataset or "SIEMENS" not in str(dataset.get(MAKER, "")):
        return 1
    value = dataset[TILES].value
    plain = int.from_bytes(value[:2], "little") if isinstance(value, bytes) else value  # of an implicit file
    return int(numbers(plain, 1, (1.0,))[0])


def _header(dataset: Dataset) -> Header:
    named = str(dataset.get("SOPClassUID", ""))
    kind = _text(dataset, "ImageType").upper().split("\\")
    return Header(
        patient=_text(dataset, "PatientID"),
        issuer=_issuer(dataset),
        accession=_text(dataset, "AccessionNumber"),
        study=_text(dataset, "StudyInstanceUID"),
        series=_text(dataset, "SeriesInstanceUID"),
        instance=_text(dataset, "SOPInstanceUID"),
        modality=_text(dataset, "Modality"),
        body_part=_text(dataset, "BodyPartExamined"),
        description=_text(dataset, "SeriesDescription"),
        taken=_taken(dataset),
        number=int(numbers(dataset.get("InstanceNumber"), 1, (0.0,))[0]),
        rows=int(dataset.get("Rows") or 0),
        columns=int(dataset.get("Columns") or 0),
        frames=int(numbers(dataset.get("NumberOfFrames"), 1, (1.0,))[0]) or 1,
        samples=int(dataset.get("SamplesPerPixel") or 1),
        captured=named == SECONDARY_CAPTURE or named.startswith(f"{SECONDARY_CAPTURE}."),
        burned_in=_text(dataset, "BurnedInAnnotation").upper(),
        localizer="LOCALIZER" in kind,
        mosaic="MOSAIC" in kind or "VFRAME" in kind or _tiles(dataset) > 1,  # Siemens; United Imaging
        quantity=quantity(dataset),
        position=_three(dataset.get("ImagePositionPatient")),
        direction=numbers(dataset.get("ImageOrientationPatient"), 6),
        spacing=spacing(dataset),
    )


def _text(dataset: Dataset, name: str) -> str:
    value = dataset.get(name)
    if value is None:
        return ""
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        return str(value).strip(" \0")
    return "\\".join(str(part).strip(" \0") for part in value)


def _three(value: Any) -> Position | None:
    found: Position | None = numbers(value, 3)
    return found


def _taken(dataset: Dataset) -> int | None:
    """Return when the picture was made: the latest that is said, as it may be derived from an earlier one."""
    said = [(_text(dataset, f"{of}Date"), _text(dataset, f"{of}Time")) for of in ("Acquisition", "Series", "Content")]
    moments = [found for day, time in said if (found := moment(day, time)) is not None]
    instant = re.fullmatch(r"([^+-]*)([+-]\d{4})?", _text(dataset, "AcquisitionDateTime"))
    when, own = (moment(instant[1], ""), instant[2]) if instant else (None, None)
    if when is not None and own is not None:
        offset = _text(dataset, "TimezoneOffsetFromUTC")
        # In the hospital's time where that is known; else, if nothing else tells the time, as late as it can be there.
        if re.fullmatch(r"[+-]\d{4}", offset):
            when += _seconds(offset) - _seconds(own)
        else:
            when = None if moments else when - _seconds(own) + LATEST_CLOCKS
    moments += [when] if when is not None else []
    return max(moments) if moments else moment(_text(dataset, "StudyDate"), _text(dataset, "StudyTime"))


def _seconds(offset: str) -> int:
    return int(offset[0] + "1") * (3600 * int(offset[1:3]) + 60 * int(offset[3:]))


def moment(day: str, time: str) -> int | None:
    """Return a DICOM date (and time; PS3.5 section 6.2) in seconds since 1970, None when it is none."""
    written = re.fullmatch(r"(\d{4})[.]?(\d\d)[.]?(\d\d)(\d{0,6})[^\\]*", day)
    if written is None:
        return None
    clock = written[4] or "".join(re.findall(r"\d", time.split(".")[0]))[:6]
    if not clock.strip("0"):
        clock = ""  # midnight to the second is what software writes when it knows the day only
    clock += "235959"[len(clock) :]  # what is not said counts as late as it can be
    try:
        seen = datetime.strptime("".join(written.group(1, 2, 3)) + clock, "%Y%m%d%H%M%S")
    except ValueError:
        return None
    return int((seen - datetime(1970, 1, 1)).total_seconds())
