"""One NIfTI-1 or NIfTI-2 file (.nii, .nii.gz) as a volume of numbers."""

from __future__ import annotations

import gzip
import io
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pmfed.cohort.imaging.failures import (
    CUT_OFF,
    DAMAGED,
    NO_PLACE,
    NO_SUCH_VOLUME,
    NOT_NIFTI,
    NOT_SCALAR,
    SEVERAL_VOLUMES,
    TOO_LARGE,
    ScanError,
    as_scan_error,
)
from pmfed.cohort.imaging.libraries import require
from pmfed.cohort.imaging.pixels import MOST_VALUES

Floats = NDArray[np.float32]

MOST_HEADER = 2**26  # bytes before the voxels: extensions may hold whole DICOM headers
MILLIMETRES = {"meter": 1000.0, "micron": 0.001}


def decode_nifti(content: bytes, volume: int | None) -> tuple[Floats, NDArray[np.float64]]:
    """Decode one volume.

    Parameters
    ----------
    content
        The whole file.
    volume
        Which volume of a file of several, from 0; None when there must be one.

    Returns
    -------
    values : (X, Y, Z) float32
        After scl_slope and scl_inter.
    affine : (4, 4) float64
        From indices to mm to the Right, Anterior, Superior: sform where its code is set, else qform.

    Raises
    ------
    ScanError
        It is damaged, too large, not of plain numbers, or neither sform nor qform is set.
    """
    with as_scan_error(DAMAGED):
        file: Any = gzip.GzipFile(fileobj=io.BytesIO(content)) if content[:2] == b"\x1f\x8b" else io.BytesIO(content)
        start = file.read(544)
        header = _header(start)
        kind = header.get_data_dtype()
        if kind.kind not in "iuf":
            raise ScanError(NOT_SCALAR)
        shape = header.get_data_shape()
        if len(shape) < 2 or min(shape) < 1:
            raise ScanError(NOT_SCALAR)
        space = (*shape, 1)[:3]
        volumes = math.prod(shape[3:])
        if volumes > 1 and volume is None:
            raise ScanError(SEVERAL_VOLUMES)
        if (volume or 0) >= volumes:
            raise ScanError(NO_SUCH_VOLUME)
        before = _offset(header, start)
        skipped = math.prod(space) * (volume or 0)
        if before > MOST_HEADER or math.prod(space) + skipped > MOST_VALUES:
            raise ScanError(TOO_LARGE)
        affine = _affine(header)
        # Reading stops at the last voxel that is wanted: whatever a file unpacks to beyond it does not matter.
        file.seek(before + skipped * kind.itemsize)
        length = math.prod(space) * kind.itemsize
        raw = file.read(length)
        if len(raw) < length:
            raise ScanError(CUT_OFF)
        values = np.frombuffer(raw, kind).reshape(space, order="F").astype(np.float32)
        slope, intercept = header.get_slope_inter()
        if slope is not None:
            values *= np.float32(slope)
            values += np.float32(intercept)
    return values, affine


def grid_of(content: bytes) -> tuple[tuple[int, ...], NDArray[np.float64]]:
    """Return shape (X, Y, Z) and affine of a file, from its header alone."""
    with as_scan_error(DAMAGED):
        file: Any = gzip.GzipFile(fileobj=io.BytesIO(content)) if content[:2] == b"\x1f\x8b" else io.BytesIO(content)
        header = _header(file.read(540))
        return (*header.get_data_shape(), 1)[:3], _affine(header)


def _header(start: bytes) -> Any:
    nibabel = require("nibabel")
    for kind, length, marks in ((nibabel.Nifti1Header, 348, {b"n+1\0"}), (nibabel.Nifti2Header, 540, {b"n+2\0"})):
        if int.from_bytes(start[:4], "little") == length or int.from_bytes(start[:4], "big") == length:
            if len(start) < length:
                raise ScanError(CUT_OFF)
            header = kind(start[:length], check=False)
            if header["magic"].tobytes()[:4].ljust(4, b"\0") not in marks:
                raise ScanError(NOT_NIFTI)
            if header["pixdim"][0] == 0:
                header["pixdim"][0] = 1  # as the standard has it (qfac); nibabel refuses it
            return header
    raise ScanError(NOT_NIFTI)


def _offset(header: Any, start: bytes) -> int:
    """Return where the voxels begin; 0 means right behind the header, as some writers have it.

    Raises
    ------
    ScanError
        It lies inside the header, or before the end of what says that there are extensions.
    """
    least = int(header.sizeof_hdr) + 4
    said, extended = float(header["vox_offset"]), any(start[least - 4 : least - 3])
    if said == 0 and not extended:
        return least
    if not said.is_integer() or said < least:
        raise ScanError(DAMAGED)
    return int(said)


def _affine(header: Any) -> NDArray[np.float64]:
    if not (int(header["sform_code"]) or int(header["qform_code"])):
        raise ScanError(NO_PLACE)
    affine = np.array(header.get_best_affine(), dtype=np.float64)
    affine[:3] *= MILLIMETRES.get(header.get_xyzt_units()[0], 1.0)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine)) < 1e-9:
        raise ScanError(NO_PLACE)
    return affine
