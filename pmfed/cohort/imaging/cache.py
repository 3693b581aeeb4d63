"""A site's cache of decoded scans, keyed by content: what was decoded once is read back."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pmfed.cohort.imaging.private import private_folder, write_private

FORM = 2  # raise it when the same files and study would decode to other numbers
STALE = 86400.0  # seconds after which a half-written file of a process that died is removed

Floats = NDArray[np.float32]


class Cache:
    """Tensors by the SHA-256 of what they were made of.

    An entry is a safetensors file with its own SHA-256 inside; one that is cut off, damaged or of another shape counts
    as absent and is written anew. Several processes may use one folder: an entry appears whole or not at all. The
    folder has rights 0700, files 0600; names and contents hold no header and no file name. Delete it whenever you like.

    Parameters
    ----------
    folder
        The site's folder for such things; the entries lie in ``scans`` below it. None keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder: Path | None = None
        self.hits = 0
        self.failed = False
        if folder is None:
            return
        try:
            private_folder(folder / "scans")
            self.folder = folder / "scans"
            _sweep(self.folder)
        except OSError:
            self.failed = True

    @property
    def used(self) -> bool:
        """Whether there is a folder to keep anything in."""
        return self.folder is not None

    def load(self, key: str, shape: tuple[int, ...]) -> tuple[Floats, dict[str, int]] | None:
        """Return an entry's tensor and the counts kept with it, or None."""
        if self.folder is None:
            return None
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self._path(key), framework="np") as file:
                told = file.metadata() or {}
                values: Floats = file.get_tensor("scan")
            counts = json.loads(told["counts"])
        except (OSError, KeyError, ValueError, SafetensorError):
            return None
        if values.dtype != np.float32 or values.shape != shape or told.get("sha256") != _digest(values, told["counts"]):
            return None
        self.hits += 1
        return values, counts

    def store(self, key: str, values: Floats, counts: Mapping[str, int]) -> None:
        """Keep an entry. Where it cannot be written, ``failed`` says so and nothing else happens."""
        if self.folder is None or self.failed:
            return
        from safetensors.numpy import save

        said = json.dumps(counts, sort_keys=True)
        values = np.ascontiguousarray(values, dtype=np.float32)
        content = save({"scan": values}, {"counts": said, "sha256": _digest(values, said)})
        path = self._path(key)
        try:
            if not path.parent.is_dir():
                private_folder(path.parent)
            write_private(path, content)
        except OSError:
            self.failed = True

    def _path(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / key[:2] / f"{key}.safetensors"


def key_of(digests: Iterable[str], spec: Mapping[str, object]) -> str:
    """Return the key of a scan.

    Parameters
    ----------
    digests
        SHA-256 of every file it is made of, in any order.
    spec
        What of the study decides how it is made, in JSON's types.
    """
    made = {"form": FORM, "libraries": _libraries(), "files": sorted(digests), "spec": spec}
    return hashlib.sha256(json.dumps(made, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@lru_cache(maxsize=1)
def _libraries() -> dict[str, str]:
    """Versions of what decodes: another version may decode otherwise."""
    found = {}
    for name in ("pydicom", "python-gdcm", "pylibjpeg-openjpeg", "pylibjpeg-libjpeg", "nibabel", "pillow"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _digest(values: Floats, counts: str) -> str:
    digest = hashlib.sha256(counts.encode())
    digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()


def _sweep(folder: Path) -> None:
    """Remove what processes that died have left half-written."""
    old = time.time() - STALE
    for path in folder.glob("*/.*.part"):
        try:
            if path.stat().st_mtime < old:
                os.unlink(path)
        except OSError:  # another process was first
            continue
