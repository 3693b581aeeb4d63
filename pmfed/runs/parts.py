"""What a model is given, modality by modality, out of its study: names, units, bounds, scaling, what stands in."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import singledispatch

import numpy as np

from pmfed.cohort.encode import middle_and_half
from pmfed.cohort.statistics import Statistics
from pmfed.modality import (
    SCANS,
    Categorical,
    CopyNumber,
    Events,
    EventSequence,
    Expression,
    Genotypes,
    Modality,
    Notes,
    Numeric,
    Panel,
    Signals,
    Table,
    numbers_of,
    shape_of,
)
from pmfed.modality.ehr import SEXES, EventFeature
from pmfed.modality.weights import told
from pmfed.runs.description import Answer, Index, Input, Part
from pmfed.study import Study

Learned = Mapping[str, tuple[float, float]]
"""Feature -> mean and scale that the sites released, in the feature's units, after its transform."""

ABSENT = {"linear": "adds nothing", "fusion": "learned", "unet": "no answer"}


def parts_of(study: Study, statistics: Statistics | None) -> dict[str, Part]:
    """Return what a study's model is given, by modality; ``statistics`` are those the sites released."""
    natural = statistics.natural(study) if statistics is not None else {}
    found = {}
    for name, modality in sorted(study.modalities.items()):
        own = {key.removeprefix(f"{name}."): pair for key, pair in natural.items() if key.startswith(f"{name}.")}
        inputs = tuple(inputs_of(modality, own))
        scan = modality if isinstance(modality, SCANS) else None
        mean, scale = scan.scaling if scan else (None, None)
        found[name] = Part(
            kind=modality.kind, shape=shape_of(modality), inputs=inputs, mean=mean, scale=scale,
            weights=told(scan.weights) if scan and scan.weights is not None else None,
            absent=ABSENT[study.model.kind],  # type: ignore[arg-type]
        )  # fmt: skip
        assert scan is not None or len(inputs) == found[name].shape[-1]
    return found


def answer_of(study: Study) -> Answer:
    """Return what the outputs of a study's model mean."""
    return Answer.model_validate(study.outcome.answer())


def index_of(study: Study) -> Index | None:
    """Return the moment of a prediction, where the study has one."""
    return (
        None
        if study.cohort.index is None
        else Index(column=study.cohort.index, reads="strictly before", day="first second")
    )


def bounded_statistics(study: Study, parts: Mapping[str, Part], centres: Mapping[str, object]) -> Statistics | None:
    """Return means and scales as `Cohort.scaled` wants them, out of what a description tells; None when none are learned."""
    columns, mean, scale = [], [], []
    for name, modality in sorted(study.modalities.items()):
        for _, spec, column in numbers_of(modality):
            if spec.mean is not None:
                continue
            told = parts[name].inputs[column]
            assert told.mean is not None
            assert told.scale is not None
            middle, half = middle_and_half(spec)
            columns.append((name, column))
            mean.append((told.mean - middle) / half)
            scale.append(told.scale / half)
    if not columns and not centres:
        return None
    return Statistics(
        tuple(columns), np.array(mean), np.array(scale), {key: np.asarray(one) for key, one in centres.items()}
    )


@singledispatch
def inputs_of(modality: Modality, learned: Learned) -> Iterable[Input]:
    """Return the inputs of a modality, in the order of its columns; of pictures none has a name."""
    return ()


def _number(key: str, spec: Numeric, learned: Learned, unit: str | None = None, stand_in: str = "mean") -> list[Input]:
    """Return the inputs of one number: its value, and whether it is missing where the study asks for that."""
    mean, scale = learned.get(key, (spec.mean, spec.scale))
    value = Input(
        name=key, feature=key, says="value", unit=unit, minimum=spec.minimum, maximum=spec.maximum,
        transform=spec.transform, mean=mean, scale=scale, learned=key in learned, stand_in=stand_in,  # type: ignore[arg-type]
    )  # fmt: skip
    return [value, *_indicator(key, spec.indicator)]


def _indicator(key: str, there: bool) -> list[Input]:
    return [Input(name=f"{key} missing", feature=key, says="missing")] if there else []


def _alleles(key: str, names: Iterable[str], frequencies: Iterable[float]) -> list[Input]:
    found = []
    for name, frequency in zip(names, frequencies, strict=True):
        spread = math.sqrt(2 * frequency * (1 - frequency)) or 1.0  # as the readers do: nothing to scale by
        found.append(
            Input(
                name=name, feature=key, says="allele", minimum=0, maximum=2, mean=2 * frequency, scale=spread,
                stand_in="mean",
            )
        )  # fmt: skip
    return found


@inputs_of.register
def _(modality: Table, learned: Learned) -> Iterable[Input]:
    for key, spec in sorted(modality.features.items()):
        if isinstance(spec, Categorical):
            for value in (*spec.values, *([None] * spec.other)):
                name = f"{key}={'other' if value is None else value}"
                yield Input(name=name, feature=key, says="category", category=value, stand_in="zero")
            yield from _indicator(key, spec.indicator)
        else:
            yield from _number(key, spec, learned)


@inputs_of.register
def _(modality: Genotypes, learned: Learned) -> Iterable[Input]:
    for key, spec in sorted(modality.variants.items()):
        counts = spec.names(key)[: max(1, len(spec.alleles))]
        yield from _alleles(key, counts, spec.frequency)
        yield from _indicator(key, spec.indicator)


@inputs_of.register
def _(modality: Panel, learned: Learned) -> Iterable[Input]:
    for key, spec in sorted(modality.variants.items()):
        yield from _alleles(key, (key,), (spec.frequency,))
        yield from _indicator(key, spec.indicator)


@inputs_of.register
def _(modality: CopyNumber, learned: Learned) -> Iterable[Input]:
    for key, spec in sorted(modality.regions.items()):
        yield Input(
            name=key, feature=key, says="copies", minimum=0, maximum=spec.maximum, mean=2, scale=spec.scale,
            stand_in="mean",
        )  # fmt: skip
        yield from _indicator(key, spec.indicator)


@inputs_of.register
def _(modality: Expression, learned: Learned) -> Iterable[Input]:
    for key, spec in sorted(modality.genes.items()):
        yield from _number(key, spec, learned)


def _event(key: str, spec: EventFeature, learned: Learned) -> list[Input]:
    """Return the inputs of a feature of events: what was never recorded did not happen, or has no value."""
    return _number(key, spec.number, learned, spec.unit, "mean" if spec.measured else "never")


@inputs_of.register
def _(modality: Events, learned: Learned) -> Iterable[Input]:
    if modality.age:
        yield from _number("age", modality.age.number, learned, "a")  # years, as UCUM writes them
    for name in SEXES if modality.sex else ():
        yield Input(name=name, feature="sex", says="category", category=name.partition("=")[2], stand_in="zero")
    for key, spec in sorted(modality.features.items()):
        yield from _event(key, spec, learned)


@inputs_of.register
def _(modality: EventSequence, learned: Learned) -> Iterable[Input]:
    for key, spec in sorted(modality.channels.items()):
        yield from _event(key, spec, learned)
        yield Input(name=f"{key} observed", feature=key, says="observed")
        yield Input(name=f"{key} gap", feature=key, says="gap")
    yield Input(name="time before", feature="time before", says="time")


@inputs_of.register
def _(modality: Notes, learned: Learned) -> Iterable[Input]:
    return (Input(name=name, feature=name, says="word", stand_in="zero") for name in modality.names)


@inputs_of.register
def _(modality: Signals, learned: Learned) -> Iterable[Input]:
    for key, spec in sorted(modality.channels.items()):
        yield Input(
            name=key, feature=key, says="value", unit=spec.unit, mean=spec.mean, scale=spec.scale, stand_in="mean"
        )
