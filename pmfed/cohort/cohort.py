"""Patients of a site with their records: inputs, masks for what is missing, outcomes, training and held-out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pmfed.cohort.contract.uses import Use
from pmfed.cohort.scales import Statistics, taken_away

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


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
        The outcome in natural units, as its kind reads it (`pmfed.study.outcome`): a class is its place among the
        classes, of a picture one per pixel.
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
        ).recounted()

    def with_training(self, mask: Bools) -> Cohort:
        """Return the same patients with those marked in ``mask``, (P,) bool, as training patients."""
        assert mask.shape == (self.patients,)
        return replace(self, training=mask.astype(bool)).recounted()

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

    def recounted(self) -> Cohort:
        """Return it with findings that count these patients and records."""
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
    ).recounted()
