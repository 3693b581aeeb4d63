"""Where a site keeps what the readers leave behind, and whom they tell how far they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pmfed.cohort.imaging.inside import Progress
from pmfed.cohort.imaging.private import write_private


@dataclass(frozen=True)
class Places:
    """Cache, list of unreadable files, progress; nothing of it by default.

    Attributes
    ----------
    cache : Path or None
        The site's folder for headers and scans that were read.
    detail : Path or None
        The file that lists, for the site alone, what cannot be read and why. It holds paths, so it has rights 0600.
    indexing, decoding : Progress or None
        Called with (done, total) while headers are read, and while scans are decoded.
    """

    cache: Path | None = None
    detail: Path | None = None
    indexing: Progress | None = None
    decoding: Progress | None = None

    def note(self, faults: Mapping[str, str]) -> str:
        """List faulty paths with their reasons in the site's own file; return where they are listed, for people."""
        if self.detail is None:
            return ""
        try:
            if not faults:
                self.detail.unlink(missing_ok=True)  # the list of an earlier start would mislead
                return ""
            lines = [f"{reason}\t{json.dumps(path)}\n" for path, reason in sorted(faults.items())]
            write_private(self.detail, "".join(lines).encode())
        except OSError:
            return " They could not be listed."
        return f" They are listed in {self.detail}, which stays at the site."
