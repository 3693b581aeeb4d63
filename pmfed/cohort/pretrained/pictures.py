"""Pictures listed in a table, each through the public network once; what it made of them is kept by content."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from pmfed.cohort.block import Block
from pmfed.cohort.imaging.cache import Cache, key_of
from pmfed.cohort.imaging.failures import ABSENT, ScanError, report
from pmfed.cohort.imaging.fill import Made, fill
from pmfed.cohort.imaging.inside import read_bytes, resolve
from pmfed.cohort.imaging.places import Places
from pmfed.cohort.imaging.zipped import Archive, decoded
from pmfed.cohort.tables import Problems
from pmfed.modality import Images

MAKING = {"size", "channels", "weights"}


def read_features(
    spec: Images, files: Sequence[str], source: Path, path: Path, problems: Problems, places: Places
) -> Block:
    """Read the features of every record's picture, one picture in memory at a time.

    Parameters
    ----------
    spec
        Size, channels and weights of the study.
    files
        Per record the file's path inside ``source``; "" for a record without a picture.
    source
        The folder, or the zip file, the pictures lie in.
    path, problems
        The table that lists the files, for messages, and where these are gathered. File names are never told.
    places
        Network, cache and progress.

    Returns
    -------
    Block
        ``inputs`` (R, F), final.
    """
    inputs = np.zeros((len(files), *spec.shape), dtype=np.float32)
    present = np.zeros(len(files), dtype=bool)
    wanted: dict[str, list[int]] = {}
    for record, file in enumerate(files):
        if file:
            wanted.setdefault(file, []).append(record)
    cache, making = Cache(places.cache), spec.model_dump(mode="json", include=MAKING)

    def made(content: bytes) -> Made:
        key = key_of([hashlib.sha256(content).hexdigest()], making)
        if kept := cache.load(key, spec.shape):
            return kept
        features = places.seen(decoded(spec, content))
        cache.store(key, features, {})
        return features, {}

    with ExitStack() as opened:
        try:
            read = _opened(source, opened)
        except ScanError:
            what = "cannot be read as a zip file" if _zipped(source) else "there is no such folder"
            problems.add(f"{source}: {what}.", "Check the path in [data] of site.toml.")
            return Block(inputs, present)
        filled = fill(wanted, lambda file: made(read(file)), str, inputs, present, places.decoding)
    listed = f"{path}: column '{spec.file}': listed files in {source}"
    report(listed, Counter(filled.failed.values()), len(wanted), problems)
    counts = {"pictures": len(wanted) - len(filled.failed), "pictures from the cache": cache.hits}
    warnings = ("the cache cannot be written; the next start will be as slow as this one.",) if cache.failed else ()
    return Block(inputs, present, counts=counts, warnings=warnings)


def _opened(source: Path, opened: ExitStack) -> Callable[[str], bytes]:
    """Return what reads a file's content by its name."""
    if _zipped(source):
        archive = Archive(source)
        opened.callback(archive.close)
        return archive.read
    if not source.is_dir():
        raise ScanError(ABSENT)
    return lambda file: read_bytes(resolve(source, file))


def _zipped(source: Path) -> bool:
    return source.suffix.lower() == ".zip"
