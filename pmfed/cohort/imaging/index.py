"""The index of a DICOM folder: every file's header, read once and kept sealed for the next start."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from pmfed.cohort.imaging.failures import REMEDIES, ScanError
from pmfed.cohort.imaging.header import Header, read_header
from pmfed.cohort.imaging.inside import FRESH, Progress, Stamp, walk
from pmfed.cohort.imaging.libraries import quiet, require
from pmfed.cohort.imaging.seal import Seal

PICTURE = "pictures"
FIELDS = tuple(one.name for one in fields(Header))


@dataclass(frozen=True, slots=True, repr=False)
class IndexEntry:
    """One file of the folder.

    ``header`` is None for what is no picture; ``state`` then says what it is, or why it cannot be read. ``digest`` is
    the SHA-256 of the content, once somebody has read it.
    """

    stamp: Stamp
    state: str
    header: Header | None = None
    digest: str | None = None


@dataclass(eq=False)
class Index:
    """The files of one folder, by their path in it. Its repr shows no path.

    Attributes
    ----------
    folder : Path
    entries : dict of Entry
        Ascending by path.
    refused : dict of str
        What was not entered, and why.
    """

    folder: Path
    entries: dict[str, IndexEntry] = field(repr=False)
    refused: dict[str, str] = field(repr=False)
    _seal: Seal | None = field(default=None, repr=False)
    _changed: bool = field(default=False, repr=False)

    @property
    def pictures(self) -> Iterator[tuple[str, Header]]:
        """Paths and headers of the files that hold pixels."""
        return ((path, entry.header) for path, entry in self.entries.items() if entry.header is not None)

    @property
    def states(self) -> Counter[str]:
        """How many files are pictures, how many are none, and how many cannot be read, by reason."""
        found = Counter(entry.state for entry in self.entries.values()) + Counter(self.refused.values())
        return Counter({f"files that {one}" if one in REMEDIES else one: number for one, number in found.items()})

    def note_digest(self, path: str, digest: str) -> None:
        """Keep the digest of a file that was read whole."""
        if self.entries[path].digest != digest:
            self.entries[path] = replace(self.entries[path], digest=digest)
            self._changed = True

    def keep(self) -> bool:
        """Seal the index for the next start, if there is where to; return whether that worked."""
        if self._seal is None or not self._changed:
            return True
        settled = time.time_ns() - FRESH
        rows = [
            _row(path, entry)
            for path, entry in self.entries.items()
            if entry.stamp.modified < settled and entry.stamp.changed < settled
        ]
        try:
            self._seal.store({"fields": FIELDS, "files": rows})
        except OSError:
            return False
        self._changed = False
        return True


def read_index(folder: Path, cache: Path | None = None, progress: Progress | None = None) -> Index:
    """Read the headers of every file below a folder.

    Parameters
    ----------
    folder
        A DICOM folder of any structure.
    cache
        The site's folder for what was read before. Files whose size and times are those of the last start are not
        opened again.
    progress
        Called with files done and files in all.

    Raises
    ------
    DataError
        pydicom is not installed.
    """
    require("pydicom")
    seal = Seal.of(folder, cache, "index")
    known = _known(seal)
    found = walk(folder)
    entries: dict[str, IndexEntry] = {}
    root = os.path.realpath(folder)
    changed = len(known) != len(found.files)
    with quiet():
        for done, (path, stamp) in enumerate(found.files.items(), 1):
            before = known.pop(path, None)
            if before is not None and before.stamp == stamp:
                entries[path] = before
            else:
                entries[path] = _read(os.path.join(root, path), stamp)
                changed = True
            if progress is not None:
                progress(done, len(found.files))
    index = Index(Path(folder), entries, found.refused, seal, changed)
    index.keep()  # now, because decoding may take hours and be stopped
    return index


def _read(path: str, stamp: Stamp) -> IndexEntry:
    try:
        header = read_header(path)
    except ScanError as error:
        return IndexEntry(stamp, error.reason)
    return IndexEntry(stamp, header) if isinstance(header, str) else IndexEntry(stamp, PICTURE, header)


def _known(seal: Seal | None) -> dict[str, IndexEntry]:
    """Return the entries of the last start; none of them when what was kept is of another form."""
    kept: Any = seal.load() if seal is not None else None
    if not isinstance(kept, dict) or kept.get("fields") != list(FIELDS):
        return {}
    return {path: _entry(*row) for path, *row in kept["files"]}


def _row(path: str, entry: IndexEntry) -> list[Any]:
    header = entry.header
    said = None if header is None else [getattr(header, name) for name in FIELDS]
    return [path, *entry.stamp.parts, entry.state, entry.digest, said]


def _entry(
    size: int, modified: int, changed: int, state: str, digest: str | None, said: list[Any] | None
) -> IndexEntry:
    stamp = Stamp(size, modified, changed)
    if said is None:
        return IndexEntry(stamp, state, None, digest)
    fixed: Any = (tuple(value) if isinstance(value, list) else value for value in said)
    return IndexEntry(stamp, state, Header(*fixed), digest)
