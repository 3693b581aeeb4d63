"""Where the slices of a series lie (PS3.3 section C.7.6.2): their order in space, their distance, their direction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pmfed.cohort.imaging.failures import DIRECTIONS, HOLES, NO_PLACE, SAME_PLACE, SIZES, ScanError

TILTED = 1.0  # degrees between the way from slice to slice and the slices' normal
UNEVEN = 0.02  # share of the usual step by which a step may differ
GAP = 1.5  # steps


@dataclass(frozen=True, slots=True, repr=False)
class Plane:
    """One slice: position of its first pixel, direction of rows and columns, distance between rows and columns, mm."""

    position: tuple[float, float, float]
    direction: tuple[float, ...]
    spacing: tuple[float, float]


@dataclass(frozen=True, repr=False)
class Stack:
    """N slices in order of space.

    Attributes
    ----------
    order : (N,) int64
        Which slice comes first, second, ...
    places : (N,) float64
        Where each lies along the stack, in steps; 0, 1, 2, ... when they are even.
    affine : (4, 4) float64
        From (slice, row, column) to mm to the Right, Anterior and Superior, as NIfTI and nibabel have it.
    missing : int
        Slices that lack in between.
    tilted : bool
        The stack is sheared, as CT with a tilted gantry is.
    """

    order: NDArray[np.int64]
    places: NDArray[np.float64]
    affine: NDArray[np.float64]
    missing: int
    tilted: bool

    @property
    def even(self) -> bool:
        """Whether every step is the usual one."""
        return bool(np.allclose(np.diff(self.places), 1.0, atol=UNEVEN))


def stack(planes: Sequence[Plane | None]) -> Stack:
    """Put slices in order along their common normal; InstanceNumber has no say.

    Raises
    ------
    ScanError
        A slice has no place, directions or spacings differ, two slices lie in one place, or more are missing than
        there are.
    """
    known = [plane for plane in planes if plane is not None]
    if len(known) < len(planes) or not known:
        raise ScanError(NO_PLACE)
    positions = np.array([plane.position for plane in known])
    directions = np.array([plane.direction for plane in known])
    spacings = np.array([plane.spacing for plane in known])
    row, column = _unit(directions[0, :3]), _unit(directions[0, 3:])
    normal = np.cross(row, column)
    if np.linalg.norm(normal) < 0.9:
        raise ScanError(NO_PLACE)
    if not np.allclose(directions, directions[0], atol=1e-2):
        raise ScanError(DIRECTIONS)
    if not np.allclose(spacings, spacings[0], rtol=1e-3):
        raise ScanError(SIZES)
    along = positions @ normal
    order = np.argsort(along, kind="stable")
    steps = np.diff(along[order])
    if not len(steps):
        return Stack(order, np.zeros(1), _affine(row, column, normal, spacings[0], positions[0]), 0, False)
    usual = float(np.median(steps))
    if steps.min() <= max(1e-3, 0.05 * usual):
        raise ScanError(SAME_PLACE)
    places = np.concatenate([[0.0], np.cumsum(steps) / usual])
    missing = int(np.rint(steps[steps > GAP * usual] / usual - 1).sum())
    if missing > len(planes) or places[-1] > 2 * len(planes):
        raise ScanError(HOLES)
    way = positions[order[-1]] - positions[order[0]]
    slope = float(np.degrees(np.arccos(np.clip(way @ normal / np.linalg.norm(way), -1, 1))))
    step = way / places[-1]
    affine = _affine(row, column, step, spacings[0], positions[order[0]])
    return Stack(order.astype(np.int64), places, affine, missing, slope > TILTED)


def _unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    length = float(np.linalg.norm(vector))
    if not 0.9 < length < 1.1:
        raise ScanError(NO_PLACE)
    unit: NDArray[np.float64] = vector / length
    return unit


def _affine(
    row: NDArray[np.float64],
    column: NDArray[np.float64],
    step: NDArray[np.float64],
    spacing: NDArray[np.float64],
    first: NDArray[np.float64],
) -> NDArray[np.float64]:
    affine = np.eye(4)
    affine[:3, 0] = step
    affine[:3, 1] = column * spacing[0]  # the next row lies one row spacing along the column's direction
    affine[:3, 2] = row * spacing[1]
    affine[:3, 3] = first
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine  # DICOM counts to the Left and Posterior
