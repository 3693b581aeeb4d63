"""How long the gradients of invented patients are: what can be told of a study's steps before it sees anybody."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from pmfed.cohort.invented import invented, typical_outcomes
from pmfed.cohort.statistics import solve, statistics_size
from pmfed.models import build
from pmfed.privacy.gradients import PrivateStep
from pmfed.privacy.mechanism import Mechanism
from pmfed.study import Study
from pmfed.tasks import task_for


def gradient_norms(study: Study, mechanism: Mechanism, patients: int) -> tuple[NDArray[np.float64], int]:
    """Return the L2 norms of gradients at the start, and how many numbers they have.

    Parameters
    ----------
    study
        One that trains a model.
    mechanism
        Of its steps: gradients are cut at its bound, if it has one.
    patients
        How many are invented.

    Returns
    -------
    norms : (outcomes, patients) float64
        Each patient with each of the study's typical outcomes.
    size : int
        Trainable parameters.
    """
    task, cohort = task_for(study), invented(study, patients)
    if study.needs_statistics:
        cohort = cohort.scaled(solve(study, np.zeros(statistics_size(study))))
    private = PrivateStep(build(study), task.loss, mechanism)
    _, outcomes = typical_outcomes(study)
    norms = np.zeros((len(outcomes), cohort.patients))
    for patient in range(cohort.patients):
        mine = np.flatnonzero(cohort.owner == patient)
        inputs, present = (
            {name: torch.from_numpy(values[mine]) for name, values in part.items()}
            for part in (cohort.inputs, cohort.present)
        )
        for place, outcome in enumerate(outcomes):
            targets = task.targets(np.repeat(outcome[None], len(mine), axis=0))
            found = private.clipped_sum(inputs, present, targets, np.zeros(len(mine), np.int64))
            norms[place, patient] = np.linalg.norm(found.vector)
    return norms, private.size
