"""Events to features: one number per record and feature, from what was known before the index date."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pmfed.cohort.block import Block
from pmfed.cohort.contract.times import DAY
from pmfed.cohort.contract.uses import constant, told
from pmfed.cohort.ehr.event_pass import EventPass
from pmfed.cohort.ehr.events import FEMALE, MALE, Floats, Persons
from pmfed.cohort.ehr.reductions import reduction
from pmfed.cohort.ehr.source import open_source
from pmfed.cohort.ehr.window import Window, seconds
from pmfed.cohort.encode import middle_and_half, transformed
from pmfed.cohort.reading import Reading
from pmfed.cohort.tables import Problems, count
from pmfed.errors import DataError
from pmfed.modality import Numeric
from pmfed.modality.ehr import Events

YEAR = 365.2425 * DAY


def read_events(reading: Reading[Events]) -> Block:
    """Read the features of a study out of an OMOP database, a FHIR export or tables of events: see `open_source`.

    Returns
    -------
    Block
        Inputs (R, F) as `Events.names` orders them. A record is present where the source has the patient and the
        record an index date.
    """
    spec, patients, when, problems = reading.spec, reading.patients, reading.when, reading.problems
    nothing = reading.absent()
    inputs = nothing.inputs
    if when is None:
        problems.add("features of events need an index date.", "Name its column in [cohort] of the study.")
        return nothing
    try:
        opened = open_source(reading.sources[spec.source], reading.patient)
        keys = sorted(spec.features)
        reach = np.array([seconds(spec.features[key].days) for key in keys], dtype=np.int64)
        window = Window(patients, when, reach)
        events = EventPass(opened, spec.features, window, spec.censored)
        wanted = [
            reduction(spec.features[key].value, len(patients), float(one)) for key, one in zip(keys, reach, strict=True)
        ]
        for counted in events if keys else ():
            for place in np.unique(counted.feature).tolist():
                mine = counted.of(place)
                wanted[place].add(mine.record, mine.ago, mine.value)
        persons = opened.persons(window.asked)
        counts, warnings = events.report(problems)
    except DataError as error:
        problems.note(error)
        return nothing
    numbers: dict[str, Floats] = {}
    if spec.age:
        numbers["age"] = _ages(persons, window, opened.name, problems)
    numbers |= {key: one.result() for key, one in zip(keys, wanted, strict=True)}
    present = attendance(persons, window, opened.name, counts, warnings, problems)
    missing: dict[str, int] = {}
    for key, number, column in spec.numbers:
        values = bounded(number, numbers[key])
        inputs[:, column] = scaled(number, values)
        if number.indicator:
            inputs[:, column + 1] = np.isnan(values)
        missing[key] = int((np.isnan(values) & present).sum())
    if spec.sex:
        sex, at = persons.sex[window.owner], spec.names.index("sex=female")
        inputs[:, at], inputs[:, at + 1] = sex == FEMALE, sex == MALE
        missing["sex"] = int(((sex < 0) & present).sum())
    inputs[~present] = 0.0
    uses = {
        key: replace(use, constant=constant(numbers[key][present]) and spec.features[key].measured)
        for key, use in events.uses().items()
    }
    warnings += told(opened.name, uses)
    return Block(inputs, present, missing, counts, tuple(warnings), uses, told=True)


def bounded(number: Numeric, values: Floats) -> Floats:
    """Return numbers within their bounds: counts and trends end there; single values were checked before."""
    return np.clip(values, number.minimum, number.maximum)


def scaled(number: Numeric, values: Floats) -> Floats:
    """Return numbers as inputs; NaN where one is missing that waits for means and scales, 0 elsewhere."""
    if number.mean is not None and number.scale is not None:
        return np.nan_to_num((transformed(number, values) - number.mean) / number.scale, nan=0.0)
    middle, half = middle_and_half(number)
    return np.clip((transformed(number, values) - middle) / half, -1.0, 1.0)  # rounding only


def attendance(
    persons: Persons, window: Window, name: str, counts: dict[str, int], warnings: list[str], problems: Problems
) -> NDArray[np.bool_]:
    """Return which records have the modality; count the patients the source does not have."""
    lacking = int((~persons.there).sum())
    if lacking:
        counts["patients that the source does not have"] = lacking
    if lacking == len(persons.there):
        problems.add(
            f"{name}: none of {count(lacking, 'patient')} of the cohort is in it.",
            "Do the cohort table and the source write patient ids in the same way?",
        )
    elif lacking:
        warnings.append(f"{name}: {count(lacking, 'patient')} of the cohort not in it.")
    dated = ~np.isnat(window.when)
    if undated := int((~dated).sum()):
        warnings.append(f"{count(undated, 'record')} without an index date lack what is read from {name}.")
    present: NDArray[np.bool_] = persons.there[window.owner] & dated
    return present if persons.listed else dated


def _ages(persons: Persons, window: Window, name: str, problems: Problems) -> Floats:
    """Return ages in years at the index dates; NaN where unknown."""
    birth = persons.birth[window.owner]
    known = ~np.isnat(birth) & ~np.isnat(window.when)
    ages = persons.age[window.owner].copy()
    ages[known] = (window.when[known] - birth[known]).astype(np.int64) / YEAR
    if unborn := int((ages < -1 / 365).sum()):
        problems.add(
            f"{name}: {count(unborn, 'record')} with an index date before the patient's birth.",
            "Correct the dates of birth or the index dates.",
        )
    return np.where(ages < 0, 0.0, ages)
