"""One file per kind of outcome: per-patient loss, prediction, and metrics from sums.

Everything a task publishes about held-out patients is a sum over patients of bounded rows (`Task.rows`), so
that it fits through the same secure sum as the gradients, and metrics, calibration and intervals are
computed from the total alone.
"""

from __future__ import annotations

from pmfed.study import Study
from pmfed.tasks.binary import Binary
from pmfed.tasks.multiclass import Multiclass
from pmfed.tasks.regression import Regression
from pmfed.tasks.task import Metric, Task

__all__ = ["TASKS", "Metric", "Task", "task_for"]

TASKS: dict[str, type[Task]] = {"binary": Binary, "multiclass": Multiclass, "regression": Regression}
"""By the ``task`` of an outcome. What stands here is tested for losses in which one record knows another."""


def task_for(study: Study) -> Task:
    """Return the task of a study's outcome."""
    return TASKS[study.outcome.task](study.outcome, coarse=study.evaluation.release == "private")
