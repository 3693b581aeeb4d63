"""Files of a folder that a site describes: none is read from outside it."""

from __future__ import annotations

import os
from pathlib import Path

from pmfed.cohort.contract.written import Written, WrittenPath
from pmfed.errors import DataError


def inside(folder: Path, file: str, written: Written | None = None) -> Path:
    """Return the path of a file of a folder, which knows how it is written where that is told.

    Raises
    ------
    DataError
        It leads out of the folder, by ``..``, as a path from the root or through a link.
    """
    root = os.path.realpath(folder)
    try:
        real = os.path.realpath(os.path.join(root, file))
        outside = os.path.commonpath([root, real]) != root
    except ValueError:  # a NUL byte, or another drive
        outside = True
    if outside:
        raise DataError(
            f"{folder}: a file listed for it lies outside.",
            "List files by their path inside the folder, without links.",
        )
    return Path(real) if written is None else WrittenPath(real, written=written)
