"""One record, once, in its newest version.

A record has a key: its type and id where it has them, otherwise all that it says. Of several versions under one key the
newest counts; a version that withdraws the record voids the older ones; the same record twice counts once; and two
different records under one key, with nothing to tell which is newer, are an error that says where they stand.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pmfed.errors import DataError

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

NONE = np.iinfo(np.int64).min
STAGES = {
    "registered": 0, "draft": 0, "planned": 0, "preliminary": 1, "partial": 1, "final": 2, "completed": 2, "finished": 2,
    "corrected": 3, "amended": 3, "appended": 3, "cancelled": 4, "entered-in-error": 4, "deleted": 4,
}  # fmt: skip
"""How far along a record is by its status: what tells two versions apart where nothing else does."""
GONE = STAGES["deleted"]


def digest(text: str | bytes) -> int:
    """Return 64 bits of a text: two of a hundred million records are taken for one with a chance of one in 4,000."""
    raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "little", signed=True)


class Version(NamedTuple):
    """When a version was written (microseconds since 1970), its number and its stage; `NONE` where it does not say."""

    updated: int = NONE
    number: int = NONE
    stage: int = NONE


@dataclass(frozen=True, eq=False, repr=False)
class Settled:
    """What counts of N records, in the order they were added.

    Attributes
    ----------
    counts, repeated, replaced, voided : (N,) bool
        The newest version, once; the same again; an older version; an older version of what was withdrawn.
    """

    counts: Bools
    repeated: Bools
    replaced: Bools
    voided: Bools


class Versions:
    """Gathers records, 48 bytes each, and says which of them count."""

    def __init__(self) -> None:
        self._columns = [array("q") for _ in range(6)]

    def __len__(self) -> int:
        return len(self._columns[0])

    def add(self, key: int, content: int, version: Version, place: int) -> int:
        """Add a record and return its number.

        Parameters
        ----------
        key, content
            Digests of the record's key and of all it says.
        version
            What tells its age.
        place
            Where it stands, a number that the caller can make a sentence of.
        """
        for column, value in zip(self._columns, (key, content, *version, place), strict=True):
            column.append(value)
        return len(self) - 1

    def settle(self, where: Callable[[int], str]) -> Settled:
        """Return which records count.

        Parameters
        ----------
        where
            Names a place for an error.

        Raises
        ------
        DataError
            Two different records have one key and nothing tells which is newer.
        """
        key, content, updated, number, stage, place = (np.array(column, dtype=np.int64) for column in self._columns)
        counts, repeated = np.ones(len(key), dtype=bool), np.zeros(len(key), dtype=bool)
        replaced, voided = repeated.copy(), repeated.copy()
        order = np.argsort(key, kind="stable")
        bounds = np.flatnonzero(np.diff(key[order], prepend=NONE) != 0) if len(key) else np.zeros(0, dtype=np.int64)
        bounds = np.unique(np.append(bounds, [0, len(key)]))
        wide = np.flatnonzero(np.diff(bounds) > 1)
        for start, end in zip(bounds[wide].tolist(), bounds[wide + 1].tolist(), strict=True):
            rows = order[start:end]
            first = np.unique(content[rows], return_index=True)[1]
            distinct = rows[np.sort(first)]
            repeated[np.setdiff1d(rows, distinct)] = True
            ranked = newest(updated[distinct], number[distinct], stage[distinct])
            if ranked is None:
                raise DataError(
                    f"two different records have one key, and nothing tells which is newer ({where(int(place[distinct[0]]))} "
                    f"and {where(int(place[distinct[1]]))}).",
                    "Keep the newest one, or export meta.versionId or meta.lastUpdated with each; records of two servers with "
                    "the same ids belong into two sources.",
                )
            last = distinct[ranked]
            (voided if stage[last] == GONE else replaced)[distinct[distinct != last]] = True
            counts[rows] = False
            counts[last] = True
        return Settled(counts, repeated, replaced, voided)


def newest(updated: Ints, number: Ints, stage: Ints) -> int | None:
    """Return which of some versions is the newest; None when nothing tells, or two signs of it disagree."""
    if len(updated) == 1:
        return 0
    told = [column for column in (updated, number) if (column != NONE).all()]
    found = {one for column in told if (one := _single(column)) is not None}
    if len(found) == 1:
        return found.pop()
    numbered = any(column is number for column in told)
    return _single(stage) if not found and not numbered and (stage != NONE).all() else None


def _single(column: Ints) -> int | None:
    at = int(np.argmax(column))
    return at if int((column == column[at]).sum()) == 1 else None


class SeenRows:
    """Remembers rows by their digests, 8 bytes each, however many come."""

    def __init__(self) -> None:
        self._sorted: list[NDArray[np.uint64]] = []

    def new(self, keys: NDArray[np.uint64]) -> Bools:
        """Return which rows were not there before, the first of several alike."""
        distinct, first = np.unique(keys, return_index=True)
        old = np.zeros(len(distinct), dtype=bool)
        for before in self._sorted:
            place = np.minimum(np.searchsorted(before, distinct), len(before) - 1)
            old |= before[place] == distinct
        out = np.zeros(len(keys), dtype=bool)
        out[first[~old]] = True
        if (~old).any():
            self._sorted.append(distinct[~old])
        while len(self._sorted) > 1 and len(self._sorted[-2]) < 2 * len(self._sorted[-1]):
            both: NDArray[np.uint64] = np.concatenate([self._sorted.pop(), self._sorted.pop()])
            both.sort()
            self._sorted.append(both)
        return out


def row_digests(frame: pd.DataFrame) -> NDArray[np.uint64]:
    """Return 64 bits of each row, all its columns together."""
    if not len(frame.columns):
        return np.zeros(len(frame), dtype=np.uint64)
    return np.asarray(pd.util.hash_pandas_object(frame, index=False).to_numpy(), dtype=np.uint64)
