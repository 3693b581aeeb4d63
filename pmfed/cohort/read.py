"""A site's files into patients: one way for a study's patients and for those whom a prediction is made for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pmfed.cohort.block import Block
from pmfed.cohort.cohort import Bools, Cohort, Findings
from pmfed.cohort.contract.times import Moments
from pmfed.cohort.contract.uses import told
from pmfed.cohort.encode import encode
from pmfed.cohort.imaging.places import Places
from pmfed.cohort.leaks import check_leaks
from pmfed.cohort.population import NewPatients, Population, StudyPatients
from pmfed.cohort.readers import read_block, reader_for
from pmfed.cohort.reading import MaskReading, Reading
from pmfed.cohort.records import Records, labels_of, read_records
from pmfed.cohort.sheets import Sheet, modalities_at, read_sheets
from pmfed.cohort.sql import one_state
from pmfed.cohort.tables import Problems
from pmfed.errors import DataError
from pmfed.modality import Modality
from pmfed.study import Study
from pmfed.study.outcome import Masks

Sources = Mapping[str, Path | str]

EVERYBODY = NewPatients()


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


@one_state()
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
    site_files = _Site(study, sources, places or Places(), StudyPatients(), Problems(site))
    read = site_files.read()
    for split, size in (("training", read.records.training.sum()), ("held-out", (~read.records.training).sum())):
        if not size:
            site_files.warnings.append(f"there are no {split} patients.")
    if study.outcome.masks is not None:
        return site_files.cohort(read, site_files.masks(read, study.outcome.masks))
    return site_files.cohort(read, read.records.targets.astype(study.outcome.dtype))


@one_state()
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
    site_files = _Site(study, sources, places or Places(), asked, Problems(site))
    read = site_files.read()
    outside = {f"{name}.{key}": where for name, block in read.blocks.items() for key, where in block.outside.items()}
    cohort = site_files.cohort(read, read.records.targets.astype(np.float32))
    return Unlabelled(cohort, labels_of(study, read.sheets, read.records), outside, read.when)


@dataclass(frozen=True, eq=False, repr=False)
class _Inputs:
    """What was read of a site before any outcome: tables, records, index dates, and a block of each modality.

    ``readings`` are those of the modalities that the site has.
    """

    sheets: Mapping[str, Sheet]
    records: Records
    when: Moments | None
    readings: Mapping[str, Reading[Any]]
    blocks: Mapping[str, Block]


@dataclass(frozen=True, eq=False, repr=False)
class _Site:
    """The files of a site, read once for one purpose; every problem found is raised together with the others."""

    study: Study
    sources: Sources
    places: Places
    population: Population
    problems: Problems
    warnings: list[str] = field(default_factory=list)

    def read(self) -> _Inputs:
        """Return who is there and what they have."""
        here = modalities_at(self.study, self.sources, self.warnings)
        sheets = read_sheets(self.study, self.sources, here, self.population, self.problems, self.warnings)
        self.problems.raise_any()
        records = read_records(self.study, sheets, here, self.population, self.problems, self.warnings)
        if records is None:
            self._look_further(sheets, here)
            self.problems.raise_any()
        assert records is not None
        when = self._moments(sheets, records)
        readings = {name: self._reading(name, modality, sheets, records, when) for name, modality in here.items()}
        blocks = {
            name: self._block(name, readings[name], records)
            if name in here
            else Block.absent(len(records.owner), one.shape)
            for name, one in sorted(self.study.modalities.items())
        }
        self.problems.raise_any()
        nobody = [name for name, block in blocks.items() if not block.present.any()]
        self.warnings.extend(
            f"modality '{one}' is absent: no patient of the cohort has it." for one in nobody if one in here
        )
        if len(nobody) == len(blocks):
            what = f"site '{self.problems.site}': no patient has any of the study's modalities."
            raise DataError(what, "Check [data] in site.toml.")
        return _Inputs(sheets, records, when, readings, blocks)

    def _look_further(self, sheets: Mapping[str, Sheet], here: Mapping[str, Modality]) -> None:
        """Look for whatever else is wrong in the tables: nothing will come of this reading, and all is said at once."""
        for modality in here.values():
            if modality.by_column and modality.joined is not None:
                sheet = sheets[modality.joined]
                encode(modality, sheet.frame, sheet.path, self.problems, lenient=self.population.lenient)

    def _moments(self, sheets: Mapping[str, Sheet], records: Records) -> Moments | None:
        """Return the index date of each record, or the moment that is asked for; None where the study has none."""
        if self.population.at is not None:
            return np.full(len(records.owner), self.population.at.astype("datetime64[s]"))
        table, column = self.study.cohort.table, self.study.cohort.index
        return None if column is None else sheets[table].moments(column, records.rows[table], self.problems, first=True)

    def _reading(
        self, name: str, modality: Modality, sheets: Mapping[str, Sheet], records: Records, when: Moments | None
    ) -> Reading[Any]:
        """Return what the reader of a modality is given."""
        places = self.places
        if places.detail is not None:  # a list of its own: reading another modality would delete it
            places = replace(places, detail=places.detail.with_name(f"unreadable-{name}.txt"))
        table = modality.joined or ""
        return Reading(
            spec=modality, sources=self.sources, patients=[records.ids[owner] for owner in records.owner], when=when,
            problems=self.problems, patient=self.study.cohort.patient, places=places, lenient=self.population.lenient,
            sheet=sheets.get(table), rows=records.rows.get(table),
        )  # fmt: skip

    def _block(self, name: str, reading: Reading[Any], records: Records) -> Block:
        """Read a modality, and see that no outcome stands among its inputs."""
        block = read_block(reading)
        self.warnings.extend(block.warnings)
        if not block.told:
            self.warnings.extend(told(f"modality '{name}'", block.uses))
        if self.population.labelled and self.study.outcome.columns and not self.problems:
            check_leaks(block, records, self.problems, self.warnings)
        return replace(block, raw={})  # as large as the inputs, and needed for nothing else

    def masks(self, read: _Inputs, outcome: Masks) -> NDArray[np.uint8]:
        """Read the masks of a segmentation; the study saw to it that listed images and masks stand in one row."""
        ((name, reading),) = read.readings.items()
        source, table = outcome.folder, self.study.cohort.table
        masks = reader_for(reading.spec.kind).masks
        assert masks is not None, "the study was checked"
        if source not in self.sources:
            what = f"there is no source '{source}', the folder of the masks."
            self.problems.add(what, "Add it to [data] in site.toml.")
            self.problems.raise_any()
        folder, rows = Path(self.sources[source]), read.records.rows[table]
        asked = MaskReading(reading, outcome, folder, read.sheets[table], rows, read.blocks[name].present)
        found = masks(asked)
        self.problems.raise_any()
        return found

    def cohort(self, read: _Inputs, targets: NDArray[Any]) -> Cohort:
        """Return the patients with what was read of them, and their outcomes."""
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
                missing={
                    f"{name}.{key}": gaps for name, block in blocks.items() for key, gaps in block.missing.items()
                },
                counts={
                    f"{name}: {what}": seen for name, block in blocks.items() for what, seen in block.counts.items()
                },
                warnings=tuple(self.warnings),
                uses={f"{name}.{key}": use for name, block in blocks.items() for key, use in block.uses.items()},
            ),
        ).recounted()
