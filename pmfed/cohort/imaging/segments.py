"""Masks as DICOM Segmentation objects (PS3.3 section A.51), each laid on the very series its record is made of.

pydicom reads them, as it reads the scans, under the same bounds on size: what a file claims is checked before it is unpacked.
highdicom is stricter than many exports and has no such bounds; the tests write with it and compare with its reading.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pmfed.cohort.imaging.assemble import Need, in_space, needed, plane_of
from pmfed.cohort.imaging.choice import choose_all
from pmfed.cohort.imaging.failures import (
    DAMAGED,
    NO_SCAN,
    NO_SERIES,
    NOT_BINARY,
    NOT_SEGMENTATION,
    OTHER_GRID,
    OTHER_SEGMENT,
    OTHER_SERIES,
    OVERLAP,
    ScanError,
    as_scan_error,
    report,
)
from pmfed.cohort.imaging.fit import evened, oriented, sized
from pmfed.cohort.imaging.geometry import Plane, Stack, stack
from pmfed.cohort.imaging.index import Index, read_index
from pmfed.cohort.imaging.inside import read_bytes, resolve
from pmfed.cohort.imaging.libraries import quiet
from pmfed.cohort.imaging.masks import Floats, Masks, class_by_class
from pmfed.cohort.imaging.owners import Owners
from pmfed.cohort.imaging.pixels import Picture
from pmfed.cohort.imaging.series import FoundSeries, select
from pmfed.cohort.reading import MaskReading
from pmfed.modality.scans import Dicom
from pmfed.study.outcome import Masks as Drawn

SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
NEAR = 0.01  # mm (and cosines) by which the places of a slice and of its mask may differ: headers are rounded decimals


@dataclass(frozen=True, repr=False)
class _Scan:
    """The frames of a series, and which of them an input is made of.

    Attributes
    ----------
    series, instances, planes, places
        SeriesInstanceUID; per frame the SOPInstanceUID of its file, and where it lies: also as (frames, 11), see `_place`.
    shape
        Rows and columns.
    used
        Frames of the input, in its order.
    stack
        Where they lie, of a volume.
    """

    series: str
    instances: Sequence[str]
    planes: Sequence[Plane | None]
    places: NDArray[np.float64]
    shape: tuple[int, int]
    used: Sequence[int]
    stack: Stack | None


def read_segmentations(asked: MaskReading[Dicom]) -> Masks:
    """Read the mask of every record, on the series that its scan was made of.

    The outcome's ``classes`` are the labels of segments, or its ``values`` their numbers; what is in no segment is the first
    class. A mask goes the scan's way (orientation, spacing, size), each pixel to the class that covers most of it.

    Returns
    -------
    (R, H, W) or (R, D, H, W) uint8
        Classes, by their place in ``outcome.classes``.
    """
    reading, outcome, present, folder = asked.reading, asked.outcome, asked.present, asked.folder
    spec, problems, files = reading.spec, reading.problems, asked.listed(outcome.column)
    masks = np.zeros((len(files), *spec.size), dtype=np.uint8)
    if not folder.is_dir():
        problems.add(f"{folder}: there is no such folder.", "Check the path in [data] of site.toml.")
        return masks
    index, owners = read_index(reading.place(spec.folder), reading.places.cache), Owners.read(reading)
    if owners is None:
        return masks
    by_patient = select(spec, index.pictures, owners, set(reading.patients)).by_patient
    wanted = choose_all(by_patient, reading.patients, reading.when, spec.series.take, Counter())
    scans = {record: found for found, records in wanted.items() for record in records}
    failed: Counter[str] = Counter()
    with quiet():
        for record, file in enumerate(files):
            if not present[record] and spec.skip_unreadable:
                continue  # it was counted as unreadable; without a scan nothing is learned of where
            try:
                if not present[record]:
                    raise ScanError(NO_SCAN)
                content = read_bytes(resolve(folder, file))
                masks[record] = _mask(outcome, spec, content, _lies(spec, scans[record], index))
            except ScanError as error:
                failed[error.reason] += 1
    report(f"{asked.sheet.path}: column '{outcome.column}': masks", failed, len(files), problems)
    return masks


def _lies(spec: Dicom, found: FoundSeries, index: Index) -> _Scan:
    """Return where the frames of a series lie, and which of them `assemble` takes."""
    need = needed(spec, found)
    headers, placed = [header for _, header in found.files], need.stack
    if all(header.frames == 1 for header in headers):
        instances, planes = [header.instance for header in headers], [plane_of(header) for header in headers]
        paths = [path for path, _ in found.files]
        used = [paths.index(path) for path, _ in need.files]
    else:
        instances, planes = _frames(need, index)
        placed = stack(planes) if len(spec.size) == 3 else None
        order = in_space(planes, range(len(planes)))
        used = [order[len(order) // 2]] if placed is None else placed.order.tolist()
    places = np.array([_place(plane) for plane in planes])
    return _Scan(headers[0].series, instances, planes, places, (headers[0].rows, headers[0].columns), used, placed)


def _frames(need: Need, index: Index) -> tuple[list[str], list[Plane | None]]:
    """Return of files with many frames, for each frame, the file's instance and where it lies."""
    root, instances, planes = os.path.realpath(index.folder), list[str](), list[Plane | None]()
    for path, header in need.files:
        picture = Picture(read_bytes(os.path.join(root, path), index.entries[path].stamp))
        instances += [header.instance] * picture.frames
        planes += picture.planes()
    return instances, planes


def _mask(outcome: Drawn, spec: Dicom, content: bytes, scan: _Scan) -> Masks:
    """Return one object as the study's modality would have its scan."""
    drawn = _drawn(outcome, content, scan)
    count, spacing = len(outcome.classes), None
    if scan.stack is None:
        plane = scan.planes[scan.used[0]]
        spacing = plane.spacing if plane is not None else None
        return class_by_class(drawn[0], count, lambda one: sized(one, spacing, spec.size, spec.spacing, spec.fit))
    return class_by_class(drawn, count, partial(_turned, spec, scan.stack))


def _turned(spec: Dicom, placed: Stack, share: Floats) -> Floats:
    even = share if placed.even else evened(share, placed.places)
    turned, spacing = oriented(even, placed.affine, spec.orientation)
    return sized(turned, spacing, spec.size, spec.spacing, spec.fit)


def _drawn(outcome: Drawn, content: bytes, scan: _Scan) -> Masks:
    """Return the class of every pixel of the frames that are used, (N, H, W)."""
    picture = Picture(content)
    data = picture.dataset
    if str(data.get("SOPClassUID", "")) != SEGMENTATION:
        raise ScanError(NOT_SEGMENTATION)
    if data.get("SegmentationType") != "BINARY":
        raise ScanError(NOT_BINARY)
    with as_scan_error(DAMAGED):
        classes = _classes(outcome, data)
        told = [_told(picture, frame) for frame in range(picture.frames)]
        _belongs(data, told, scan)
        planes = picture.planes()
    if (picture.rows, picture.columns) != scan.shape:
        raise ScanError(OTHER_GRID)
    place = {frame: at for at, frame in enumerate(scan.used)}
    drawn = np.zeros((len(scan.used), *scan.shape), dtype=np.uint8)
    taken = np.zeros(drawn.shape, dtype=bool)
    for frame, ((segment, sources), plane) in enumerate(zip(told, planes, strict=True)):
        if segment not in classes:
            raise ScanError(OTHER_SEGMENT)
        at = place.get(_under(scan, plane, sources))
        if at is None:
            continue  # on a slice that the input is not made of
        inside = picture.decode(frame).values[0] > 0.5
        if (inside & taken[at] & (drawn[at] != classes[segment])).any():
            raise ScanError(OVERLAP)
        drawn[at][inside] = classes[segment]
        taken[at] |= inside
    return drawn


def _classes(outcome: Drawn, data: Any) -> Mapping[int, int]:
    """Return segment number -> class; segments without a class are left out."""
    if outcome.values:
        return {value: place for place, value in enumerate(outcome.values)}
    names = [name.strip().casefold() for name in outcome.classes]
    labels = {int(item.SegmentNumber): str(item.SegmentLabel).strip().casefold() for item in data.SegmentSequence}
    return {number: names.index(label) for number, label in labels.items() if label in names}


def _told(picture: Picture, frame: int) -> tuple[int, set[str]]:
    """Return the segment a frame is of, and the instances it was drawn on (none where it does not say)."""
    derived = picture.said(frame, "DerivationImageSequence", "SourceImageSequence") or ()
    sources = {str(item.ReferencedSOPInstanceUID) for item in derived}
    return int(picture.said(frame, "SegmentIdentificationSequence", "ReferencedSegmentNumber")), sources


def _belongs(data: Any, told: Sequence[tuple[int, set[str]]], scan: _Scan) -> None:
    """Refuse an object that was not drawn on this series: its place alone could be that of another patient's."""
    series = {str(item.get("SeriesInstanceUID", "")) for item in data.get("ReferencedSeriesSequence") or ()}
    if series and scan.series not in series:
        raise ScanError(OTHER_SERIES)
    if not series and not all(sources for _, sources in told):
        raise ScanError(NO_SERIES)


def _under(scan: _Scan, plane: Plane | None, sources: set[str]) -> int:
    """Return the frame of the series that a mask's frame lies on: by what it says it was drawn on, and by its place."""
    fits = np.ones(len(scan.instances), dtype=bool)
    if sources:
        fits = np.isin(scan.instances, list(sources))
        if not fits.any():
            raise ScanError(OTHER_SERIES)
    if plane is not None:
        apart = np.abs(scan.places - _place(plane))
        fits &= (np.isnan(apart) | (apart <= NEAR)).all(axis=1)
    if fits.sum() != 1 or (not sources and (plane is None or np.isnan(scan.places[fits]).any())):
        raise ScanError(OTHER_GRID)
    return int(fits.argmax())


def _place(plane: Plane | None) -> NDArray[np.float64]:
    """Return position, direction and spacing as one row; what is not known as NaN."""
    return np.full(11, np.nan) if plane is None else np.array([*plane.position, *plane.direction, *plane.spacing])
