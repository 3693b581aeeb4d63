"""The sites of a study whose patients are invented."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class VirtualSites:
    """Sites that need no data: ``make`` writes them into a new folder, and ``says`` is told where that takes a while."""

    make: Callable[[Path], object]
    says: str = ""
    data: None = None

    def write(self, out: Path, data: Path | None, tell: Callable[[str], None]) -> None:
        """Write a folder per site, as ``make`` does it; there is no ``data`` to read."""
        if self.says:
            tell(self.says)
        self.make(out)
