"""NIfTI files listed in a table into a block: one scan per record."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from pmfed.cohort.block import Block
from pmfed.cohort.imaging.cache import Cache, key_of
from pmfed.cohort.imaging.choice import choose_all
from pmfed.cohort.imaging.digests import Digests
from pmfed.cohort.imaging.failures import report
from pmfed.cohort.imaging.fill import Made, fill, used
from pmfed.cohort.imaging.fit import finished, oriented, windowed
from pmfed.cohort.imaging.header import moment
from pmfed.cohort.imaging.inside import read_bytes, resolve
from pmfed.cohort.imaging.libraries import require
from pmfed.cohort.imaging.nifti import decode_nifti
from pmfed.cohort.imaging.places import Places
from pmfed.cohort.imaging.quality import looked_at
from pmfed.cohort.reading import Reading
from pmfed.cohort.tables import MISSING, count, labels, read_table
from pmfed.errors import DataError
from pmfed.modality.scans import MAKING, Nifti

NOT_NUMBERS = "voxels that are not numbers"


@dataclass(frozen=True, eq=False, repr=False)
class Listed:
    """One file of the table."""

    file: str
    taken: int | None

    @property
    def tie(self) -> tuple[int, str]:
        """Files of one moment are told apart by name."""
        return 0, self.file


def read_nifti(reading: Reading[Nifti]) -> Block:
    """Read the scan of every record out of a folder. Nothing outside it is opened.

    Only scans before a record's index date are used, none at it and none without a date.

    Returns
    -------
    Block
        ``inputs`` (R, 1, H, W) or (R, 1, D, H, W), final. Records without a scan are zeros and not present.

    Raises
    ------
    DataError
        nibabel is not installed.
    """
    require("nibabel")
    spec, patients, places, problems = reading.spec, reading.patients, reading.places, reading.problems
    source, table, nothing = reading.place(spec.folder), reading.path(spec.table), reading.absent()
    inputs, present = nothing.inputs, nothing.present
    if not source.is_dir():
        problems.add(f"{source}: there is no such folder.", "Check the path in [data] of site.toml.")
        return nothing
    if reading.when is not None and spec.date is None:
        problems.add(
            f"{table}: the study has an index date, but does not say in which column the day of a scan stands.",
            "Add 'date' to the modality, or a scan from after the index date could become an input.",
        )
        return nothing
    counts, warnings = Counter[str](), list[str]()
    try:
        by_patient = _read(spec, table, reading.patient, set(patients), counts)
    except DataError as error:
        problems.note(error)
        return nothing
    wanted = choose_all(by_patient, patients, reading.when, spec.take, counts)
    cache, digests = Cache(places.cache), Digests(source, places.cache)
    filled = fill(
        wanted, lambda one: _scan(spec, one, source, digests, cache, places), lambda one: one.file,
        inputs, present, places.decoding,
    )  # fmt: skip
    kept = digests.keep() and not cache.failed
    listed = places.note(filled.failed)
    if spec.skip_unreadable and filled.failed:
        warnings.append(f"{source}: scans left out as unreadable: {len(filled.failed):,} of {len(wanted):,}.{listed}")
    else:
        report(f"{source}: listed files", Counter(filled.failed.values()), len(wanted), problems, listed)
    if number := filled.scans[NOT_NUMBERS]:
        warnings.append(f"{source}: scans that hold {NOT_NUMBERS}, which count as black: {number:,}.")
    seen, told = looked_at(f"{source}: scans", inputs, present, patients)
    counts, warnings = counts + seen, warnings + told
    if not kept:
        warnings.append("the cache cannot be written; the next start will be as slow as this one.")
    counts += Counter({"scans": len(wanted) - len(filled.failed), "scans from the cache": cache.hits})
    return Block(inputs, present, counts=counts, warnings=tuple(warnings), uses=used(wanted, filled, counts))


def _read(spec: Nifti, table: Path, patient: str, cohort: set[str], counts: Counter[str]) -> dict[str, list[Listed]]:
    """Read which files belong to whom."""
    frame = read_table(table, [patient, spec.file, *([spec.date] if spec.date else [])])
    owners, files = _texts(frame[patient]), _texts(frame[spec.file])
    taken: list[int | None] = [None] * len(frame)
    if spec.date:
        days = _texts(frame[spec.date])
        taken = [moment(*_split(day)) for day in days]
        if wrong := sum(one is None and day not in MISSING for one, day in zip(taken, days, strict=True)):
            raise DataError(
                f"{table}: column '{spec.date}': {count(wrong, 'cell')} are no date.",
                "Write 2024-05-31 or 2024-05-31 14:05:00.",
            )
    by_patient: dict[str, list[Listed]] = {}
    for owner, file, one in zip(owners, files, taken, strict=True):
        if file in MISSING:
            continue
        if owner not in cohort:
            counts["files of patients outside the cohort"] += 1
            continue
        by_patient.setdefault(owner, []).append(Listed(file, one))
    if spec.date is None and (several := sum(len(found) > 1 for found in by_patient.values())):
        raise DataError(
            f"{table}: lists several files for {count(several, 'patient')}.",
            "Add 'date' to the modality, so that the latest can be taken, or list one.",
        )
    return by_patient


def _texts(column: pd.Series) -> list[str]:
    codes, distinct = labels(column)
    return [distinct[code] for code in codes]


def _split(written: str) -> tuple[str, str]:
    """Split ``2024-05-31T14:05:00`` into day and time as DICOM writes them."""
    day = re.fullmatch(r"(\d{4})-(\d\d)-(\d\d)(?:[ T](\d\d:\d\d(?::\d\d(?:\.\d+)?)?))?", written)
    return ("".join(day.group(1, 2, 3)), day[4] or "") if day else ("", "")


def _scan(spec: Nifti, one: Listed, source: Path, digests: Digests, cache: Cache, places: Places) -> Made:
    """Return one scan: from the cache, or from the file, which then goes into the cache."""
    path = resolve(source, one.file)
    making = spec.model_dump(mode="json", include=MAKING)
    stamp = digests.stamp(path)
    known = digests.of(path, stamp)
    if known is not None and (kept := cache.load(key_of([known], making), spec.shape)):
        return kept
    content = read_bytes(path, stamp)
    digest = hashlib.sha256(content).hexdigest()
    if stamp is not None:
        digests.note(path, stamp, digest)
    key = key_of([digest], making)
    if digest != known and (kept := cache.load(key, spec.shape)):
        return kept
    values, affine = decode_nifti(content, spec.volume)
    seen = {NOT_NUMBERS: int((~np.isfinite(values)).sum())}
    turned, spacing = oriented(values, affine, spec.orientation)
    if len(spec.size) == 3:
        made = finished(windowed(turned, spec.window), spacing, spec)
    else:
        flat = turned[len(turned) // 2].copy() if spec.view == "middle" else np.fmax.reduce(turned, axis=0)
        made = places.seen(finished(windowed(flat, spec.window), spacing[1:], spec))
    cache.store(key, made, seen)
    return made, seen
