"""Which DICOM files are the same record: one SOPInstanceUID is one picture, wherever it lies and however it is packed."""

from __future__ import annotations

import hashlib
import os

from pmfed.cohort.imaging.failures import TWINS, ScanError
from pmfed.cohort.imaging.header import Header
from pmfed.cohort.imaging.index import Index
from pmfed.cohort.imaging.inside import read_bytes
from pmfed.cohort.imaging.pixels import Picture
from pmfed.cohort.imaging.series import FoundSeries

File = tuple[str, Header]


def check_twins(found: FoundSeries, index: Index) -> None:
    """Compare second copies in a series with the first: each of them counts once if they are the same picture.

    Raises
    ------
    ScanError
        Two different pictures bear one SOPInstanceUID: which of them is meant nobody can tell. It names the second's path.
    """
    for first, second in found.twins:
        if not _same(first, second, index):
            raise ScanError(TWINS, second[0])


def _same(first: File, second: File, index: Index) -> bool:
    if _digest(first[0], index) == _digest(second[0], index):
        return True
    return _lies(first[1]) == _lies(second[1]) and _pixels(first[0], index) == _pixels(second[0], index)


def _lies(header: Header) -> tuple[object, ...]:
    return (
        header.rows,
        header.columns,
        header.frames,
        header.position,
        header.direction,
        header.spacing,
        header.quantity,
    )


def _digest(path: str, index: Index) -> str:
    """Return the digest of a file, which the index keeps: the next start need not read it."""
    known = index.entries[path].digest
    if known is None:
        known = hashlib.sha256(_content(path, index)).hexdigest()
        index.note_digest(path, known)
    return known


def _pixels(path: str, index: Index) -> str:
    """Return the digest of a file's pixels in their own units: compression and bits do not make another picture."""
    values = Picture(_content(path, index)).decode().values
    return hashlib.sha256(values.data).hexdigest()


def _content(path: str, index: Index) -> bytes:
    return read_bytes(os.path.join(os.path.realpath(index.folder), path), index.entries[path].stamp)
