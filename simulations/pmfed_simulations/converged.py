"""What a linear model can reach at all: its best fit to all patients in one place, with neither rounds, clip nor noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pmfed.cohort import Cohort
from pmfed.cohort.statistics import rows, solve
from pmfed.errors import StudyError
from pmfed.methods.gradient import write_model
from pmfed.models import build, flatten
from pmfed.study import Study
from pmfed.tasks import task_for

STEPS, FLAT = 500, 1e-7  # of L-BFGS (Liu and Nocedal 1989), and the largest slope that counts as none


def fit_in_full(folder: Path, study: Study, cohort: Cohort) -> None:
    """Fit a linear model to convergence and write it into a folder.

    The mean loss of the training patients, each the mean over its records, with half the squared weights over their
    number added: what scikit-learn's logistic regression adds by default, so that separable patients have a best fit.

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
        The search did not come to an end.
    """
    training = cohort.select(cohort.training)
    statistics: NDArray[np.float32] | None = None
    if study.needs_statistics:
        statistics = rows(study, training).sum(axis=0).astype(np.float32)
        training = training.scaled(solve(study, statistics.astype(np.float64)))
    model, task = build(study).double(), task_for(study)
    inputs = {name: torch.from_numpy(values).double() for name, values in training.inputs.items()}
    present = {name: torch.from_numpy(there) for name, there in training.present.items()}
    targets = task.targets(training.targets)
    targets = targets.double() if targets.is_floating_point() else targets
    weight = torch.from_numpy(1 / np.bincount(training.owner)[training.owner] / training.patients)
    weights = [p for name, p in model.named_parameters() if not name.endswith("bias")]
    found = torch.optim.LBFGS(
        model.parameters(), max_iter=STEPS, tolerance_grad=FLAT, tolerance_change=0.0, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        found.zero_grad()
        value = weight @ task.loss(model(inputs, present), targets)
        value = value + sum((p**2).sum() for p in weights) / (2 * training.patients)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    found.step(loss)  # type: ignore[no-untyped-call]
    slope = max(float(p.grad.abs().max()) for p in model.parameters() if p.grad is not None)
    if not slope < 1e-4:
        raise StudyError(f"the linear model did not converge: after {STEPS} steps its slope is {slope:.2g}.")
    write_model(folder, study, flatten(model), statistics)
