"""One file per kind of outcome: per-patient loss, prediction, and metrics from sums.

Everything a task publishes about held-out patients is a sum over patients of bounded rows (`Task.rows`), so
that it fits through the same secure sum as the gradients, and metrics, calibration and intervals are
computed from the total alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pmfed.study import Study
from pmfed.tasks.binary import Binary
from pmfed.tasks.multiclass import Multiclass
from pmfed.tasks.regression import Regression
from pmfed.tasks.segmentation import Segmentation
from pmfed.tasks.survival import Survival
from pmfed.tasks.task import Metric, Task

__all__ = ["TASKS", "Metric", "Task", "extremes", "task_for"]

TASKS: dict[str, type[Task]] = {
    "binary": Binary,
    "multiclass": Multiclass,
    "regression": Regression,
    "segmentation": Segmentation,
    "survival": Survival,
}
"""By the ``task`` of an outcome. What stands here is tested for losses in which one record knows another."""


def task_for(study: Study) -> Task:
    """Return the task of a study's outcome."""
    return TASKS[study.outcome.task](study.outcome, coarse=study.evaluation.release == "private")


def extremes(study: Study) -> npt.NDArray[Any]:
    """Return the two outcomes a study allows that differ most, (2, ...) in natural units, made up."""
    outcome = study.outcome
    if outcome.task == "regression":
        return np.array([outcome.minimum, outcome.maximum])
    if outcome.task == "survival":  # dies at once; outlives the study
        return np.array([[0.0, 1.0], [outcome.intervals[-1], 0.0]])
    last = len(outcome.classes) - 1
    if outcome.task == "segmentation":
        (modality,) = study.modalities.values()
        return np.stack([np.full(modality.shape[1:], place, dtype=np.uint8) for place in (0, last)])
    return np.array([0, last])
