"""A DICOM folder into a block: one scan per record, chosen by its headers."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from pmfed.cohort.block import Block
from pmfed.cohort.contract.uses import of_files
from pmfed.cohort.imaging.assemble import MISSING, TILTED, Need, assemble, needed
from pmfed.cohort.imaging.cache import Cache, key_of
from pmfed.cohort.imaging.choice import choose_all
from pmfed.cohort.imaging.failures import BURNED_IN, OUTSIDE, REMEDIES, report
from pmfed.cohort.imaging.fill import Filled, Made, fill, used
from pmfed.cohort.imaging.identity import check_twins
from pmfed.cohort.imaging.index import Index, read_index
from pmfed.cohort.imaging.inside import read_bytes
from pmfed.cohort.imaging.measures import STORED, UNSPECIFIED
from pmfed.cohort.imaging.owners import Owners
from pmfed.cohort.imaging.places import Places
from pmfed.cohort.imaging.quality import looked_at
from pmfed.cohort.imaging.series import FoundSeries, Selection, select
from pmfed.cohort.reading import Reading
from pmfed.cohort.tables import Problems
from pmfed.modality.scans import MAKING, Dicom

BY_NUMBER = "by number"
UNTOLD = "untold"


def read_dicom(reading: Reading[Dicom]) -> Block:
    """Read the scan of every record out of a DICOM folder of any structure. Nothing outside it is opened.

    Only scans before a record's index date are used, none at it and none without a date.

    Returns
    -------
    Block
        ``inputs`` (R, C, H, W) or (R, C, D, H, W), final. Records without a scan are zeros and not present.

    Raises
    ------
    DataError
        pydicom is not installed.
    """
    spec, patients, places, problems = reading.spec, reading.patients, reading.places, reading.problems
    source, nothing = reading.place(spec.folder), reading.absent()
    inputs, present = nothing.inputs, nothing.present
    if not source.is_dir():
        problems.add(f"{source}: there is no such folder.", "Check the path in [data] of site.toml.")
        return nothing
    index = read_index(source, places.cache, places.indexing)
    faults = {path: entry.state for path, entry in index.entries.items() if entry.state in REMEDIES} | index.refused
    counts, warnings = Counter(index.states), list[str]()
    owners = Owners.read(reading)
    total = len(index.entries) + len(index.refused)
    if _stops(spec, source, faults, total, places, problems, warnings) or owners is None:
        return Block(inputs, present, counts=counts, warnings=tuple(warnings))

    selection = select(spec, index.pictures, owners, set(patients))
    if len(selection.issuers) > 1:
        _note_issuers(source, len(selection.issuers), problems)
        return Block(inputs, present, counts=counts + selection.counts, warnings=tuple(warnings))
    wanted = choose_all(selection.by_patient, patients, reading.when, spec.series.take, counts)
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
    _warn_units(spec, source, wanted, warnings)
    seen, told = looked_at(f"{source}: scans", inputs, present, patients)
    counts, warnings = counts + seen, warnings + told
    if not kept:
        warnings.append("the cache cannot be written; the next start will be as slow as this one.")
    uses = used(wanted, filled, counts)
    if faults:
        uses["files"] = of_files(total - len(faults), Counter(faults.values()))
    return Block(inputs, present, counts=counts, warnings=tuple(warnings), uses=uses)


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


def _note_issuers(source: Path, number: int, problems: Problems) -> None:
    """Ids of several issuers: the same one may be two persons, and nobody said whose the cohort's are."""
    problems.add(
        f"{source}: the PatientIDs of the study's series were given by {number:,} issuers (IssuerOfPatientID); the same id may "
        "stand for two persons.",
        "Give the study a 'link' by patient whose column holds ID^^^ISSUER, as HL7 writes it.",
    )


def _scan(spec: Dicom, found: FoundSeries, index: Index, cache: Cache, places: Places) -> Made:
    """Return one scan: from the cache, or from the files, which then go into the cache."""
    check_twins(found, index)
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


def _warn_units(spec: Dicom, source: Path, wanted: Iterable[FoundSeries], warnings: list[str]) -> None:
    """Say what of a unit was taken on trust: where a header names none, and where the window is the scan's own."""
    units = Counter[str]()
    for found in wanted:
        header = found.files[0][1]
        if (
            header.frames == 1 and header.samples == 1
        ):  # of many frames each says its own, which is looked at with its pixels
            units[header.quantity] += 1
            units[UNTOLD] += int(header.modality == "CT" and header.quantity in (STORED, UNSPECIFIED))
    untold = units.pop(UNTOLD, 0)
    if untold and spec.unit is None and not isinstance(spec.window, str):
        warnings.append(f"{source}: series of CT without a rescale to Hounsfield units, taken as they are: {untold:,}.")
    if len(units) > 1 and spec.unit is None and isinstance(spec.window, str):
        warnings.append(
            f"{source}: series in {len(units):,} units or none, which the window makes alike; does the study mean one?"
        )


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
