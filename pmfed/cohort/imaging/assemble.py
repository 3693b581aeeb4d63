"""One series into one input: which of its files are needed, and what is made of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pmfed.cohort.imaging.failures import (
    COLOUR_SPACE,
    HALF_RESCALED,
    MOSAIC,
    OTHER_UNIT,
    SIZES,
    TOO_LARGE,
    ScanError,
)
from pmfed.cohort.imaging.fit import coloured, evened, finished, oriented, windowed
from pmfed.cohort.imaging.geometry import Plane, Stack, stack
from pmfed.cohort.imaging.header import Header
from pmfed.cohort.imaging.measures import UPTAKE, fits_window, uptake
from pmfed.cohort.imaging.pixels import MOST_VALUES, Picture, Pixels
from pmfed.cohort.imaging.series import FoundSeries
from pmfed.modality.scans import Dicom

Floats = NDArray[np.float32]

# What is counted of a scan and kept with it in the cache.
TILTED, MISSING = "tilted", "missing slices"


@dataclass(frozen=True, repr=False)
class Need:
    """The files of a series that an input is made of, in the order they are used.

    ``stack`` says where they lie, when every file is one slice of a volume; files of many frames say it themselves.
    ``by_number`` is true where one of several pictures was picked by its number, because they have no position.
    """

    files: tuple[tuple[str, Header], ...]
    stack: Stack | None = None
    by_number: bool = False


def needed(spec: Dicom, found: FoundSeries) -> Need:
    """Return what has to be read of a series.

    Raises
    ------
    ScanError
        The series cannot make what the study wants.
    """
    headers = [header for _, header in found.files]
    if sum(header.rows * header.columns * header.frames * header.samples for header in headers) > MOST_VALUES:
        raise ScanError(TOO_LARGE)
    if any(header.mosaic for header in headers):
        raise ScanError(MOSAIC)
    if len({header.quantity for header in headers if header.frames == 1 and header.samples == 1}) > 1:
        raise ScanError(HALF_RESCALED)
    if any(header.frames > 1 for header in headers):
        return Need(found.files)
    planes = [plane_of(header) for header in headers]
    if len(spec.size) == 3:
        placed = stack(planes)
        return Need(tuple(found.files[place] for place in placed.order), placed)
    if spec.view == "brightest":
        return Need(found.files)
    order = in_space(planes, [header.number for header in headers])
    return Need((found.files[order[len(order) // 2]],), by_number=len(planes) > 1 and None in planes)


def assemble(spec: Dicom, need: Need, contents: Iterable[bytes]) -> tuple[Floats, dict[str, int]]:
    """Make the input of one record.

    Parameters
    ----------
    spec
        The study's modality.
    need
        What `needed` returned.
    contents
        The files of ``need``, one after the other; each is let go before the next is taken.

    Returns
    -------
    values : float32 of `Dicom.shape`
        ``(x - mean) / scale`` of x from 0 (black) to 1.
    counts : dict
        Slices that are missing, a tilted gantry.
    """
    spacing: Sequence[float] | None
    if len(spec.size) == 3:
        values, spacing, counts = _volume(spec, need, contents)
    elif spec.view == "brightest":
        values, spacing, counts = _brightest(spec, contents)
    else:
        values, spacing, counts = _middle(spec, contents)
    return finished(values, spacing, spec), counts


def _middle(spec: Dicom, contents: Iterable[bytes]) -> tuple[Floats, Sequence[float] | None, dict[str, int]]:
    pictures = [Picture(content) for content in contents]
    frames = [(picture, frame) for picture in pictures for frame in range(picture.frames)]
    planes = [plane for picture in pictures for plane in picture.planes()] if len(frames) > 1 else [None]
    order = in_space(planes, range(len(frames)))
    picture, frame = frames[order[len(order) // 2]]
    values = _windowed(spec, _measured(spec, picture, picture.decode(frame)))[0]
    return values, picture.spacing(frame), {}


def _measured(spec: Dicom, picture: Picture, pixels: Pixels) -> Pixels:
    """Return grey values in the unit of the study's window.

    Raises
    ------
    ScanError
        They are in another.
    """
    if pixels.coloured:
        return pixels
    modality, numeric = str(picture.dataset.get("Modality") or ""), not isinstance(spec.window, str)
    if not fits_window(pixels.quantity, modality, spec.unit, numeric):
        raise ScanError(OTHER_UNIT)
    if spec.unit != UPTAKE:
        return pixels
    factor = uptake(picture.dataset)
    pixels.values[...] *= np.float32(factor)
    return replace(pixels, low=pixels.low * factor, high=pixels.high * factor, quantity=UPTAKE)


def _brightest(spec: Dicom, contents: Iterable[bytes]) -> tuple[Floats, Sequence[float] | None, dict[str, int]]:
    """Project all frames: the greatest value of each pixel, the least where the greatest is black."""
    best: Pixels | None = None
    spacing = None
    for pixels, picture in _decoded(spec, contents):
        pick = np.fmin if pixels.inverted else np.fmax  # both pass over what is not a number
        values = pick.reduce(pixels.values, axis=0, keepdims=True)
        if best is None:
            best, spacing = replace(pixels, values=values), picture.spacing()
            continue
        if values.shape != best.values.shape:
            raise ScanError(SIZES)
        if pixels.inverted != best.inverted:
            raise ScanError(COLOUR_SPACE)
        if pixels.quantity != best.quantity:
            raise ScanError(HALF_RESCALED)
        low, high = min(best.low, pixels.low), max(best.high, pixels.high)
        best = replace(best, values=pick(best.values, values), low=low, high=high)
    assert best is not None, "a series has files"
    return _windowed(spec, best)[0], spacing, {}


def _volume(spec: Dicom, need: Need, contents: Iterable[bytes]) -> tuple[Floats, Sequence[float], dict[str, int]]:
    decoded = _decoded(spec, contents)
    placed = need.stack
    if placed is None:
        parts, planes = [], list[Plane | None]()
        for pixels, picture in decoded:
            parts.append(pixels)
            planes += picture.planes()
        placed = stack(planes)
        whole = _joined(parts, len(planes))
        whole = replace(whole, values=whole.values[placed.order])
    else:
        whole = _joined((pixels for pixels, _ in decoded), len(placed.order))
    values = _windowed(spec, whole)
    if not placed.even:
        values = evened(values, placed.places)
    turned, spacing = oriented(values, placed.affine, spec.orientation)
    return turned, spacing, {TILTED: int(placed.tilted), MISSING: placed.missing}


def _decoded(spec: Dicom, contents: Iterable[bytes]) -> Iterator[tuple[Pixels, Picture]]:
    for content in contents:
        picture = Picture(content)
        yield _measured(spec, picture, picture.decode()), picture


def _joined(parts: Iterable[Pixels], frames: int) -> Pixels:
    """Put the frames of several files into one array, each as it comes, so that memory holds them once."""
    whole: Floats | None = None
    low, high, at, inverted, quantity = np.inf, -np.inf, 0, None, ""
    for part in parts:
        if whole is None:
            whole = np.empty((frames, *part.values.shape[1:]), dtype=np.float32)
            inverted, quantity = part.inverted, part.quantity
        if part.values.shape[1:] != whole.shape[1:]:
            raise ScanError(SIZES)
        if part.inverted != inverted:
            raise ScanError(COLOUR_SPACE)
        if part.quantity != quantity:
            raise ScanError(HALF_RESCALED)
        whole[at : at + len(part.values)] = part.values
        at += len(part.values)
        low, high = min(low, part.low), max(high, part.high)
    assert whole is not None
    assert at == frames
    return Pixels(whole, low, high, bool(inverted), quantity)


def _windowed(spec: Dicom, pixels: Pixels) -> Floats:
    if pixels.coloured:
        return coloured(pixels.values, spec.channels, spec.window)
    return windowed(pixels.values, spec.window, (pixels.low, pixels.high), pixels.inverted)


def in_space(planes: Sequence[Plane | None], otherwise: Iterable[int]) -> list[int]:
    """Return the order of pictures in space, or by number where one of them has no place."""
    numbers = list(otherwise)
    if len(planes) == 1:
        return [0]
    if any(plane is None for plane in planes):
        return sorted(range(len(planes)), key=lambda place: numbers[place])
    first = planes[0]
    assert first is not None
    normal = np.cross(first.direction[:3], first.direction[3:])
    along = [float(np.dot(plane.position, normal)) for plane in planes if plane is not None]
    return sorted(range(len(planes)), key=lambda place: (round(along[place], 3), numbers[place]))


def plane_of(header: Header) -> Plane | None:
    """Return where a file of one frame lies; None where its header does not say."""
    if header.position is None or header.direction is None or header.spacing is None:
        return None
    return Plane(header.position, header.direction, header.spacing)
