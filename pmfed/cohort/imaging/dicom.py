"""A DICOM folder into a block: one scan per record, chosen by its headers."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pmfed.cohort.block import Block
from pmfed.cohort.imaging.assemble import MISSING, TILTED, Need, assemble, needed
from pmfed.cohort.imaging.cache import Cache, key_of
from pmfed.cohort.imaging.choice import choose_all
from pmfed.cohort.imaging.failures import BURNED_IN, OUTSIDE, REMEDIES, report
from pmfed.cohort.imaging.fill import Filled, Made, fill
from pmfed.cohort.imaging.index import Index, read_index
from pmfed.cohort.imaging.inside import read_bytes
from pmfed.cohort.imaging.owners import Owners
from pmfed.cohort.imaging.places import Places
from pmfed.cohort.imaging.series import Found, Selection, select
from pmfed.cohort.tables import Problems
from pmfed.modality.scans import MAKING, Dicom

BY_NUMBER = "by number"


def read_dicom(
    spec: Dicom,
    source: Path,
    patients: Sequence[str],
    when: NDArray[np.datetime64] | None,
    problems: Problems,
    *,
    link: Path | None = None,
    patient: str = "patient_id",
    places: Places | None = None,
) -> Block:
    """Read the scan of every record.

    Parameters
    ----------
    spec
        Which series, and what is made of them.
    source
        The DICOM folder, of any structure. Nothing outside it is opened.
    patients
        (R,) the patient of each record.
    when
        (R,) datetime64[s], the index date of each record; only scans before it are used, none at it and none without a
        date. None when the study has no index date.
    problems
        Where what is wrong is gathered: counts, never a name, a file or a date.
    link, patient
        The table of ``spec.link``, and its column with the patient's id.
    places
        Cache, list of unreadable files, progress.

    Returns
    -------
    Block
        ``inputs`` (R, C, H, W) or (R, C, D, H, W), final. Records without a scan are zeros and not present.

    Raises
    ------
    DataError
        pydicom is not installed.
    """
    places = places or Places()
    inputs = np.zeros((len(patients), *spec.shape), dtype=np.float32)
    present = np.zeros(len(patients), dtype=bool)
    if not source.is_dir():
        problems.add(f"{source}: there is no such folder.", "Check the path in [data] of site.toml.")
        return Block(inputs, present)
    index = read_index(source, places.cache, places.indexing)
    faults = {path: entry.state for path, entry in index.entries.items() if entry.state in REMEDIES} | index.refused
    counts, warnings = Counter(index.states), list[str]()
    owners = Owners.read(spec.link, link, patient, problems)
    total = len(index.entries) + len(index.refused)
    if _stops(spec, source, faults, total, places, problems, warnings) or owners is None:
        return Block(inputs, present, counts=counts, warnings=tuple(warnings))

    selection = select(spec, index.pictures, owners, set(patients))
    wanted = choose_all(selection.by_patient, patients, when, spec.series.take, counts)
    burned = sum(found.may_show_text for found in wanted)
    if burned and spec.burned_in == "stop":
        report(f"{source}: series", {BURNED_IN: burned}, len(wanted), problems)
        return Block(inputs, present, counts=counts + selection.counts, warnings=tuple(warnings))
    cache = Cache(places.cache)
    filled = fill(
        wanted, lambda found: _scan(spec, found, index, cache, places), lambda found: found.files[0][0],
        inputs, present, places.decoding,
    )  # fmt: skip
    kept = index.keep() and not cache.failed
    if filled.failed:
        listed = places.note(faults | filled.failed)
        if spec.skip_unreadable:
            warnings.append(
                f"{source}: series left out as unreadable: {len(filled.failed):,} of {len(wanted):,}.{listed}"
            )
        else:
            report(f"{source}: series", Counter(filled.failed.values()), len(wanted), problems, listed)
    counts += selection.counts
    counts += Counter({"scans": len(wanted) - len(filled.failed), "scans from the cache": cache.hits})
    counts += Counter({"scans that may show burned-in text": burned, "slices filled in": filled.totals[MISSING]})
    _warn(source, selection, filled, warnings)
    if not kept:
        warnings.append("the cache cannot be written; the next start will be as slow as this one.")
    return Block(inputs, present, counts=counts, warnings=tuple(warnings))


def _stops(
    spec: Dicom,
    source: Path,
    faults: dict[str, str],
    total: int,
    places: Places,
    problems: Problems,
    warnings: list[str],
) -> bool:
    """Report files that cannot be read; return whether the study goes no further because of them."""
    listed = places.note(faults)
    fatal = {path: why for path, why in faults.items() if why == OUTSIDE or not spec.skip_unreadable}
    report(f"{source}: files", Counter(fatal.values()), total, problems, listed)
    for why, number in sorted((Counter(faults.values()) - Counter(fatal.values())).items()):
        warnings.append(f"{source}: files left out that {why}: {number:,} of {total:,}.{listed}")
    return bool(fatal)


def _scan(spec: Dicom, found: Found, index: Index, cache: Cache, places: Places) -> Made:
    """Return one scan: from the cache, or from the files, which then go into the cache."""
    need = needed(spec, found)
    values, counts = _made(spec, need, index, cache, places)
    return values, {**counts, BY_NUMBER: int(need.by_number)}


def _made(spec: Dicom, need: Need, index: Index, cache: Cache, places: Places) -> Made:
    root = os.path.realpath(index.folder)
    files = [(path, os.path.join(root, path), index.entries[path].stamp) for path, _ in need.files]
    if not cache.used:
        picture, counts = assemble(spec, need, (read_bytes(real, stamp) for _, real, stamp in files))
        return places.seen(picture), counts
    making = spec.model_dump(mode="json", include=MAKING)
    known = [index.entries[path].digest for path, _ in need.files]
    if None not in known and (kept := cache.load(key_of(map(str, known), making), spec.shape)):
        return kept
    contents, digests = [], []
    for path, real, stamp in files:
        contents.append(read_bytes(real, stamp))
        digests.append(hashlib.sha256(contents[-1]).hexdigest())
        index.note_digest(path, digests[-1])
    key = key_of(digests, making)
    if digests != known and (kept := cache.load(key, spec.shape)):
        return kept
    picture, counts = assemble(spec, need, _let_go(contents))
    values = places.seen(picture)
    cache.store(key, values, counts)
    return values, counts


def _let_go(contents: list[bytes]) -> Iterator[bytes]:
    """Yield every file once and forget it."""
    contents.reverse()
    while contents:
        yield contents.pop()


def _warn(source: Path, selection: Selection, filled: Filled, warnings: list[str]) -> None:
    told = {
        TILTED: "volumes scanned with a tilted gantry, used as they are (sheared)",
        MISSING: "volumes that lack slices in between, which are filled in from their neighbours",
        BY_NUMBER: "series whose pictures have no position: the one in the middle by number is used",
    }
    warnings += [f"{source}: {what}: {filled.scans[seen]:,}." for seen, what in told.items() if filled.scans[seen]]
    if not selection.by_patient and selection.counts["series that fit"]:
        warnings.append(
            f"{source}: {selection.counts['series that fit']:,} series fit the study, and none is of a patient of the "
            "cohort. Is PatientID the patient's id in the cohort's table? If not, the study needs 'link'."
        )
    elif not selection.counts["series that fit"]:
        warnings.append(f"{source}: no series fits the study's 'series'; see the counts.")
