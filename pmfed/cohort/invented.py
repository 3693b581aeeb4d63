"""Patients nobody has, of the shapes that a study's real ones will have: no file is read for them.

They are drawn from what the study says in public, bounds, means, vocabularies and baselines, always the same, so that
whatever is found out with them tells nothing about anybody.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pmfed.cohort.cohort import Cohort
from pmfed.modality import Modality, Numeric
from pmfed.study import Study

MISSING = 0.1  # share of the patients that a value is missing for

Shares = NDArray[np.float64]
Typical = tuple[Shares, NDArray[Any]]


def invented(study: Study, patients: int) -> Cohort:
    """Return invented patients; the last quarter is held out, the first has two records, some lack a modality.

    Parameters
    ----------
    study
        Says what records look like.
    patients
        How many, 4 or more.
    """
    random = np.random.default_rng(0)
    owner = np.append(0, np.arange(patients)).astype(np.int64)
    inputs = {name: _inputs(one, len(owner), random) for name, one in sorted(study.modalities.items())}
    present = {name: np.ones(len(owner), dtype=bool) for name in inputs}
    for place, name in enumerate(sorted(inputs)):
        if len(inputs) > 1:  # without its only modality a record would be empty
            present[name][(owner % len(inputs) == place) & (owner % 4 == 3)] = False
        inputs[name][~present[name]] = 0.0
    return Cohort(
        ids=tuple(f"invented {number}" for number in range(patients)),
        owner=owner,
        training=np.arange(patients) < patients - patients // 4,
        inputs=inputs,
        present=present,
        targets=_targets(study, owner),
    )


def typical_outcomes(study: Study) -> Typical:
    """Return outcomes that stand for all: how large a share of the patients each stands for, and it.

    Returns
    -------
    tuple
        Shares (K,) that add up to 1, and outcomes (K, ...) as `Cohort.targets` holds them. The shares are the study's
        public baselines; of a segmentation one outcome has every class in some pixels.
    """
    (shape, *_) = (modality.shape for modality in study.modalities.values())
    return study.outcome.typical(shape[1:] if study.outcome.masks is not None else ())


def _targets(study: Study, owner: NDArray[np.int64]) -> NDArray[Any]:
    _, outcomes = typical_outcomes(study)
    return np.asarray(outcomes[owner % len(outcomes)])


def _inputs(modality: Modality, records: int, random: np.random.Generator) -> NDArray[np.float32]:
    values = random.normal(size=(records, *modality.shape))
    if modality.network is not None:
        values /= np.linalg.norm(values, axis=1, keepdims=True)  # what a public network makes of a picture has norm 1
    elif values.ndim == 2:
        _vocabularies(modality.names, values, random)
        for _, number, column in modality.numbers:
            values[:, column] = _numbers(number, records, random)
    return values.astype(np.float32)


def _vocabularies(names: tuple[str, ...], values: NDArray[np.float64], random: np.random.Generator) -> None:
    """Fill the inputs of categories, one of each, and those that say that something is missing."""
    for key, columns in groupby(range(len(names)), key=lambda column: names[column].partition("=")[0]):
        group = [column for column in columns if "=" in names[column]]
        if group:
            values[:, group] = np.eye(len(group))[random.integers(0, len(group), len(values))]
        elif key.endswith(" missing"):
            column = names.index(key)
            values[:, column] = random.random(len(values)) < MISSING


def _numbers(number: Numeric, records: int, random: np.random.Generator) -> NDArray[np.float64]:
    """Return inputs of a number: scaled by its public mean, or between -1 and 1 and some missing until it is learned."""
    if number.mean is None or number.scale is None:
        values = random.uniform(-1, 1, records)
        values[random.random(records) < MISSING] = np.nan
        return values
    bounds = np.array([number.minimum, number.maximum])
    low, high = ((np.log1p(bounds) if number.transform == "log1p" else bounds) - number.mean) / number.scale
    return np.clip(random.normal(size=records), low, high)
