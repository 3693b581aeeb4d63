"""How far the surfaces of two masks lie apart: surface Dice, and the 95th percentile of distances up to a public cap."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


def surface_figures(truth: Bools, said: Bools, tolerance: float, cap: float) -> tuple[float, float]:
    """Return how two masks of one record agree at their surfaces.

    Parameters
    ----------
    truth, said
        Masks of the same shape, two or three axes.
    tolerance
        Distance in pixels within which surfaces count as one.
    cap
        The largest distance told, in pixels.

    Returns
    -------
    tuple of float
        The share of both surfaces that lies within ``tolerance`` of the other (Nikolov et al. 2021, J Med Internet Res
        23:e26151), and the larger of the 95th percentiles of the distances from either, as a share of ``cap`` (HD95, as MONAI
        computes it). Where only one of the masks has any pixel they are 0 and 1.
    """
    if not truth.any() or not said.any():
        return 0.0, 1.0
    edges = [_surface(mask) for mask in (truth, said)]
    distances = [np.asarray(ndimage.distance_transform_edt(~other))[own] for own, other in (edges, edges[::-1])]
    near = sum(int((one <= tolerance).sum()) for one in distances) / sum(len(one) for one in distances)
    apart = max(float(np.percentile(one, 95)) for one in distances)
    return near, min(apart, cap) / cap


def _surface(mask: Bools) -> Bools:
    """Return the pixels of a mask that have a neighbour outside it, beyond the picture's border nothing is."""
    return np.asarray(mask & ~ndimage.binary_erosion(mask), dtype=bool)


def drawn_means(count: Floats, total: Any, squares: Any, patients: float, random: np.random.Generator) -> Floats:
    """Return sums over ``count`` (draws,) patients drawn again of a figure between 0 and 1.

    ``total`` and ``squares`` are its sum, and that of its squares, over ``patients``. Only those are known, so means are
    drawn from a normal distribution.
    """
    if patients <= 0:
        return np.zeros_like(count)
    mean = float(np.clip(total / patients, 0.0, 1.0))
    variance = float(np.clip(squares / patients - mean**2, 0.0, mean * (1 - mean)))
    spread = np.sqrt(variance / np.maximum(count, 1.0))
    return np.asarray(count * np.clip(mean + spread * random.normal(size=count.shape), 0.0, 1.0))
