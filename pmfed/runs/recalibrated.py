"""The recalibration of a finished model: as model.json tells it, and whether it follows from the sum it was fitted to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from pmfed.recalibration import Line, Recalibrator
from pmfed.runs.description import RecalibrationStep, Straight
from pmfed.study import Study

SUM, NOISE = "recalibration", "recalibration:noise"
"""In evaluation.safetensors: the sum that a line was fitted to, and the standard deviation of the noise in its numbers."""

CLOSE = 1e-6  # of a line fitted again on another machine


def recalibrator_for(study: Study) -> Recalibrator:
    """Return how a study's outputs are recalibrated."""
    from pmfed.tasks import task_for  # torch, which a site's commands do without

    found = task_for(study).recalibrator()
    assert found is not None, "a study with [recalibration] has an outcome with probabilities"
    return found


def fitted(study: Study, total: NDArray[np.float64], noise: float) -> Line:
    """Return the line from the sum that the sites answered, with noise of this standard deviation in every number."""
    patients = study.cohort.expected_patients * (study.set_aside or 1.0)
    return recalibrator_for(study).fit(total, noise, patients)


def description_of(study: Study, line: Line) -> RecalibrationStep:
    """Return a line as model.json tells it."""
    who = (
        f"{study.set_aside:.0%} of the training patients, set aside for it" if study.set_aside else "training patients"
    )
    return RecalibrationStep(
        map=Straight(kind="straight", intercept=line.intercept, slope=line.slope),
        fitted_on=f"{who}, by one sum over all sites",
    )


def line_of(told: RecalibrationStep | None, outputs: int) -> Line:
    """Return the line that a finished run's outputs are changed by; one that changes nothing without a recalibration."""
    if told is None or not isinstance(told.map, Straight):
        return Line.none(outputs)
    return Line(told.map.intercept, told.map.slope)


def unlike(path: Path, study: Study, told: RecalibrationStep | None) -> Iterator[str]:
    """Yield what a run's recalibration says otherwise than the sum does that is kept in evaluation.safetensors."""
    try:
        kept: dict[str, NDArray[np.float64]] = load_file(path) if path.is_file() else {}
    except (SafetensorError, OSError, ValueError):
        yield f"{path.name} cannot be read"
        return
    if SUM not in kept or NOISE not in kept:
        if told is not None and study.recalibration is not None:
            yield f"{path.name} does not hold the sum that the recalibration was fitted to"
        return
    recalibrator = recalibrator_for(study) if study.recalibration is not None else None
    if recalibrator is None or kept[SUM].shape != (recalibrator.size,) or kept[NOISE].shape != (1,):
        yield f"{path.name} holds a sum for a recalibration that the study does not have"
        return
    right = fitted(study, kept[SUM], float(kept[NOISE][0])).vector
    said = line_of(told, len(right) - 1).vector
    if said.shape != right.shape or not np.allclose(said, right, rtol=CLOSE, atol=CLOSE):
        yield "model.json says another recalibration than follows from the sum it was fitted to"
