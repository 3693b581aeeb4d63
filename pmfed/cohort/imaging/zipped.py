"""PNG and JPEG files in a zip, read one at a time and never unpacked to disk."""

from __future__ import annotations

import io
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pmfed.cohort.images import scaled_pixels
from pmfed.cohort.imaging.failures import ABSENT, BOMB, DAMAGED, OTHER_SIZE, ScanError, as_scan_error, report
from pmfed.cohort.tables import Problems
from pmfed.modality import Images

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


def read_zipped_images(
    spec: Images, files: Sequence[str], archive: Path, path: Path, problems: Problems
) -> NDArray[np.float32]:
    """Read the image of every record, as `pmfed.cohort.images.read_images` does from a folder.

    Parameters
    ----------
    spec
        Size, channels, mean and scale of the study.
    files
        Per record the member's name; "" for a record without an image.
    archive
        The zip file.
    path, problems
        The table that lists the files, for messages, and where these are gathered. Names are never told.

    Returns
    -------
    (R, C, H, W) float32
        Zeros where there is no image.
    """
    images = np.zeros((len(files), spec.channels, *spec.size), dtype=np.float32)
    failed: dict[str, str] = {}
    seen: dict[str, int] = {}
    try:
        members = Archive(archive)
    except ScanError:
        problems.add(f"{archive}: cannot be read as a zip file.", "Check the path in [data] of site.toml.")
        return images
    for record, name in enumerate(files):
        if not name:
            continue
        if name in seen:
            images[record] = images[seen[name]]
            continue
        seen[name] = record
        try:
            images[record] = decoded(spec, members.read(name))
        except ScanError as error:
            failed[name] = error.reason
    members.close()
    report(f"{path}: column '{spec.file}': listed files in {archive}", Counter(failed.values()), len(seen), problems)
    return images


def decoded(spec: Images, content: bytes) -> NDArray[np.float32]:
    """Return the picture (C, H, W) in a PNG or JPEG file; ScanError where it is damaged or of another size."""
    with as_scan_error(DAMAGED), Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:
        # The header tells the size, so a file of another size is never decoded.
        if (image.height, image.width) != spec.size:
            raise ScanError(OTHER_SIZE)
        return scaled_pixels(image, spec)
