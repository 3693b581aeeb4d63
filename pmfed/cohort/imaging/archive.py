"""Files in a zip, read one at a time and never unpacked to disk; or in a folder, from where nothing leads out."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from pmfed.cohort.imaging.failures import ABSENT, BOMB, DAMAGED, ScanError, as_scan_error
from pmfed.cohort.imaging.inside import read_bytes, resolve

LARGEST_MEMBER = 2**26  # bytes, unpacked
MOST_PACKED = 200  # times; pictures are packed already, so a zip makes them hardly smaller
SMALL = 2**20  # bytes: what unpacks to less may be packed as it likes


class Archive:
    """A zip file's members by name.

    Raises
    ------
    ScanError
        It is no zip file, or damaged.
    """

    def __init__(self, path: Path) -> None:
        with as_scan_error(DAMAGED):
            self._zip = zipfile.ZipFile(path)

    def close(self) -> None:
        """Close the file."""
        self._zip.close()

    def read(self, name: str) -> bytes:
        """Return a member's content.

        Raises
        ------
        ScanError
            There is no such member, it unpacks to more than a picture can be, or it is damaged or encrypted.
        """
        try:
            member = self._zip.getinfo(name)
        except KeyError:
            raise ScanError(ABSENT) from None
        bomb = member.file_size > SMALL and member.file_size > MOST_PACKED * max(1, member.compress_size)
        if bomb or member.file_size > LARGEST_MEMBER:
            raise ScanError(BOMB)
        with as_scan_error(DAMAGED), self._zip.open(member) as file:
            return file.read()  # never more than the size said; where that is a lie, the checksum is wrong


def is_zip(source: Path) -> bool:
    """Tell whether pictures lie in a zip rather than a folder."""
    return source.suffix.lower() == ".zip"


def reader_of(source: Path, opened: ExitStack) -> Callable[[str], bytes]:
    """Return what reads a listed file's content by its name; ``opened`` closes what is opened for it.

    Raises
    ------
    ScanError
        There is no such folder, or it is no zip file.
    """
    if is_zip(source):
        archive = Archive(source)
        opened.callback(archive.close)
        return archive.read
    if not source.is_dir():
        raise ScanError(ABSENT)
    return lambda file: read_bytes(resolve(source, file))
