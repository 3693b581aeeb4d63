"""`pmfed predict`: a finished model's answers for new patients, a line each, as CSV.

What happens here stays in the hospital and costs no budget. Lines are patients' data: they go where the caller says,
and nowhere else.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from pmfed.cohort.imaging.places import Places
from pmfed.cohort.tables import count
from pmfed.modality.inputs import Input
from pmfed.runs.answers import horizon, told
from pmfed.runs.links import Columns
from pmfed.runs.model import Model
from pmfed.runs.patients import Patients, Sources, read_patients
from pmfed.runs.predictors import Predictor, predictor

Floats = NDArray[np.float64]


@dataclass
class Told:
    """What was said in all, in counts that may be shown; filled in while lines are written."""

    records: int = 0
    unanswered: int = 0
    missing: Counter[str] = field(default_factory=Counter)
    outside: Counter[str] = field(default_factory=Counter)
    absent: Counter[str] = field(default_factory=Counter)
    warnings: dict[str, None] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Predicted:
    """Records with what the model says of them."""

    patients: Patients
    outputs: Floats = field(repr=False)
    columns: Columns = field(repr=False)

    @property
    def answered(self) -> NDArray[np.bool_]:
        """Which records have an answer: their outputs are finite, and they have some modality."""
        some = np.any(list(self.patients.cohort.present.values()), axis=0)
        return np.asarray(np.isfinite(self.outputs).all(axis=1) & some)


def predict(
    model: Model, sources: Sources, site: str, places: Places | None = None, *,
    only: Sequence[str] | None = None, at: np.datetime64 | None = None, without: Collection[str] = (),
) -> Iterator[Predicted]:  # fmt: skip
    """Yield a model's answers for patients; parameters, errors and promise as for `read_patients` and `predictor`."""
    outputs_of: Predictor = predictor(model)
    for patients in read_patients(model, sources, site, places, only=only, at=at, without=without):
        outputs = outputs_of(patients.cohort)
        yield Predicted(patients, outputs, told(model.description.answer, outputs))


def write_lines(model: Model, parts: Iterator[Predicted], file: TextIO) -> Told:
    """Write answers as CSV, as they come.

    Returns
    -------
    Told
        Counts over all lines.

    Notes
    -----
    ``missing`` names values that were not known, ``outside`` those that the study does not allow (they count as not
    known), ``absent`` the modalities a patient does not have. A record without an answer has empty cells.
    """
    study, said, writer = model.study, Told(), csv.writer(file, lineterminator="\n")
    for place, part in enumerate(parts):
        if place == 0:
            writer.writerow([*_head(model), *part.columns, "missing", "outside", "absent"])
        ids, answered, patients = part.patients.ids, part.answered, part.patients
        absent = {name: ~there for name, there in patients.cohort.present.items()}
        marks = [_named(one, len(ids)) for one in (patients.missing, patients.outside, absent)]
        for row in range(len(ids)):
            cells: list[Any] = [ids[row]]
            cells += [patients.labels[row]] * (study.cohort.record is not None)
            cells += [_moment(patients.when, row)] * (study.cohort.index is not None)
            cells += [_cell(values[row]) if answered[row] else "" for values in part.columns.values()]
            writer.writerow([*cells, *("; ".join(mark[row]) for mark in marks)])
        file.flush()
        said.records += len(ids)
        said.unanswered += int((~answered).sum())
        for counted, found in (
            (said.missing, patients.missing),
            (said.outside, patients.outside),
            (said.absent, absent),
        ):
            counted.update({name: int(where.sum()) for name, where in found.items() if where.any()})
        said.warnings |= dict.fromkeys(patients.cohort.findings.warnings)
    return said


def _head(model: Model) -> Iterator[str]:
    cohort = model.study.cohort
    yield cohort.patient
    if cohort.record is not None:
        yield cohort.record
    if cohort.index is not None:
        yield cohort.index


def _named(found: dict[str, NDArray[np.bool_]], records: int) -> list[list[str]]:
    """Return per record the names of what is marked there."""
    rows: list[list[str]] = [[] for _ in range(records)]
    for name, where in sorted(found.items()):
        for row in np.flatnonzero(where):
            rows[row].append(name)
    return rows


def _moment(when: NDArray[np.datetime64] | None, row: int) -> str:
    return "" if when is None or np.isnat(when[row]) else str(when[row])


def _cell(value: Any) -> str:
    return f"{value:.9g}" if isinstance(value, float | np.floating) else str(value)


def summary(model: Model, said: Told) -> Iterator[str]:
    """Yield what to say beside the lines: what is predicted, what was missing, and what stood in for it."""
    yield f"model {model.version[:12]} of the study {model.study.fingerprint()[:12]}: {horizon(model.description.answer)}."
    if (changed := model.description.recalibration) is not None:
        yield f"recalibrated on {changed.fitted_on}."
    yield f"{count(said.records, 'record')}, {said.records - said.unanswered:,} with an answer."
    inputs = {
        f"{part}.{one.feature}": one for part, told in model.description.parts.items() for one in told.inputs[::-1]
    }
    for name, number in sorted(said.missing.items()):
        yield f"missing  {name}: {number:,}; {stand_in(inputs.get(name))}"
    for name, number in sorted(said.outside.items()):
        yield f"outside  {name}: {number:,} hold what the study does not allow, and count as missing"
    for name, number in sorted(said.absent.items()):
        yield f"absent   {name}: {number:,}; {_ABSENT[model.description.parts[name].absent]}"
    for line in said.warnings:
        yield f"note     {line}"


_ABSENT = {
    "adds nothing": "it adds nothing to their answer",
    "learned": "a learned stand-in takes its place",
    "no answer": "they have no answer",
}


def stand_in(told: Input | None) -> str:
    """Return what stands in for a missing value, in words."""
    if told is None or told.stand_in == "zero":
        return "none of its categories is taken to be true"
    if told.says == "allele":
        return "taken to be twice the public frequency"
    if told.mean is None:
        return "taken to be the mean, which the sites released"
    mean = float(np.expm1(told.mean)) if told.transform == "log1p" else told.mean
    return f"taken to be {mean:.4g}{f' {told.unit}' if told.unit else ''}"
