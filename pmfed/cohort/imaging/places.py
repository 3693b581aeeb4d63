"""What a site gives its readers: where to keep what they leave behind, whom to tell how far they are, a network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pmfed.cohort.imaging.inside import Progress
from pmfed.cohort.imaging.private import write_private

if TYPE_CHECKING:
    from pmfed.cohort.pretrained.backbone import Backbone

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Places:
    """Cache, list of unreadable files, progress, network; nothing of it by default.

    Attributes
    ----------
    cache : Path or None
        The site's folder for headers and scans that were read.
    detail : Path or None
        The file that lists, for the site alone, what cannot be read and why. It holds paths, so it has rights 0600.
    indexing, decoding : Progress or None
        Called with (done, total) while headers are read, and while scans are decoded.
    backbone : Backbone or None
        The network of the modality's ``weights``: what it makes of a picture is the input, and is what is cached.
    """

    cache: Path | None = None
    detail: Path | None = None
    indexing: Progress | None = None
    decoding: Progress | None = None
    backbone: Backbone | None = None

    def seen(self, picture: Floats) -> Floats:
        """Return a decoded picture as the model gets it: as it is, or what the network makes of it."""
        return picture if self.backbone is None else self.backbone(picture)

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
