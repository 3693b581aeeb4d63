"""A small disk that can be full: a tmpfs of its own."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from pathlib import Path


class Disk:
    """Mounted over a folder, which is made; needs the rights of root.

    Raises
    ------
    PermissionError
        Nothing may be mounted here.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        told = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=False, capture_output=True
        )
        if told.returncode:
            raise PermissionError("nothing can be mounted here")

    def fill(self) -> None:
        """Leave no room for another byte."""
        with suppress(OSError), (self.folder / "ballast").open("ab", buffering=0) as ballast:
            while True:
                ballast.write(bytes(4096))

    def empty(self) -> None:
        """Make room again."""
        (self.folder / "ballast").unlink()

    def remove(self) -> None:
        """Take it away with all that is on it."""
        subprocess.run(["umount", "--lazy", str(self.folder)], check=False, capture_output=True)
