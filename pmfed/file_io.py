"""Files that a crash leaves old or new, and never half of one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give the name of a file to write, which takes the place of ``path`` in the end: a crash leaves the old or the new."""
    beside = path.with_name(path.name + ".new")
    yield beside
    with beside.open("rb") as file:
        os.fsync(file.fileno())
    beside.replace(path)


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that a crash leaves the old one or the new one."""
    with replacing(path) as beside:
        beside.write_bytes(data)
