"""The loss and the scores of a plug-in's outcome, tried out on made-up outcomes before they see a patient's."""

from __future__ import annotations

import numpy as np
import torch

from pmfed.errors import PmfedError, StudyError
from pmfed.study.outcome import Outcome
from pmfed.tasks.task import Task


def check_task(outcome: Outcome, task: Task) -> None:
    """Return when no record's loss or scores depend on another record's.

    Raises
    ------
    StudyError
        They do, are not what a task gives, or cannot be computed from the outcomes that the kind itself names.
    """
    if outcome.masks is not None:
        raise StudyError(f"the outcome '{outcome.task}' of a plug-in is drawn into pictures; only pmfed's own may be.")
    values = np.concatenate([outcome.extremes(), outcome.typical()[1]]).astype(outcome.dtype)
    outputs = torch.randn(len(values), outcome.outputs, generator=torch.Generator().manual_seed(0))
    try:
        losses = task.loss(outputs, task.targets(values))
        rows = np.asarray(task.rows(outputs.double().numpy(), values))
        alone = [
            (task.loss(outputs[[i]], task.targets(values[[i]])), task.rows(outputs[[i]].double().numpy(), values[[i]]))
            for i in range(len(values))
        ]
        same_losses = torch.allclose(losses, torch.cat([loss for loss, _ in alone]), rtol=1e-4, atol=1e-6)
        same_rows = rows.shape == (len(values), task.cells) and np.allclose(
            rows, np.concatenate([one for _, one in alone])
        )
    except PmfedError:
        raise
    except Exception as error:
        raise StudyError(
            f"the outcome '{outcome.task}' of a plug-in cannot be learned from its own extremes ({type(error).__name__}; its text is above).",
            "Task.loss gives (B,), Task.rows (B, cells).",
        ) from error
    if losses.shape != (len(values),) or not same_losses:
        raise StudyError(
            f"the outcome '{outcome.task}' of a plug-in: the loss of a record depends on the other records.",
            "Give a loss per record, (B,), without means over the batch.",
        )
    if not same_rows:
        raise StudyError(
            f"the outcome '{outcome.task}' of a plug-in: the scores of a record depend on the other records.",
            "Give a row of 'cells' numbers per record.",
        )
