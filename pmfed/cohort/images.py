"""Picture files that a table lists, in a folder or a zip, into a block."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from pmfed.cohort.block import Block
from pmfed.cohort.contract.uses import NOT_MEASURED, of_files
from pmfed.cohort.imaging.archive import is_zip, reader_of
from pmfed.cohort.imaging.cache import Cache, key_of
from pmfed.cohort.imaging.failures import OUTSIDE, ScanError, report
from pmfed.cohort.imaging.fill import Made, fill
from pmfed.cohort.imaging.pictures import DARK, DEEP, SHALLOW, decoded
from pmfed.cohort.imaging.places import Places
from pmfed.cohort.imaging.quality import looked_at
from pmfed.cohort.reading import Reading
from pmfed.cohort.tables import Problems
from pmfed.modality import Images

MAKING = {"size", "fit", "channels", "bits", "transparent", "weights"}
"""What decides how a picture is made; what a network makes of it is kept by that."""


def read_pictures(reading: Reading[Images]) -> Block:
    """Read the picture of every record, one picture in memory at a time.

    A table lists files by their path inside a folder or a zip file. One that leads out of it, by ``..``, an absolute path or a
    link, is a problem and is not opened. File names are never told: they often hold a patient's id.

    Returns
    -------
    Block
        ``inputs`` (R, C, H, W), or (R, F) of what the network makes of them; zeros and not present where there is no picture.
    """
    spec, places, problems = reading.spec, reading.places, reading.problems
    files, path, source = reading.listed(spec.file), reading.table(), reading.place(spec.folder)
    nothing = reading.absent()
    inputs, present = nothing.inputs, nothing.present
    wanted: dict[str, list[int]] = {}
    for record, file in enumerate(files):
        if file:
            wanted.setdefault(file, []).append(record)
    cache = Cache(places.cache if places.backbone is not None else None)
    with ExitStack() as stack:
        try:
            read = reader_of(source, stack)
        except ScanError:
            what = "cannot be read as a zip file" if is_zip(source) else "there is no such folder"
            problems.add(f"{source}: {what}.", "Check the path in [data] of site.toml.")
            return nothing
        filled = fill(
            wanted, lambda file: _made(spec, read(file), cache, places), str, inputs, present, places.decoding
        )
    counts = +filled.totals
    counts["pictures"] = len(wanted) - len(filled.failed)
    if places.backbone is not None:
        counts["pictures from the cache"] = cache.hits
    warnings = list[str]()
    listed = places.note(filled.failed)
    fatal = {one: why for one, why in filled.failed.items() if why == OUTSIDE or not spec.skip_unreadable}
    lines = reading.lines()
    first = {why: _first(filled.failed, why, wanted, lines) for why in fatal.values()}
    what = f"{path}: column '{spec.file}': listed files in {source}"
    report(what, Counter(fatal.values()), len(wanted), problems, listed, first)
    for why, number in sorted((Counter(filled.failed.values()) - Counter(fatal.values())).items()):
        warnings.append(f"{what} that {why}, left out: {number:,} of {len(wanted):,}.{listed}")
    _check_depth(spec, what, filled.scans, problems, warnings)
    seen, told = looked_at(f"{source}: pictures", inputs, present, reading.patients)
    if cache.failed:
        told.append("the cache cannot be written; the next start will be as slow as this one.")
    lost = Counter(filled.failed.values())
    uses = {"picture": of_files(len(wanted) - lost.total(), lost, {NOT_MEASURED: sum(not file for file in files)})}
    return Block(inputs, present, counts={**counts, **seen}, warnings=(*warnings, *told), uses=uses)


def _made(spec: Images, content: bytes, cache: Cache, places: Places) -> Made:
    """Return one picture; through a network from the cache, or into it."""
    if places.backbone is None:
        return decoded(spec, content)
    key = key_of([hashlib.sha256(content).hexdigest()], spec.model_dump(mode="json", include=MAKING))
    if kept := cache.load(key, spec.shape):
        return kept
    picture, seen = decoded(spec, content)
    features = places.seen(picture)
    cache.store(key, features, seen)
    return features, seen


def _first(failed: Mapping[str, str], why: str, wanted: Mapping[str, Sequence[int]], rows: Sequence[int]) -> int:
    return min(rows[record] for file, reason in failed.items() if reason == why for record in wanted[file])


def _check_depth(spec: Images, what: str, seen: Counter[str], problems: Problems, warnings: list[str]) -> None:
    """Tell of numbers that use a part of their 16 bits: of twelve, most pictures would be nearly black."""
    remedy = "Say how many they have with 'bits' in the study: 12, or 16 if they are merely dark."
    if spec.bits is not None or not seen[DEEP]:
        return
    if seen[SHALLOW] == seen[DEEP]:
        problems.add(f"{what} of 16 bits that use twelve of them at most: all {seen[DEEP]:,}.", remedy)
    elif seen[DARK] == seen[DEEP]:
        warnings.append(f"{what} of 16 bits that use fifteen of them at most: all {seen[DEEP]:,}. {remedy}")
