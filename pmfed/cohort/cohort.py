"""A site's files into patients: records joined by patient, masks for what is missing, training and held-out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pmfed.cohort.block import Block
from pmfed.cohort.centres import taken_away
from pmfed.cohort.contract.refused import Refused
from pmfed.cohort.contract.times import NEVER, Moments
from pmfed.cohort.contract.uses import Use, told
from pmfed.cohort.contract.written import written_of
from pmfed.cohort.detected import proposal
from pmfed.cohort.ehr import read_signals
from pmfed.cohort.encode import Encoded, chance_equal, encode
from pmfed.cohort.files import read_block
from pmfed.cohort.images import read_pictures
from pmfed.cohort.imaging.masks import read_masks
from pmfed.cohort.imaging.places import Places
from pmfed.cohort.imaging.segments import read_segmentations
from pmfed.cohort.records import Records, Sheet, modalities_at, path_of, read_records, read_sheets
from pmfed.cohort.sql import one_state
from pmfed.cohort.tables import MISSING, Problems, count, dates_of, first_row, labels
from pmfed.cohort.unlabelled import Unlabelled
from pmfed.errors import DataError
from pmfed.modality import (
    SCANS,
    Dicom,
    Events,
    EventSequence,
    Genotypes,
    Images,
    Modality,
    Nifti,
    Numeric,
    Signals,
    Table,
    shape_of,
)
from pmfed.study import Study

if TYPE_CHECKING:
    from pmfed.cohort.statistics import Statistics

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

LEAK = 1e-4  # an input that equals the outcome is refused when chance alone does that less often


@dataclass(frozen=True)
class Findings:
    """What reading a site's files found. Counts only, never a value of a patient.

    ``missing`` counts records per ``modality.feature`` among those that have the modality; ``coverage`` counts
    patients per modality; ``counts`` holds whatever else readers saw; ``uses`` tells per
    ``modality.feature`` what became of its values. Of a selection, ``missing``, ``counts`` and what was dropped stay those of the reading.
    """

    patients: int = 0
    records: int = 0
    training: int = 0
    held_out: int = 0
    dropped_no_outcome: int = 0
    dropped_no_consent: int = 0
    dropped_over_cap: int = 0
    missing: Mapping[str, int] = field(default_factory=dict)
    coverage: Mapping[str, int] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    uses: Mapping[str, Use] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Cohort:
    """P patients with R records. Its repr shows counts only.

    Attributes
    ----------
    ids : tuple of P str
        Patient ids, ascending. They never leave the site.
    owner : (R,) int64
        Patient of each record, ascending.
    training : (P,) bool
        Who is trained on; the others are held out.
    inputs : dict of (R, F) or (R, C, H, W) float32
        Per modality, as `Study.inputs` orders them. NaN only where an input without public mean and scale is
        missing and `scaled` was not called yet.
    present : dict of (R,) bool
        Whether the record has the modality; where not, its inputs are 0.
    targets : (R,) float32 or int64, or (R, ...)
        0 or 1 (binary), natural units (regression), the class (multiclass, int64), the class of every pixel
        (segmentation, uint8), or time and event (survival, (R, 2)).
    findings : Findings
    """

    ids: tuple[str, ...] = field(repr=False)
    owner: Ints = field(repr=False)
    training: Bools = field(repr=False)
    inputs: dict[str, NDArray[np.float32]] = field(repr=False)
    present: dict[str, Bools] = field(repr=False)
    targets: NDArray[Any] = field(repr=False)
    findings: Findings = field(default_factory=Findings)

    def __post_init__(self) -> None:
        assert len(self.training) == len(self.ids)
        assert len(self.owner) == len(self.targets)
        assert all(len(block) == len(self.owner) for block in (*self.inputs.values(), *self.present.values()))
        assert self.inputs.keys() == self.present.keys()

    @property
    def patients(self) -> int:
        """How many patients there are."""
        return len(self.ids)

    @property
    def records(self) -> int:
        """How many records there are."""
        return len(self.owner)

    def select(self, mask: Bools) -> Cohort:
        """Return the patients marked in ``mask``, (P,) bool, with all their records."""
        assert mask.shape == (self.patients,)
        kept = mask[self.owner]
        place = np.cumsum(mask) - 1
        return Cohort(
            ids=tuple(one for one, keep in zip(self.ids, mask, strict=True) if keep),
            owner=place[self.owner[kept]].astype(np.int64),
            training=self.training[mask],
            inputs={name: block[kept] for name, block in self.inputs.items()},
            present={name: there[kept] for name, there in self.present.items()},
            targets=self.targets[kept],
            findings=self.findings,
        )._recounted()

    def with_training(self, mask: Bools) -> Cohort:
        """Return the same patients with those marked in ``mask``, (P,) bool, as training patients."""
        assert mask.shape == (self.patients,)
        return replace(self, training=mask.astype(bool))._recounted()

    def scaled(self, statistics: Statistics) -> Cohort:
        """Return this cohort with the inputs that waited for means and scales in their final form."""
        inputs = dict(self.inputs)
        for name in {name for name, _ in statistics.columns}:
            inputs[name] = inputs[name].copy()
        for (name, column), mean, scale in zip(statistics.columns, statistics.mean, statistics.scale, strict=True):
            values = np.nan_to_num((inputs[name][:, column] - mean) / scale, nan=0.0)
            inputs[name][:, column] = np.where(self.present[name], values, 0.0)
        for name, centre in statistics.centres.items():
            inputs[name] = taken_away(inputs[name], self.present[name], centre)
        return replace(self, inputs=inputs)

    def _recounted(self) -> Cohort:
        training = int(self.training.sum())
        findings = replace(
            self.findings,
            patients=self.patients,
            records=self.records,
            training=training,
            held_out=self.patients - training,
            coverage={name: len(np.unique(self.owner[there])) for name, there in self.present.items()},
        )
        return replace(self, findings=findings)


def pool(cohorts: Sequence[Cohort]) -> Cohort:
    """Return the patients of several sites as one cohort; nobody is taken for the same patient."""
    assert cohorts
    before = np.cumsum([0, *(cohort.patients for cohort in cohorts)])
    found = [cohort.findings for cohort in cohorts]
    names = cohorts[0].inputs
    missing: dict[str, int] = {}
    for findings in found:
        for key, number_missing in findings.missing.items():
            missing[key] = missing.get(key, 0) + number_missing
    return Cohort(
        ids=tuple(one for cohort in cohorts for one in cohort.ids),
        owner=np.concatenate([cohort.owner + start for cohort, start in zip(cohorts, before, strict=False)]),
        training=np.concatenate([cohort.training for cohort in cohorts]),
        inputs={name: np.concatenate([cohort.inputs[name] for cohort in cohorts]) for name in names},
        present={name: np.concatenate([cohort.present[name] for cohort in cohorts]) for name in names},
        targets=np.concatenate([cohort.targets for cohort in cohorts]),
        findings=Findings(
            dropped_no_outcome=sum(findings.dropped_no_outcome for findings in found),
            dropped_no_consent=sum(findings.dropped_no_consent for findings in found),
            dropped_over_cap=sum(findings.dropped_over_cap for findings in found),
            missing=missing,
            warnings=tuple(dict.fromkeys(line for findings in found for line in findings.warnings)),
        ),
    )._recounted()


@one_state()
def read_cohort(
    study: Study,
    sources: Mapping[str, Path | str],
    site: str,
    places: Places | None = None,
    unlabelled: Unlabelled | None = None,
) -> Cohort:
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
    unlabelled
        Reads patients for a prediction instead: outcomes are zeros that mean nothing, and nobody is in training.

    Raises
    ------
    DataError
        The files do not hold what the study needs; every problem found is listed, with counts.
    """
    problems, warnings = Problems(site), list[str]()
    here = modalities_at(study, sources, warnings)
    sheets = read_sheets(study, sources, here, problems, warnings, unlabelled)
    problems.raise_any()
    records = read_records(study, sheets, here, problems, warnings, unlabelled)
    if records is None:
        # Nothing will come of this reading, so look for whatever else is wrong before saying so.
        for modality in here.values():
            if isinstance(modality, Table | Genotypes):
                sheet = sheets[modality.table]
                encode(modality, sheet.frame, sheet.path, problems, lenient=unlabelled is not None)
        problems.raise_any()
    assert records is not None
    inputs: dict[str, NDArray[np.float32]] = {}
    present: dict[str, Bools] = {}
    missing: dict[str, int] = {}
    counts: dict[str, int] = {}
    uses: dict[str, Use] = {}
    when = None
    if unlabelled is not None and unlabelled.at is not None:
        when = np.full(len(records.owner), unlabelled.at.astype("datetime64[s]"))
    elif study.cohort.index is not None:
        when = _moments(
            sheets[study.cohort.table], study.cohort.index, records.rows[study.cohort.table], problems, first=True
        )
    for name, modality in sorted(study.modalities.items()):
        inputs[name] = np.zeros((len(records.owner), *shape_of(modality)), dtype=np.float32)
        present[name] = np.zeros(len(records.owner), dtype=bool)
        if name not in here:
            continue
        if not isinstance(modality, Table | Genotypes):
            block = _block(study, modality, sources, sheets, records, when, problems, _own(places or Places(), name))
            inputs[name], present[name] = block.inputs, block.present
            missing |= {f"{name}.{key}": gaps for key, gaps in block.missing.items()}
            counts |= {f"{name}: {what}": number for what, number in block.counts.items()}
            uses |= {f"{name}.{key}": use for key, use in block.uses.items()}
            warnings += block.warnings
            if not isinstance(modality, Events | EventSequence):  # whose reader tells it of its source
                warnings += told(f"modality '{name}'", block.uses)
            continue
        rows = records.rows[modality.table]
        there = present[name] = rows >= 0
        if not there.any():
            continue
        sheet = sheets[modality.table]
        used, place = np.unique(rows[there], return_inverse=True)
        encoded = encode(modality, sheet.frame.take(used), sheet.path, problems, lenient=unlabelled is not None)
        for key, where in encoded.outside.items():
            assert unlabelled is not None
            unlabelled.outside[f"{name}.{key}"] = marked = np.zeros(len(there), dtype=bool)
            marked[there] = where[place]
        inputs[name][there] = encoded.inputs[place]
        uses |= {f"{name}.{key}": use for key, use in encoded.uses.items()}
        warnings += told(str(sheet.path), encoded.uses)
        for key, raw in encoded.raw.items():
            missing[f"{name}.{key}"] = gaps = int(np.isnan(raw[place]).sum())
            if gaps == len(place) and unlabelled is None:
                warnings.append(f"{sheet.path}: '{key}' is missing in every record.")
        if isinstance(modality, Table) and not problems and study.outcome.columns and unlabelled is None:
            _check_leaks(modality, encoded, records, there, place, sheet.path, problems, warnings)
    problems.raise_any()
    for name in here:
        if not present[name].any():
            warnings.append(f"modality '{name}' is absent: no patient of the cohort has it.")
    if not any(there.any() for there in present.values()):
        raise DataError(f"site '{site}': no patient has any of the study's modalities.", "Check [data] in site.toml.")
    if unlabelled is not None:
        unlabelled.when = when
    for split, size in (("training", records.training.sum()), ("held-out", (~records.training).sum())):
        if not size and unlabelled is None:
            warnings.append(f"there are no {split} patients.")
    if study.outcome.task == "segmentation" and unlabelled is None:
        targets: NDArray[Any] = _masks(study, sources, sheets, records, present, when, problems, places or Places())
        problems.raise_any()
    else:
        targets = records.targets.astype(np.int64 if study.outcome.task == "multiclass" else np.float32)
    return Cohort(
        ids=records.ids,
        owner=records.owner,
        training=records.training,
        inputs=inputs,
        present=present,
        targets=targets,
        findings=Findings(
            dropped_no_outcome=records.dropped_no_outcome,
            dropped_no_consent=records.dropped_no_consent,
            dropped_over_cap=records.dropped_over_cap,
            missing=missing,
            counts=counts,
            warnings=tuple(warnings),
            uses=uses,
        ),
    )._recounted()


def _block(
    study: Study,
    modality: Modality,
    sources: Mapping[str, Path | str],
    sheets: Mapping[str, Sheet],
    records: Records,
    when: Moments | None,
    problems: Problems,
    places: Places,
) -> Block:
    """Read a modality that is not made of columns."""
    if isinstance(modality, SCANS) and modality.weights is not None:
        from pmfed.cohort.pretrained.backbone import backbone  # torch, which other modalities do not need to be read

        try:
            places = replace(places, backbone=backbone(modality.weights, sources))
        except DataError as error:
            problems.note(error)
            problems.raise_any()
    patients = [records.ids[owner] for owner in records.owner]
    if not isinstance(modality, Images | Signals):
        return read_block(modality, sources, patients, when, problems, patient=study.cohort.patient, places=places)
    sheet, rows = sheets[modality.table], records.rows[modality.table]
    files = _files(modality.file, sheet, rows)
    folder = Path(sources[modality.folder])
    if isinstance(modality, Images):
        lines = [int(sheet.frame.index[row]) if row >= 0 else 0 for row in rows]
        return read_pictures(modality, files, folder, sheet.path, problems, owners=patients, rows=lines, places=places)
    taken = None if modality.when is None else _moments(sheet, modality.when, rows, problems)
    return read_signals(modality, files, folder, sheet.path, problems, taken, when)


def _own(places: Places, name: str) -> Places:
    """Return places with a list of unreadable files for this modality alone: reading another would delete it."""
    return (
        places if places.detail is None else replace(places, detail=places.detail.with_name(f"unreadable-{name}.txt"))
    )


def _moments(sheet: Sheet, column: str, rows: Ints, problems: Problems, *, first: bool = False) -> Moments:
    """Return the dates of a column, NaT where a record has no row or the cell is empty.

    A day without a time, or at midnight, is its last second: what happened that day may have been after anything else.
    With ``first``, for index dates, it is its first: what happened that day may have been after it.
    """
    moments = dates_of(sheet.frame[column], written_of(sheet.path), column)
    seconds = moments.first if first else moments.last
    if moments.wrong.any():
        odd = Refused()
        odd.dates(column, sheet.frame, moments)
        for error in odd.errors(sheet.path, proposal):
            problems.note(error)
        problems.add(
            f"{sheet.path}: column '{column}': {count(int(moments.wrong.sum()), 'row')} with no date "
            f"({first_row(sheet.frame, moments.wrong)}).",
            "Write dates as 2024-07-31 or 2024-07-31T13:05:00, or declare how they are written.",
        )
    if first and moments.adrift.any():
        problems.add(
            f"{sheet.path}: column '{column}': {count(int(moments.adrift.sum()), 'row')} with an offset (Z, +02:00), and no "
            f"time zone to show it in ({first_row(sheet.frame, moments.adrift)}).",
            'Say where the hospital is: timezone = "Europe/Berlin" beside the file in [data] of site.toml.',
        )
    return np.where(rows >= 0, seconds[np.maximum(rows, 0)], NEVER)


def _masks(
    study: Study,
    sources: Mapping[str, Path | str],
    sheets: Mapping[str, Sheet],
    records: Records,
    present: Mapping[str, Bools],
    when: Moments | None,
    problems: Problems,
    places: Places,
) -> NDArray[np.uint8]:
    """Read the masks of a segmentation; the study saw to it that listed images and masks stand in one row."""
    ((name, modality),) = study.modalities.items()
    assert isinstance(modality, Images | Nifti | Dicom)
    source, table = study.outcome.folder or "", study.cohort.table
    if source not in sources:
        problems.add(f"there is no source '{source}', the folder of the masks.", "Add it to [data] in site.toml.")
        return np.zeros((len(records.owner), *modality.size), dtype=np.uint8)
    files = _files(study.outcome.column, sheets[table], records.rows[table])
    folder, images = Path(sources[source]), Path(sources[modality.folder])
    if isinstance(modality, Dicom):
        return read_segmentations(
            study.outcome, modality, files, present[name], folder, sheets[table].path, images,
            [records.ids[owner] for owner in records.owner], when, problems, patient=study.cohort.patient, places=places,
            link=path_of(sources[modality.link.table]) if modality.link else None,
        )  # fmt: skip
    scans = _files(modality.file, sheets[table], records.rows[table])
    return read_masks(study.outcome, modality, files, scans, folder, images, sheets[table].path, problems)


def _files(column: str, sheet: Sheet, rows: Ints) -> list[str]:
    """Return the file of every record, "" where there is none."""
    codes, texts = labels(sheet.frame[column])
    named = ["" if text in MISSING else text for text in texts]
    return [named[codes[row]] if row >= 0 else "" for row in rows]


def _check_leaks(
    modality: Table,
    encoded: Encoded,
    records: Records,
    there: Bools,
    place: Ints,
    path: Path,
    problems: Problems,
    warnings: list[str],
) -> None:
    """An input that tells the outcome one to one is the outcome under another name."""
    first = np.searchsorted(records.owner, np.arange(len(records.ids)))  # a patient's records are no news
    for key, raw in encoded.raw.items():
        spec = modality.features[key]
        values = np.full(len(there), np.nan)
        values[there] = raw[place]
        known = int((~np.isnan(values[first])).sum())
        outcomes = records.targets[first].reshape(len(first), -1).T  # a row for each number that an outcome is made of
        chances = [chance_equal(values[first], outcome, isinstance(spec, Numeric)) for outcome in outcomes]
        chance = min((one for one in chances if one is not None), default=1.0)
        if chance > 0.05:
            continue
        what = f"{path}: column '{spec.column or key}' tells the outcome of every patient who has it"
        if chance < LEAK:
            problems.add(
                f"{what} ({known:,} of {count(len(first), 'patient')}): it leaks the label.",
                "Remove it from the study's features: it is the outcome under another name.",
            )
        else:
            warnings.append(f"{what}; with so few patients that may be chance.")
