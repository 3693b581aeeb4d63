"""Files inside a folder, and nothing outside it: links are never followed out."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pmfed.cohort.imaging.failures import ABSENT, CHANGED, CLOSED, OUTSIDE, TOO_LARGE, ScanError

Progress = Callable[[int, int], None]
"""Called with what is done and how much there is."""

LARGEST_FILE = 2**32  # bytes
FRESH = 2 * 10**9  # nanoseconds: a file changed so recently may change again and keep its stamp


@dataclass(frozen=True, slots=True)
class Stamp:
    """What changes when a file's content does: bytes, and times of the last change in nanoseconds."""

    size: int
    modified: int
    changed: int

    @property
    def parts(self) -> tuple[int, int, int]:
        """The three as a tuple."""
        return self.size, self.modified, self.changed


@dataclass(frozen=True)
class Walk:
    """Files below a folder by their path in it, and what was not entered. Its repr shows no path."""

    files: dict[str, Stamp] = field(repr=False)
    refused: dict[str, str] = field(repr=False)


def stamp_of(found: os.stat_result) -> Stamp:
    """Return the stamp of a file."""
    return Stamp(found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def walk(folder: Path) -> Walk:
    """List the regular files below a folder.

    A link that leads out of the folder is refused. One that stays inside is passed over, because what it leads to is
    listed under its own name. Devices, pipes and sockets are passed over.
    """
    root = os.path.realpath(folder)
    files: dict[str, Stamp] = {}
    refused: dict[str, str] = {}
    waiting = [""]
    while waiting:
        below = waiting.pop()
        try:
            with os.scandir(os.path.join(root, below)) as entries:
                for entry in entries:
                    path = os.path.join(below, entry.name)
                    if entry.is_symlink():
                        if not _within(os.path.realpath(entry.path), root):
                            refused[path] = OUTSIDE
                    elif entry.is_dir():
                        waiting.append(path)
                    elif entry.is_file():
                        files[path] = stamp_of(entry.stat(follow_symlinks=False))
        except OSError:
            refused[below] = CLOSED
    return Walk(dict(sorted(files.items())), refused)


def resolve(folder: Path, file: str) -> str:
    """Return the real path of a listed file.

    Raises
    ------
    ScanError
        It leads out of the folder, by ``..``, an absolute path or a link; or is no file.
    """
    root = os.path.realpath(folder)
    try:
        real = os.path.realpath(os.path.join(root, file))
    except ValueError:  # a NUL byte
        raise ScanError(OUTSIDE) from None
    if os.path.isabs(file) or not _within(real, root):
        raise ScanError(OUTSIDE)
    if not os.path.isfile(real):
        raise ScanError(ABSENT)
    return real


def read_bytes(path: str, stamp: Stamp | None = None) -> bytes:
    """Return a file's content.

    Raises
    ------
    ScanError
        It is a link, too large for memory, or no longer what it was when its stamp was taken.
    """
    try:
        number = open_inside(path)
        with os.fdopen(number, "rb") as file:
            found = os.fstat(number)
            if found.st_size > LARGEST_FILE:
                raise ScanError(TOO_LARGE)
            if stamp is not None and stamp_of(found) != stamp:
                raise ScanError(CHANGED)
            return file.read()
    except OSError:
        raise ScanError(CLOSED) from None


def open_inside(path: str) -> int:
    """Open a regular file that was found inside the folder; a link put there since is refused."""
    number = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise ScanError(CLOSED)
    return number


def _within(real: str, root: str) -> bool:
    try:
        return os.path.commonpath([root, real]) == root
    except ValueError:  # another drive
        return False
