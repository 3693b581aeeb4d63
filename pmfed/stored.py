"""Vectors that lie in a file: of a large model, the coordinator holds in memory what it works on and no more."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

PART = 1 << 18  # numbers that are worked on together


class Stored:
    """A vector in a file without a name, which is gone with the last who refers to it, and with the process.

    Read and written like an array, by slices without steps; what is read is a copy.

    Parameters
    ----------
    folder
        On whose disk it lies: RUN, not /tmp, which is memory on many machines.
    size, dtype
        How many numbers of which kind; all are 0 at first, and take no room until they are written.
    """

    def __init__(self, folder: Path, size: int, dtype: npt.DTypeLike) -> None:
        self.size, self.dtype = size, np.dtype(dtype)
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (it is closed with this object)
        self._file.truncate(size * self.dtype.itemsize)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, part: slice) -> npt.NDArray[Any]:
        start, stop, _ = part.indices(self.size)
        found = np.empty(stop - start, self.dtype)
        self._file.seek(start * self.dtype.itemsize)
        self._file.readinto(found.data)
        return found

    def __setitem__(self, part: slice, values: npt.NDArray[Any]) -> None:
        start, stop, _ = part.indices(self.size)
        assert values.shape == (stop - start,)
        self._file.seek(start * self.dtype.itemsize)
        self._file.write(np.ascontiguousarray(values, self.dtype).data)


def parts(size: int) -> Iterator[slice]:
    """Return slices that together are a vector of some size."""
    return (slice(start, min(start + PART, size)) for start in range(0, size, PART))
