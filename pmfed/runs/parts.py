"""What a model is given, modality by modality, out of its study: names, units, bounds, scaling, what stands in."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pmfed.cohort.encode import middle_and_half
from pmfed.cohort.scales import Statistics
from pmfed.modality.weights import told
from pmfed.runs.description import Answer, IndexMoment, Part
from pmfed.study import Study

ABSENT = {"linear": "adds nothing", "fusion": "learned", "unet": "no answer"}


def parts_of(study: Study, statistics: Statistics | None) -> dict[str, Part]:
    """Return what a study's model is given, by modality; ``statistics`` are those the sites released."""
    natural = statistics.natural(study) if statistics is not None else {}
    found = {}
    for name, modality in sorted(study.modalities.items()):
        own = {key.removeprefix(f"{name}."): pair for key, pair in natural.items() if key.startswith(f"{name}.")}
        inputs = tuple(modality.inputs(own))
        mean, scale = modality.scaling
        found[name] = Part(
            kind=modality.kind, shape=modality.shape, inputs=inputs, mean=mean, scale=scale,
            weights=None if modality.network is None else told(modality.network),
            absent=ABSENT[study.model.kind],  # type: ignore[arg-type]
        )  # fmt: skip
        assert tuple(one.name for one in inputs) == modality.names
    return found


def answer_of(study: Study) -> Answer:
    """Return what the outputs of a study's model mean."""
    return Answer.model_validate(study.outcome.answer())


def index_of(study: Study) -> IndexMoment | None:
    """Return the moment of a prediction, where the study has one."""
    return (
        None
        if study.cohort.index is None
        else IndexMoment(column=study.cohort.index, reads="strictly before", day="first second")
    )


def bounded_statistics(study: Study, parts: Mapping[str, Part], centres: Mapping[str, object]) -> Statistics | None:
    """Return means and scales as `Cohort.scaled` wants them, out of what a description tells; None when none are learned."""
    columns, mean, scale = [], [], []
    for name, modality in sorted(study.modalities.items()):
        for _, spec, column in modality.numbers:
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
