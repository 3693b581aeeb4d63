"""A site's files into patients: one way for a study's patients and for those whom a prediction is made for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pmfed.cohort.asked import Asked, NewPatients, StudyPatients
from pmfed.cohort.block import Block
from pmfed.cohort.cohort import Bools, Cohort, Findings
from pmfed.cohort.contract.times import Moments
from pmfed.cohort.encode import encode
from pmfed.cohort.imaging.places import Places
from pmfed.cohort.leaks import check_leaks
from pmfed.cohort.readers import READERS, read_block
from pmfed.cohort.reading import MaskReading, Reading
from pmfed.cohort.records import Records, labels_of, read_records
from pmfed.cohort.sheets import Sheet, modalities_at, read_sheets
from pmfed.cohort.tables import Problems
from pmfed.errors import DataError
from pmfed.modality import Modality
from pmfed.study import Study
from pmfed.study.outcome import Masks

Sources = Mapping[str, Path | str]

EVERYBODY = NewPatients()


@dataclass(frozen=True, eq=False, repr=False)
class _Inputs:
    """What was read of a site before any outcome: records, and a block of each modality.

    ``readings`` are those of the modalities that the site has; ``when`` the index dates, None where the study has none.
    """

    sheets: Mapping[str, Sheet]
    records: Records
    when: Moments | None
    readings: Mapping[str, Reading[Any]]
    blocks: Mapping[str, Block]
    problems: Problems
    warnings: list[str]


@dataclass(frozen=True, eq=False)
class Unlabelled:
    """Patients whose outcome nobody knows yet. Its repr shows counts only.

    Attributes
    ----------
    cohort
        Targets are zeros that mean nothing, and nobody is in training.
    labels : tuple of R str
        The study's name for each record, "" where a patient has one only.
    outside : dict of (R,) bool
        Per ``modality.feature`` the records whose value lies outside what the study allows.
    when : (R,) datetime64[s] or None
        The moment of each record's prediction.
    """

    cohort: Cohort
    labels: tuple[str, ...] = field(repr=False)
    outside: dict[str, Bools] = field(repr=False)
    when: Moments | None = field(repr=False)


def read_cohort(study: Study, sources: Sources, site: str, places: Places | None = None) -> Cohort:
    """Read a site's files into the cohort a study asks for.

    Parameters
    ----------
    study
        What to read.
    sources
        Tables and folders of the site by the names the study uses. A modality whose table or folder the site
        does not have is absent there: zeros, and present nowhere.
    site
        The site's name, for messages.
    places
        Cache and progress for what takes long to read.

    Raises
    ------
    DataError
        The files do not hold what the study needs; every problem found is listed, with counts.
    """
    read = _read_inputs(study, sources, site, places or Places(), StudyPatients())
    for split, size in (("training", read.records.training.sum()), ("held-out", (~read.records.training).sum())):
        if not size:
            read.warnings.append(f"there are no {split} patients.")
    if study.outcome.masks is not None:
        targets: NDArray[Any] = _read_masks(study, study.outcome.masks, sources, read)
        read.problems.raise_any()
    else:
        targets = read.records.targets.astype(study.outcome.dtype)
    return _cohort(read, targets)


def read_unlabelled(
    study: Study, sources: Sources, site: str, places: Places | None = None, asked: NewPatients = EVERYBODY
) -> Unlabelled:
    """Read a site's files into patients for whom a prediction is made, whatever their outcome.

    Parameters
    ----------
    study, sources, site, places
        As for `read_cohort`.
    asked
        Whom, and at which moment. Where the site has no cohort table, the patients named are the cohort.

    Raises
    ------
    DataError
        As `read_cohort`, or a patient asked for is not in the table.
    """
    read = _read_inputs(study, sources, site, places or Places(), asked)
    outside = {f"{name}.{key}": where for name, block in read.blocks.items() for key, where in block.outside.items()}
    cohort = _cohort(read, read.records.targets.astype(np.float32))
    return Unlabelled(cohort, labels_of(study, read.sheets, read.records), outside, read.when)


def _read_inputs(study: Study, sources: Sources, site: str, places: Places, asked: Asked) -> _Inputs:
    """Read who is there and what they have; every problem found is raised together."""
    problems, warnings = Problems(site), list[str]()
    here = modalities_at(study, sources, warnings)
    sheets = read_sheets(study, sources, here, asked, problems, warnings)
    problems.raise_any()
    records = read_records(study, sheets, here, asked, problems, warnings)
    if records is None:
        _look_further(sheets, here, asked, problems)
        problems.raise_any()
    assert records is not None
    when = _moments(study, sheets, records, asked, problems)
    patients = [records.ids[owner] for owner in records.owner]
    readings: dict[str, Reading[Any]] = {}
    blocks: dict[str, Block] = {}
    for name, modality in sorted(study.modalities.items()):
        if name not in here:
            blocks[name] = Block.absent(len(records.owner), modality.shape)
            continue
        readings[name] = Reading(
            spec=modality, sources=sources, patients=patients, when=when, problems=problems,
            patient=study.cohort.patient, places=_own(places, name), lenient=asked.lenient,
            sheet=sheets.get(modality.joined or ""), rows=records.rows.get(modality.joined or ""),
        )  # fmt: skip
        block = read_block(readings[name])
        warnings += block.warnings
        if asked.labelled and study.outcome.columns and not problems:
            check_leaks(block, records, problems, warnings)
        blocks[name] = replace(block, raw={})  # as large as the inputs, and needed for nothing else
    problems.raise_any()
    warnings += [f"modality '{name}' is absent: no patient of the cohort has it." for name in _absent(readings, blocks)]
    if not any(block.present.any() for block in blocks.values()):
        raise DataError(f"site '{site}': no patient has any of the study's modalities.", "Check [data] in site.toml.")
    return _Inputs(sheets, records, when, readings, blocks, problems, warnings)


def _look_further(sheets: Mapping[str, Sheet], here: Mapping[str, Modality], asked: Asked, problems: Problems) -> None:
    """Look for whatever else is wrong in the tables: nothing will come of this reading, and all is said at once."""
    for modality in here.values():
        if modality.by_column and modality.joined is not None:
            sheet = sheets[modality.joined]
            encode(modality, sheet.frame, sheet.path, problems, lenient=asked.lenient)


def _moments(
    study: Study, sheets: Mapping[str, Sheet], records: Records, asked: Asked, problems: Problems
) -> Moments | None:
    """Return the index date of each record, or the moment that is asked for; None where the study has none."""
    if asked.at is not None:
        return np.full(len(records.owner), asked.at.astype("datetime64[s]"))
    cohort = study.cohort
    if cohort.index is None:
        return None
    return sheets[cohort.table].moments(cohort.index, records.rows[cohort.table], problems, first=True)


def _own(places: Places, name: str) -> Places:
    """Return places with a list of unreadable files for this modality alone: reading another would delete it."""
    return (
        places if places.detail is None else replace(places, detail=places.detail.with_name(f"unreadable-{name}.txt"))
    )


def _absent(readings: Mapping[str, Reading[Any]], blocks: Mapping[str, Block]) -> Iterator[str]:
    return (name for name in readings if not blocks[name].present.any())


def _read_masks(study: Study, outcome: Masks, sources: Sources, read: _Inputs) -> NDArray[np.uint8]:
    """Read the masks of a segmentation; the study saw to it that listed images and masks stand in one row."""
    ((name, modality),) = study.modalities.items()
    records, source, table = read.records, outcome.folder, study.cohort.table
    masks = READERS[modality.kind].masks
    if source not in sources or masks is None:
        read.problems.add(f"there is no source '{source}', the folder of the masks.", "Add it to [data] in site.toml.")
        return np.zeros((len(records.owner), *modality.shape[1:]), dtype=np.uint8)
    return masks(
        MaskReading(
            read.readings[name], outcome, Path(sources[source]), read.sheets[table], records.rows[table],
            read.blocks[name].present,
        )
    )  # fmt: skip


def _cohort(read: _Inputs, targets: NDArray[Any]) -> Cohort:
    records, blocks = read.records, read.blocks
    return Cohort(
        ids=records.ids,
        owner=records.owner,
        training=records.training,
        inputs={name: block.inputs for name, block in blocks.items()},
        present={name: block.present for name, block in blocks.items()},
        targets=targets,
        findings=Findings(
            dropped_no_outcome=records.dropped_no_outcome,
            dropped_no_consent=records.dropped_no_consent,
            dropped_over_cap=records.dropped_over_cap,
            missing={f"{name}.{key}": gaps for name, block in blocks.items() for key, gaps in block.missing.items()},
            counts={f"{name}: {what}": seen for name, block in blocks.items() for what, seen in block.counts.items()},
            warnings=tuple(read.warnings),
            uses={f"{name}.{key}": use for name, block in blocks.items() for key, use in block.uses.items()},
        ),
    ).recounted()
