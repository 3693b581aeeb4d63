"""``model.safetensors``: the arrays of a finished model, checked against what ``model.json`` tells of them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from pmfed.errors import VerificationError
from pmfed.runs.description import Array, Dtype, Role

Arrays = Mapping[str, npt.NDArray[Any]]

HEADER = 1 << 26  # most bytes of safetensors' own header: names, shapes, and the study
MAX_NUMBERS = 1 << 34  # of one model
WIDTHS: dict[Dtype, tuple[str, int]] = {
    "F64": ("<f8", 8), "F32": ("<f4", 4), "I64": ("<i8", 8), "I32": ("<i4", 4), "U8": ("|u1", 1), "BOOL": ("|b1", 1),
}  # fmt: skip
_NAMES = {np.dtype(kind): name for name, (kind, _) in WIDTHS.items()}

REMEDY = "Do not use it. Ask whoever gave it to you for the run again."


def array_of(role: Role, values: npt.NDArray[Any]) -> Array:
    """Return what a description tells of an array."""
    return Array(role=role, dtype=_NAMES[values.dtype], shape=values.shape, sha256=digest(values))


def digest(values: npt.NDArray[Any]) -> str:
    """Return the SHA-256 of an array's numbers, little-endian, in C order; nothing is copied that need not be."""
    plain = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    return hashlib.sha256(plain.reshape(-1).view(np.uint8).data).hexdigest()


def read_arrays(path: Path, told: Mapping[str, Array]) -> tuple[dict[str, npt.NDArray[Any]], dict[str, str]]:
    """Read the arrays that a description tells of, and the words in the file's header.

    Raises
    ------
    VerificationError
        The file is missing, is no safetensors file, is larger than it can be, or holds other arrays than told.

    Guarantee
    ---------
    Nothing of the file is executed. No more is allocated than the description tells, which is bounded.
    """
    size = sum(math.prod(one.shape) * WIDTHS[one.dtype][1] for one in told.values())
    if size > MAX_NUMBERS * 8:
        raise VerificationError(f"{path}: a model of {size:,} bytes is more than is read.", REMEDY)
    try:
        if not path.is_file():
            raise VerificationError(f"{path}: there is no such file, though a description of it.", REMEDY)
        if path.stat().st_size > size + HEADER:
            raise VerificationError(f"{path}: is larger than its description allows.", REMEDY)
        with safe_open(path, framework="numpy", backend="pread") as file:
            names = set(file.keys())
            if names != set(told):
                odd = sorted(names ^ set(told))
                raise VerificationError(
                    f"{path}: {len(odd)} array(s) are in the file or in its description only, such as '{odd[0]}'.",
                    REMEDY,
                )
            return {name: _read(path, file, name, told[name]) for name in sorted(names)}, dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise VerificationError(f"{path}: cannot be read ({type(error).__name__}).", REMEDY) from None


def _read(path: Path, file: Any, name: str, told: Array) -> npt.NDArray[Any]:
    part = file.get_slice(name)
    if tuple(part.get_shape()) != told.shape or part.get_dtype() != told.dtype:
        raise VerificationError(f"{path}: '{name}' has another shape or type than its description.", REMEDY)
    values: npt.NDArray[Any] = file.get_tensor(name)
    if digest(values) != told.sha256:
        raise VerificationError(f"{path}: the numbers of '{name}' are not those of its description.", REMEDY)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise VerificationError(f"{path}: '{name}' holds numbers that are not finite.", REMEDY)
    return values
