"""PNG and JPEG files into one array of images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pmfed.cohort.tables import Problems
from pmfed.modality import Images

_REMEDIES = {
    "lie outside the folder": "List files by their path inside the folder; links out of it are not followed.",
    "do not exist": "Check the folder in [data] of site.toml and the file names.",
    "cannot be read as PNG or JPEG": "Convert or remove them.",
    "have another size than the study's": "Bring the images to that size first; nothing is resized silently.",
}


def read_images(
    spec: Images, files: Sequence[str], folder: Path, path: Path, problems: Problems
) -> NDArray[np.float32]:
    """Read the image of every record.

    Parameters
    ----------
    spec
        Size, channels, mean and scale of the study.
    files
        Per record the file's path inside ``folder``; "" for a record without an image.
    folder
        Where the files lie. A listed file that leads out of it, by ``..``, an absolute path or a link, is a
        problem and is not opened.
    path, problems
        The table that lists the files, for messages, and where these are gathered. File names are never
        told: they often hold a patient's id.

    Returns
    -------
    (R, C, H, W) float32
        ``(x / 255 - mean) / scale`` (16-bit grey images: ``x / 65535``), zeros where there is no image.
    """
    images = np.zeros((len(files), spec.channels, *spec.size), dtype=np.float32)
    if not folder.is_dir():
        problems.add(f"{folder}: there is no such folder.", "Check the path in [data] of site.toml.")
        return images
    root = os.path.realpath(folder)
    seen: dict[str, int] = {}
    failures = dict.fromkeys(_REMEDIES, 0)
    for record, file in enumerate(files):
        if not file:
            continue
        if file in seen:
            images[record] = images[seen[file]]
            continue
        seen[file] = record
        failure = _read(spec, file, root, images[record])
        if failure:
            failures[failure] += 1
    for failure, number in failures.items():
        if number:
            size = f" {spec.size[0]} x {spec.size[1]} pixels" if "size" in failure else ""
            problems.add(
                f"{path}: column '{spec.file}': listed files in {folder} that {failure}{size}: {number:,}.",
                _REMEDIES[failure],
            )
    return images


def _read(spec: Images, file: str, root: str, out: NDArray[np.float32]) -> str:
    """Read one file into ``out``; return what failed, or "" when nothing did."""
    outside, absent, unreadable, size = _REMEDIES
    try:
        real = os.path.realpath(os.path.join(root, file))
        if os.path.isabs(file) or os.path.commonpath([root, real]) != root:
            return outside
    except ValueError:  # a NUL byte, or another drive
        return outside
    if not os.path.isfile(real):
        return absent
    try:
        with Image.open(real, formats=("PNG", "JPEG")) as image:
            # The header tells the size, so a file of another size is never decoded.
            if (image.height, image.width) != spec.size:
                return size
            out[...] = scaled_pixels(image, spec)
    except Exception:  # Pillow's decoders raise errors of many kinds; any of them means a damaged file
        return unreadable
    return ""


def scaled_pixels(image: Image.Image, spec: Images) -> NDArray[np.float32]:
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow would cut off at 255
        grey = np.asarray(image, dtype=np.float32)[None] / np.float32(65535)
        pixels = np.repeat(grey, spec.channels, axis=0)
    else:
        eight = np.asarray(image.convert("L" if spec.channels == 1 else "RGB"), dtype=np.float32)
        pixels = (eight[None] if spec.channels == 1 else eight.transpose(2, 0, 1)) / np.float32(255)
    mean, scale = spec.scaling
    scaled: NDArray[np.float32] = (pixels - np.float32(mean)) / np.float32(scale)
    return scaled
