"""From values in their own units to an input: window, orientation, spacing, size."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from pmfed.cohort.imaging.failures import COLOUR, COLOUR_SPACE, EMPTY, NO_SPACING, OTHER_SIZE, ScanError
from pmfed.cohort.imaging.libraries import require
from pmfed.modality.scans import Scan

Floats = NDArray[np.float32]

LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601, as Pillow has it
SAMPLE = 2**20  # values looked at for percentiles


def windowed(
    values: Floats,
    window: tuple[float, float] | str,
    stored: tuple[float, float] = (np.nan, np.nan),
    inverted: bool = False,
) -> Floats:
    """Map grey values to 0..1, in place: 0 is black.

    Parameters
    ----------
    values : float32, any shape
        NaN where nothing was recorded; that becomes 0.
    window
        (centre, width), "bits" or "own": see `pmfed.modality.Dicom`.
    stored
        For "bits": the least and greatest value the stored bits can hold.
    inverted
        The greatest value is black.

    Raises
    ------
    ScanError
        No value is a number, or the stored bits say nothing.
    """
    nothing = ~np.isfinite(values)
    if nothing.all():
        raise ScanError(EMPTY)
    if window == "own":
        known = values.ravel()[:: max(1, values.size // SAMPLE)]
        known = known[np.isfinite(known)]
        low, high = np.percentile(known, (1, 99)) if len(known) else (0.0, 0.0)
    elif window == "bits":
        low, high = stored
        if not high > low:
            raise ScanError(COLOUR_SPACE)
    else:
        assert not isinstance(window, str)
        low, high = window[0] - window[1] / 2, window[0] + window[1] / 2
    values -= np.float32(low)
    values /= np.float32(max(high - low, np.finfo(np.float32).tiny))
    np.clip(values, 0, 1, out=values)
    if inverted:
        np.subtract(1, values, out=values)
    values[nothing] = 0
    return values


def coloured(values: Floats, channels: int, window: object) -> Floats:
    """Return colours (..., 3) as grey values (...) where the study has one channel."""
    if window != "bits":
        raise ScanError(COLOUR)
    return values if channels == 3 else values @ LUMINANCE


def evened(values: Floats, places: NDArray[np.float64]) -> Floats:
    """Put slices that lie at uneven places on even ones, by linear interpolation between neighbours.

    Parameters
    ----------
    values : (N, ...) float32
    places : (N,) float64
        Where each lies, in steps, ascending from 0.

    Returns
    -------
    (M, ...) float32
        At the places 0, 1, 2, ... up to the last.
    """
    wanted = np.arange(int(np.floor(places[-1] + 1e-6)) + 1)
    left = np.clip(np.searchsorted(places, wanted, side="right") - 1, 0, len(places) - 2)
    share = np.clip((wanted - places[left]) / (places[left + 1] - places[left]), 0, 1).astype(np.float32)
    even = np.empty((len(wanted), *values.shape[1:]), dtype=np.float32)
    for place, (one, part) in enumerate(zip(left, share, strict=True)):
        even[place] = (1 - part) * values[one] + part * values[one + 1]
    return even


def oriented(values: Floats, affine: NDArray[np.float64], letters: str) -> tuple[Floats, tuple[float, float, float]]:
    """Turn and flip a volume's axes, without interpolation, so that they increase towards the letters.

    Parameters
    ----------
    values : (N, H, W) or (N, H, W, C) float32
    affine : (4, 4)
        From indices to mm to the Right, Anterior, Superior.
    letters
        Three out of RLAPSI, one per axis: "SPL" is slices from the feet up, each as a radiologist looks at it.

    Returns
    -------
    values : float32
        A view.
    spacing : three floats
        Distance between voxels along each axis, in mm.
    """
    turns = require("nibabel.orientations")
    change = turns.ornt_transform(turns.io_orientation(affine), turns.axcodes2ornt(tuple(letters)))
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    turned: Floats = turns.apply_orientation(values, change)
    placed = np.empty(3)
    placed[change[:, 0].astype(int)] = spacing
    return turned, (float(placed[0]), float(placed[1]), float(placed[2]))


def finished(values: Floats, spacing: Sequence[float] | None, spec: Scan) -> Floats:
    """Return a picture or volume of 0..1 as the study wants it: its size, channels first, on its scale.

    Parameters
    ----------
    values : (H, W), (D, H, W), or either with colours last; float32
    spacing
        In mm; None where unknown.
    spec
        The study's modality.
    """
    fitted = sized(values, spacing, spec.size, spec.spacing, spec.fit)
    colours = fitted.ndim > len(spec.size)
    first = np.moveaxis(fitted, -1, 0) if colours else np.broadcast_to(fitted, spec.picture)
    mean, scale = spec.scaling
    return np.ascontiguousarray((first - np.float32(mean)) / np.float32(scale), dtype=np.float32)


def sized(
    values: Floats,
    spacing: Sequence[float] | None,
    size: Sequence[int],
    wanted: Sequence[float] | None,
    fit: str,
) -> Floats:
    """Bring a picture or volume to the study's size.

    Parameters
    ----------
    values : (H, W), (D, H, W), or either with colours last; float32
    spacing
        In mm; None where unknown.
    size
        Of the result.
    wanted
        Spacing of the result; what lies outside is cut off, what is missing is 0, the middle stays in the middle.
        None: the size must be right already, or ``fit`` says what becomes of it.
    fit
        "exact"; "stretch", each side by itself; or with its proportions "crop", until it covers the result, whose edges cut
        it off, or "pad", until it lies within, and black (0) around it.

    Raises
    ------
    ScanError
        The size is another and nothing says what to do; or the spacing is not known.
    """
    held = values.shape[: len(size)]
    if wanted is not None:
        if spacing is None:
            raise ScanError(NO_SPACING)
        return _sampled(values, size, [new / old for new, old in zip(wanted, spacing, strict=True)])
    if tuple(held) == tuple(size):
        return values
    if fit == "exact":
        raise ScanError(OTHER_SIZE)
    if fit == "stretch":
        return _sampled(values, size, [have / want for have, want in zip(held, size, strict=True)])
    each = spacing or [1.0] * len(size)  # a picture whose pixels are of no known shape has square ones
    ratios = [have * old / want for have, old, want in zip(held, each, size, strict=True)]
    new = min(ratios) if fit == "crop" else max(ratios)
    return _sampled(values, size, [new / old for old in each])


def _sampled(values: Floats, size: Sequence[int], step: Sequence[float]) -> Floats:
    """Sample a grid of ``size`` points, ``step`` old pixels apart, in the middle of the old grid.

    Linear between pixels; where the new grid is coarser, each point is the average of the old pixels around it under a
    tent of one step on either side, as Pillow and torch have it, so that fine detail does not turn into a pattern.
    """
    for axis in sorted(range(len(size)), key=lambda one: size[one] / values.shape[one]):  # first what shrinks most
        first = np.moveaxis(values, axis, 0)
        weights = _weights(values.shape[axis], size[axis], step[axis])
        mixed = weights @ np.ascontiguousarray(first).reshape(len(first), -1)
        values = np.moveaxis(mixed.reshape(size[axis], *first.shape[1:]), 0, axis)
    return values


@lru_cache(maxsize=64)
def _weights(old: int, new: int, step: float) -> Any:
    """Return how much of each old pixel is in each new one, a sparse (new, old): rows add up to 1, or to 0 outside."""
    reach = max(1.0, step)
    points = (old - 1) / 2 + (np.arange(new) - (new - 1) / 2) * step
    points = points[:, None]
    offsets = np.arange(min(old, 2 * int(min(reach, old)) + 3))[None]
    places = np.clip(np.floor(points - min(reach, old)), 0, old - offsets.size).astype(np.int64) + offsets
    weights = np.clip(1 - np.abs(places - points) / reach, 0, None)
    weights[((points < -0.5) | (points > old - 0.5))[:, 0]] = 0
    total = weights.sum(axis=1, keepdims=True)
    weights = np.divide(weights, total, out=np.zeros_like(weights), where=total > 0).astype(np.float32)
    rows = np.repeat(np.arange(new), places.shape[1])
    return sparse.csr_array((weights.ravel(), (rows, places.ravel())), shape=(new, old))
