"""Files that are replaced whole: a crash leaves the old one or the new one, never half of one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give the name of a file to write, which takes the place of ``path`` in the end."""
    beside = path.with_name(path.name + ".new")
    yield beside
    with beside.open("rb") as file:
        os.fsync(file.fileno())
    beside.replace(path)


def replace_file(path: Path, data: bytes, *, private: bool = False) -> None:
    """Write a file beside its name, sync it, and let it take its place; ``private``: only its owner may read it."""
    with replacing(path) as beside:
        if private:
            beside.touch(mode=0o600)
            beside.chmod(0o600)  # a crash may have left one
        beside.write_bytes(data)


def take_places(paths: Iterable[Path], folder: Path, aside: Path) -> None:
    """Move files into a folder, in this order; a copy of what had their names there is put aside first."""
    for path in paths:
        here = folder / path.name
        if here.exists():
            shutil.copy2(here, aside / path.name)  # never a moment without the one or the other
        path.replace(here)
