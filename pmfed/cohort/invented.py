"""Patients nobody has, of the shapes that a study's real ones will have: no file is read for them.

They are drawn from what the study says in public, bounds, means, vocabularies and baselines, always the same, so that
whatever is found out with them tells nothing about anybody.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pmfed.cohort.cohort import Cohort
from pmfed.modality import SCANS, Modality, Numeric, numbers_of, shape_of
from pmfed.study import Study
from pmfed.study.outcome import Outcome

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
    return _TYPICAL[study.outcome.task](study)


def _targets(study: Study, owner: NDArray[np.int64]) -> NDArray[Any]:
    _, outcomes = typical_outcomes(study)
    return np.asarray(outcomes[owner % len(outcomes)])


def _inputs(modality: Modality, records: int, random: np.random.Generator) -> NDArray[np.float32]:
    shape = (records, *shape_of(modality))
    values = random.normal(size=shape)
    if isinstance(modality, SCANS) and modality.weights is not None:
        values /= np.linalg.norm(values, axis=1, keepdims=True)  # what a public network makes of a picture has norm 1
    elif not isinstance(modality, SCANS) and len(shape) == 2:
        _vocabularies(modality.names, values, random)
        for _, number, column in numbers_of(modality):
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


# -- outcomes, by the task ---------------------------------------------------------------------------------------------


def _none(study: Study) -> Typical:
    return np.ones(1), np.zeros(1, dtype=np.float32)


def _binary(study: Study) -> Typical:
    share = study.outcome.baseline if isinstance(study.outcome.baseline, float) else 0.5
    return np.array([1 - share, share]), np.array([0, 1], dtype=np.float32)


def _multiclass(study: Study) -> Typical:
    return _shares(study.outcome), np.arange(len(study.outcome.classes))


def _regression(study: Study) -> Typical:
    """Return two numbers, as far from the baseline as a third of the way to the bounds."""
    outcome = study.outcome
    assert outcome.minimum is not None
    assert outcome.maximum is not None
    base = outcome.baseline if isinstance(outcome.baseline, float) else (outcome.minimum + outcome.maximum) / 2
    ends = np.array([outcome.minimum, outcome.maximum])
    return np.full(2, 0.5), (base + (ends - base) / 3).astype(np.float32)


def _survival(study: Study) -> Typical:
    """Return somebody who outlives the study, and for each interval somebody with the event in it."""
    outcome = study.outcome
    count = len(outcome.intervals)
    equal = tuple(1 / (count + 1 - place) for place in range(count))
    hazards = np.array(outcome.baseline if isinstance(outcome.baseline, tuple) else equal)
    alive = np.append(1.0, np.cumprod(1 - hazards))
    starts = np.append(0.0, outcome.intervals[:-1])
    times = [[(a + b) / 2, 1.0] for a, b in zip(starts, outcome.intervals, strict=True)]
    return np.append(alive[-1], alive[:-1] * hazards), np.array([[outcome.intervals[-1], 0.0], *times], np.float32)


def _segmentation(study: Study) -> Typical:
    (modality,) = study.modalities.values()
    shape, shares = shape_of(modality)[1:], _shares(study.outcome)
    # A class is a piece of the picture of its public share, as it is in a mask, rather than dots all over it.
    mask = np.searchsorted(np.cumsum(shares)[:-1], np.linspace(0, 1, int(np.prod(shape)), endpoint=False), side="right")
    return np.ones(1), mask.reshape((1, *shape)).astype(np.uint8)


def _shares(outcome: Outcome) -> Shares:
    given = outcome.baseline if isinstance(outcome.baseline, tuple) else (1.0,) * len(outcome.classes)
    return np.array(given) / sum(given)


_TYPICAL: dict[str, Callable[[Study], Typical]] = {
    "none": _none,
    "binary": _binary,
    "multiclass": _multiclass,
    "regression": _regression,
    "survival": _survival,
    "segmentation": _segmentation,
}
