"""SHA-256 of listed files, kept sealed by their path, size and times, so that an unchanged file is not read again."""

from __future__ import annotations

import os
import time
from pathlib import Path

from pmfed.cohort.imaging.inside import FRESH, Stamp, stamp_of
from pmfed.cohort.imaging.seal import Seal


class Digests:
    """Digests of the files of one folder.

    Parameters
    ----------
    folder
        Of the files.
    cache
        The site's folder for what was read before, or None.
    """

    def __init__(self, folder: Path, cache: Path | None) -> None:
        self._seal = Seal.of(folder, cache, "digests")
        kept = self._seal.load() if self._seal is not None else None
        self._known: dict[str, list[object]] = kept if isinstance(kept, dict) else {}
        self._changed = False

    def stamp(self, path: str) -> Stamp | None:
        """Return the stamp of a file, or None when it is gone."""
        try:
            return stamp_of(os.stat(path))
        except OSError:
            return None

    def of(self, path: str, stamp: Stamp | None) -> str | None:
        """Return the digest of a file with this stamp, where it is known."""
        size, modified, changed, digest = self._known.get(path) or (None, None, None, None)
        return str(digest) if stamp is not None and (size, modified, changed) == stamp.parts else None

    def note(self, path: str, stamp: Stamp, digest: str) -> None:
        """Keep the digest of a file."""
        if max(stamp.modified, stamp.changed) < time.time_ns() - FRESH:
            self._known[path] = [*stamp.parts, digest]
            self._changed = True

    def keep(self) -> bool:
        """Seal them for the next start, if there is where to; return whether that worked."""
        if self._seal is None or not self._changed:
            return True
        try:
            self._seal.store(self._known)
        except OSError:
            return False
        return True
