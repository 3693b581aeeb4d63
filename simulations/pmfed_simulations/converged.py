"""What a linear model can reach at all: its best fit to all patients in one place, with neither rounds, clip nor noise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pmfed.cohort import Cohort, folds
from pmfed.cohort.statistics import rows, solve
from pmfed.errors import StudyError
from pmfed.methods.gradient import write_model
from pmfed.models import build, flatten
from pmfed.study import Study
from pmfed.tasks import task_for

STEPS, FLAT = 500, 1e-7  # of L-BFGS (Liu and Nocedal 1989), and the largest slope that counts as none
PENALTIES = (1.0, 4.0, 16.0, 64.0)  # 1 is the default of scikit-learn's logistic regression
INNER = 3  # folds of the training patients by which one is chosen


def fit_in_full(folder: Path, study: Study, cohort: Cohort) -> None:
    """Fit a linear model to convergence and write it into a folder, with the penalty that predicts best.

    Which of `PENALTIES` that is, folds of the training patients say: a fit of many inputs to few events without any would be
    no reference.

    Parameters
    ----------
    folder
        Where model.safetensors goes.
    study
        A study of a linear model.
    cohort
        All patients together.

    Raises
    ------
    StudyError
        A search did not come to an end.
    """
    training = cohort.select(cohort.training)
    statistics: NDArray[np.float32] | None = None
    if study.needs_statistics:
        statistics = rows(study, training).sum(axis=0).astype(np.float32)
        training = training.scaled(solve(study, statistics.astype(np.float64)))
    dealt = folds(training.ids, study.evaluation.split_key, INNER)

    def loss_elsewhere(penalty: float) -> float:
        """Return the mean loss of patients that a fit with a penalty never saw."""
        found = 0.0
        for fold in range(INNER):
            seen = training.select(dealt != fold)
            with torch.no_grad():
                found += float(_mean_loss(study, training.select(dealt == fold))(fitted(study, seen, penalty)))
        return found

    write_model(folder, study, flatten(fitted(study, training, min(PENALTIES, key=loss_elsewhere))), statistics)


def fitted(study: Study, training: Cohort, penalty: float) -> nn.Module:
    """Return a model whose mean loss over patients, with a penalty on its weights, is the least there is.

    The penalty is half the squared weights, so many times, over the number of patients.
    """
    model = build(study).double()
    weights = [p for name, p in model.named_parameters() if not name.endswith("bias")]
    mean = _mean_loss(study, training)
    search = torch.optim.LBFGS(
        model.parameters(), max_iter=STEPS, tolerance_grad=FLAT, tolerance_change=0.0, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        search.zero_grad()
        value = mean(model) + penalty * sum((p**2).sum() for p in weights) / (2 * training.patients)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    search.step(loss)  # type: ignore[no-untyped-call]
    slope = max(float(p.grad.abs().max()) for p in model.parameters() if p.grad is not None)
    if not slope < 1e-4:
        raise StudyError(f"the linear model did not converge: after {STEPS} steps its slope is {slope:.2g}.")
    return model


def _mean_loss(study: Study, cohort: Cohort) -> Callable[[nn.Module], Tensor]:
    """Return what gives a model's mean loss over patients, each the mean over its records."""
    task = task_for(study)
    inputs = {name: torch.from_numpy(values).double() for name, values in cohort.inputs.items()}
    present = {name: torch.from_numpy(there) for name, there in cohort.present.items()}
    targets = task.targets(cohort.targets)
    targets = targets.double() if targets.is_floating_point() else targets
    share = torch.from_numpy(1 / np.bincount(cohort.owner)[cohort.owner] / cohort.patients)
    return lambda model: share @ task.loss(model(inputs, present), targets)
