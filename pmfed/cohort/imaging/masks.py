"""Masks beside images: which class every pixel is, from PNG or NIfTI files listed in the cohort table.

DICOM's own masks are read by `pmfed.cohort.imaging.segments`.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pmfed.cohort.imaging.failures import (
    COLOUR_MASK,
    DAMAGED,
    OTHER_GRID,
    OTHER_SIZE,
    OTHER_VALUES,
    ScanError,
    as_scan_error,
    report,
)
from pmfed.cohort.imaging.fit import oriented, sized
from pmfed.cohort.imaging.inside import read_bytes, resolve
from pmfed.cohort.imaging.libraries import require
from pmfed.cohort.imaging.nifti import decode_nifti, grid_of
from pmfed.cohort.tables import Problems
from pmfed.modality import Images, Nifti
from pmfed.sections.outcome import Outcome

Masks = NDArray[np.uint8]
Floats = NDArray[np.float32]


def read_masks(
    outcome: Outcome,
    spec: Images | Nifti,
    files: Sequence[str],
    scans: Sequence[str],
    folder: Path,
    images: Path,
    table: Path,
    problems: Problems,
) -> Masks:
    """Read the mask of every record.

    Parameters
    ----------
    outcome
        Its ``values`` say which number in a file stands for which class.
    spec
        The modality of the images: masks of pictures are PNG, masks of NIfTI scans NIfTI on the scan's own grid. A mask
        goes the scan's way (orientation, spacing, size), each pixel to the class that covers most of it.
    files, scans
        (R,), mask and image of each record; "" where it has no image.
    folder, images
        Where they lie. Nothing outside is opened.
    table, problems
        The table that lists the masks, for messages, and where these are gathered: counts, never a name.

    Returns
    -------
    (R, H, W) or (R, D, H, W) uint8
        Classes, by their place in ``outcome.classes``.
    """
    size = spec.size
    masks = np.zeros((len(files), *size), dtype=np.uint8)
    if isinstance(spec, Nifti):
        require("nibabel")
    if not folder.is_dir():
        problems.add(f"{folder}: there is no such folder.", "Check the path in [data] of site.toml.")
        return masks
    values = outcome.values or tuple(range(len(outcome.classes)))
    failed: Counter[str] = Counter()
    for record, (file, scan) in enumerate(zip(files, scans, strict=True)):
        try:
            content = read_bytes(resolve(folder, file))
            if isinstance(spec, Images):
                masks[record] = _sized(_classes(_picture(content), values), spec.size)
            else:
                beside = read_bytes(resolve(images, scan)) if scan else None
                masks[record] = _volume(content, beside, spec, values)
        except ScanError as error:
            failed[error.reason] += 1
    report(f"{table}: column '{outcome.column}': masks", failed, len(files), problems)
    return masks


def _picture(content: bytes) -> NDArray[np.int64]:
    """Return the numbers of a PNG file: grey values, or places in its palette."""
    with as_scan_error(DAMAGED), Image.open(io.BytesIO(content), formats=("PNG",)) as image:
        if image.mode not in ("1", "L", "P") and not image.mode.startswith("I"):
            raise ScanError(COLOUR_MASK)
        return np.asarray(image).astype(np.int64)


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
    return class_by_class(
        _classes(turned, values), len(values), lambda one: sized(one, flat, spec.size, spec.spacing, spec.fit)
    )


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


def _classes(found: NDArray[np.generic], values: Sequence[int]) -> Masks:
    """Return which class each number stands for."""
    equal = [found == value for value in values]
    if not np.logical_or.reduce(equal).all():
        raise ScanError(OTHER_VALUES)
    classes: Masks = np.select(equal, list(range(len(values)))).astype(np.uint8)
    return classes


def _sized(mask: Masks, size: tuple[int, int]) -> Masks:
    if mask.shape != size:
        raise ScanError(OTHER_SIZE)
    return mask
