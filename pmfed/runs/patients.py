"""New patients as a model is given them: the same readers and scaling as in training, without an outcome.

What was missing is told by the readers' own means: a study in which every input that can be missing says so is read, and
those extra inputs are taken out again. The model's own inputs are computed column by column, so they stay the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pmfed.cohort import Cohort, Unlabelled, read_unlabelled
from pmfed.cohort.imaging.places import Places
from pmfed.cohort.population import NewPatients
from pmfed.cohort.tables import labels, read_table
from pmfed.errors import DataError, UsageError
from pmfed.runs.model import Model
from pmfed.study import Study

Bools = NDArray[np.bool_]
Sources = Mapping[str, Path | str]

ROOM = 1 << 26  # numbers of inputs held at a time


@dataclass(frozen=True, eq=False)
class Patients:
    """R records of patients, ready for a model. Its repr shows counts only.

    Attributes
    ----------
    cohort
        Inputs in their final form; targets mean nothing.
    labels : tuple of R str
        The study's name for each record; "" where a patient has one row.
    when : (R,) datetime64[s] or None
        The moment of each prediction.
    missing, outside : dict of (R,) bool
        Per ``modality.feature``: records that have the modality and lack the value, or hold one that the study does not
        allow (which then counts as missing).
    """

    cohort: Cohort
    labels: tuple[str, ...] = field(repr=False)
    when: NDArray[np.datetime64] | None = field(repr=False)
    missing: dict[str, Bools] = field(repr=False)
    outside: dict[str, Bools] = field(repr=False)

    @property
    def ids(self) -> list[str]:
        """Patient of each record."""
        return [self.cohort.ids[owner] for owner in self.cohort.owner]


def read_patients(
    model: Model,
    sources: Sources,
    site: str,
    places: Places | None = None,
    *,
    only: Sequence[str] | None = None,
    at: np.datetime64 | None = None,
    without: Collection[str] = (),
) -> Iterator[Patients]:
    """Yield patients for a prediction, as many at a time as fit into memory.

    Parameters
    ----------
    model
        Whose inputs they are.
    sources, site, places
        As for `read_cohort`.
    only
        Ids of the patients to read; None reads all of the cohort table.
    at
        The moment of the prediction; None takes that of the cohort table.
    without
        Modalities that are not read: these patients do not have them.

    Raises
    ------
    UsageError
        A moment is given to a study that has none, there is no cohort table and nobody is named, or nothing is left.
    DataError
        The sources do not hold what the model is given.

    Guarantee
    ---------
    Neither outcome nor split is read. Of dated sources nothing at or after the moment of the prediction is read.
    """
    study = model.study
    if at is not None and study.cohort.index is None:
        raise UsageError("this study has no moment of prediction: its tables say what is known.", "Leave out --at.")
    if only is not None and not only:
        raise UsageError("nobody is asked for.", "Name patients, or leave --patient out.")
    if at is None and study.cohort.index is not None and study.cohort.table not in sources:
        raise UsageError("nothing says at which moment the prediction is made.", "Say it with --at, or 'now'.")
    if odd := sorted(set(without) - set(study.modalities)):
        raise UsageError(f"the study has no modality '{odd[0]}'.", f"It has {', '.join(sorted(study.modalities))}.")
    left = {name: one.telling() for name, one in study.modalities.items() if name not in without}
    if not left:
        raise UsageError("no modality is left to predict from.", "Leave one out of --without.")
    telling = study.model_copy(update={"modalities": left})  # for reading only: it has no fingerprint of its own
    for part in _parts(study, sources, only):
        yield _final(model, telling, read_unlabelled(telling, sources, site, places, NewPatients(part, at)))


def _parts(study: Study, sources: Sources, only: Sequence[str] | None) -> Iterator[tuple[str, ...] | None]:
    """Yield whom to read together; None for all of them at once."""
    numbers = sum(math.prod(one.shape) for one in study.modalities.values())
    most = max(1, ROOM // numbers)
    if only is None:
        path = sources.get(study.cohort.table)
        if path is None:
            raise UsageError(
                f"there is no source '{study.cohort.table}', the study's cohort table, and no patient is named.",
                "Give the table with --table, or the patients with --patient.",
            )
        _, only = labels(read_table(Path(path), [study.cohort.patient])[study.cohort.patient])
        if len(only) <= most:
            yield None
            return
    ids = sorted(set(only))
    for start in range(0, len(ids), most):
        yield tuple(ids[start : start + most])


def _final(model: Model, telling: Study, read: Unlabelled) -> Patients:
    """Return inputs in their final form, with what was missing taken out of them."""
    cohort = read.cohort
    missing: dict[str, Bools] = {}
    inputs: dict[str, NDArray[np.float32]] = {}
    present = {**cohort.present}
    for name, modality in model.study.modalities.items():
        if name not in telling.modalities:
            inputs[name] = np.zeros((cohort.records, *modality.shape), dtype=np.float32)
            present[name] = np.zeros(cohort.records, dtype=bool)
            continue
        values, there = cohort.inputs[name], cohort.present[name]
        inputs[name], found = modality.gaps(values)
        missing |= {f"{name}.{key}": where & there for key, where in found.items() if (where & there).any()}
    final = replace(cohort, inputs=inputs, present=present)
    if (statistics := model.statistics) is not None:
        final = final.scaled(statistics)
    for name, values in final.inputs.items():
        if not np.isfinite(values).all():
            raise DataError(f"modality '{name}': inputs that are not finite.", "Is the model that of this study?")
    return Patients(final, read.labels, read.when, missing, read.outside)
