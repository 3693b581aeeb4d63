"""Masks beside images: which class every pixel is, from picture or NIfTI files listed in the cohort table.

DICOM's own masks are read by `pmfed.cohort.imaging.segments`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pmfed.cohort.imaging.archive import reader_of
from pmfed.cohort.imaging.failures import (
    COLOUR_MASK,
    LOSSY,
    OTHER_GRID,
    OTHER_VALUES,
    TRANSPARENT,
    TWO_WAYS,
    ScanError,
    report,
)
from pmfed.cohort.imaging.fit import oriented, sized
from pmfed.cohort.imaging.inside import read_bytes, resolve
from pmfed.cohort.imaging.libraries import quiet, require
from pmfed.cohort.imaging.nifti import decode_nifti, grid_of
from pmfed.cohort.imaging.pictures import opened, shown_size, upright
from pmfed.cohort.reading import MaskReading
from pmfed.modality import Images, Nifti
from pmfed.modality.pictures import Pictures

Masks = NDArray[np.uint8]
Floats = NDArray[np.float32]
Spec = TypeVar("Spec", bound=Pictures)


def read_picture_masks(asked: MaskReading[Images]) -> Masks:
    """Read the masks of pictures: PNG, TIFF, BMP or GIF, of the picture's own size."""
    return _read(asked, asked.reading.spec.file, _picture)


def read_nifti_masks(asked: MaskReading[Nifti]) -> Masks:
    """Read the masks of NIfTI scans: NIfTI, on the scan's own grid."""
    require("nibabel")
    return _read(asked, asked.reading.spec.file, _volume)


def _read(
    asked: MaskReading[Spec], column: str, made: Callable[[bytes, bytes | None, Spec, Sequence[int]], Masks]
) -> Masks:
    """Read the mask of every record.

    A mask goes the scan's way (orientation, spacing, size), each pixel to the class that covers most of it.

    Parameters
    ----------
    asked
        The outcome's ``values`` say which number in a file stands for which class.
    column
        Of the cohort's table, where the picture of each record is listed.
    made
        From the content of a mask, and of the picture beside it if there is one, to classes.

    Returns
    -------
    (R, H, W) or (R, D, H, W) uint8
        Classes, by their place in ``outcome.classes``.
    """
    reading, outcome, folder = asked.reading, asked.outcome, asked.folder
    files, scans = asked.listed(outcome.column), asked.listed(column)
    masks = np.zeros((len(files), *reading.spec.shape[1:]), dtype=np.uint8)
    if not folder.is_dir():
        reading.problems.add(f"{folder}: there is no such folder.", "Check the path in [data] of site.toml.")
        return masks
    values = outcome.values or tuple(range(len(outcome.classes)))
    failed: Counter[str] = Counter()
    with ExitStack() as stack:
        stack.enter_context(quiet())
        try:
            beside = reader_of(reading.place(reading.spec.folder), stack)
        except ScanError:
            return masks  # it was said when the images were read
        for record, (file, scan) in enumerate(zip(files, scans, strict=True)):
            try:
                content = read_bytes(resolve(folder, file))
                masks[record] = made(content, beside(scan) if scan else None, reading.spec, values)
            except ScanError as error:
                failed[error.reason] += 1
    report(f"{asked.sheet.path}: column '{outcome.column}': masks", failed, len(files), reading.problems)
    return masks


def _picture(content: bytes, beside: bytes | None, spec: Images, values: Sequence[int]) -> Masks:
    """Return a picture's mask as the study's modality would have its picture."""
    mask = _drawn(content, values, beside)
    if mask.shape == spec.size:
        return mask
    return class_by_class(mask, len(values), lambda one: sized(one, None, spec.size, None, spec.fit))


def _drawn(content: bytes, values: Sequence[int], beside: bytes | None) -> Masks:
    """Return the class of every pixel of a picture file, upright as its picture is."""
    with opened(content) as image:
        if image.format in ("JPEG", "MPO", "WEBP"):
            raise ScanError(LOSSY)
        if beside is not None:
            with opened(beside) as scan:
                if shown_size(scan) != shown_size(image):
                    raise ScanError(OTHER_GRID)
        read = [classes for found in _readings(upright(image)) if (classes := _classes(found, values)) is not None]
    if not read:
        raise ScanError(OTHER_VALUES)
    if any(not np.array_equal(read[0], other) for other in read[1:]):
        raise ScanError(TWO_WAYS)
    return read[0]


def _readings(image: Image.Image) -> list[NDArray[np.int64]]:
    """Return the numbers a picture holds: grey values, or places in its palette, or the greys it has there."""
    if image.mode == "1":
        bits = np.asarray(image).astype(np.int64)
        return [bits, 255 * bits]
    if image.mode == "P":
        places = np.asarray(image).astype(np.int64)
        colours = np.asarray(image.convert("RGB")).astype(np.int64)
        return [places, colours[..., 0]] if _is_grey(colours) else [places]
    if image.mode == "L" or image.mode.startswith("I"):
        return [np.asarray(image).astype(np.int64)]
    if image.mode not in ("LA", "RGB", "RGBA"):
        raise ScanError(COLOUR_MASK)
    colours = np.asarray(image.convert("RGBA")).astype(np.int64)
    if (colours[..., 3] < 255).any():
        raise ScanError(TRANSPARENT)
    if not _is_grey(colours):
        raise ScanError(COLOUR_MASK)
    return [colours[..., 0]]


def _is_grey(colours: NDArray[np.int64]) -> bool:
    return bool((colours[..., :3] == colours[..., :1]).all())


def _volume(content: bytes, scan: bytes | None, spec: Nifti, values: Sequence[int]) -> Masks:
    """Return a NIfTI mask as the study's modality would have its scan."""
    found, affine = decode_nifti(content, None)
    if scan is not None:
        shape, place = grid_of(scan)
        if shape != found.shape or not np.allclose(place, affine, atol=1e-3):
            raise ScanError(OTHER_GRID)
    turned, spacing = oriented(found, affine, spec.orientation)
    if len(spec.size) == 2:
        turned = turned[len(turned) // 2]
    flat = spacing[3 - len(spec.size) :]
    classes = _classes(turned, values)
    if classes is None:
        raise ScanError(OTHER_VALUES)
    return class_by_class(classes, len(values), lambda one: sized(one, flat, spec.size, spec.spacing, spec.fit))


def class_by_class(classes: Masks, count: int, way: Callable[[Floats], Floats]) -> Masks:
    """Send each class its scan's way as a picture of its own, so that no pixel gets a class between two others.

    Parameters
    ----------
    classes
        Of every pixel, below ``count``.
    way
        From the share of a class in every old pixel to that in every new one.

    Returns
    -------
    uint8
        Of every new pixel the class with the largest share, the first of equals.
    """
    most = way((classes == 0).astype(np.float32)).copy()
    chosen: Masks = np.zeros(most.shape, dtype=np.uint8)
    for place in range(1, count):
        share = way((classes == place).astype(np.float32))
        more = share > most
        chosen[more], most[more] = place, share[more]
    return chosen


def _classes(found: NDArray[np.generic], values: Sequence[int]) -> Masks | None:
    """Return which class each number stands for; None where one stands for none."""
    equal = [found == value for value in values]
    if not np.logical_or.reduce(equal).all():
        return None
    classes: Masks = np.select(equal, list(range(len(values)))).astype(np.uint8)
    return classes
