"""One file per kind of outcome: per-patient loss, prediction, and metrics from sums.

What an outcome is without torch stands in `pmfed.study.outcomes`; here is what it is learned and judged by. Everything a
task publishes about held-out patients is a sum over patients of bounded rows (`Task.rows`), so that it fits through
the same secure sum as the gradients, and metrics, calibration and intervals are computed from the total alone.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import numpy.typing as npt

from pmfed.errors import AuditError
from pmfed.study import Study
from pmfed.study.outcome import Metric, Outcome
from pmfed.study.outcomes import BUILT_IN, NOTHING
from pmfed.tasks.plugin import check_task
from pmfed.tasks.task import Task

__all__ = ["Metric", "Task", "extremes", "task_class", "task_for"]


def task_class(kind: type[Outcome]) -> type[Task]:
    """Return the loss and the scores of a kind of outcome."""
    module, _, name = kind.scored_by.partition(":")
    found: type[Task] = getattr(importlib.import_module(module), name)
    return found


def task_for(study: Study) -> Task:
    """Return the task of a study's outcome; a plug-in's is tried out first (`check_task`)."""
    task = task_class(type(study.outcome))(study.outcome, coarse=study.evaluation.release == "private")
    if type(study.outcome) not in (*BUILT_IN, type(NOTHING)):
        check_task(study.outcome, task)
    return task


def extremes(study: Study) -> npt.NDArray[Any]:
    """Return the outcomes a study allows that differ most, (2, ...) or more, made up, as a cohort holds them.

    Raises
    ------
    AuditError
        They are no outcomes of which two differ: whoever attacks with them would find nothing, whatever the build does.
    """
    shape = next(iter(modality.shape[1:] for modality in study.modalities.values()), ())
    found = study.outcome.extremes(shape if study.outcome.masks is not None else ())
    values = np.asarray(found, dtype=np.float64)
    if len(values) < 2 or bool(study.outcome.unknown(values).any()) or all((one == values[0]).all() for one in values):
        raise AuditError(
            f"the outcome '{study.outcome.task}' names no two outcomes that differ, so there is nothing to attack with.",
            f"Mend {type(study.outcome).__name__}.extremes.",
        )
    return found
