"""A yes-or-no outcome: logistic loss, AUROC, accuracy, calibration."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from pmfed.sections.outcome import Outcome
from pmfed.tasks.losses import binary_entropy
from pmfed.tasks.task import Floats, Metric, area_under_roc, one_hot, ratio, redraw

BINS = 500
COARSE = 20  # when cells carry noise: it adds up over the cells a metric reads
LOGITS = 10.0  # scores are binned by logit in [-10, 10]: 0.04 wide, so ties hardly touch the AUROC


class Binary:
    """Two classes, one output: the logit of the second class."""

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("auroc", "AUROC", True),
        Metric("accuracy", "accuracy", True),
        Metric("balanced_accuracy", "balanced accuracy", True),
        Metric("brier", "Brier score", False),
    )
    sensitivity = 1.0  # one cell per record, averaged over a patient's records

    def __init__(self, outcome: Outcome, coarse: bool = False) -> None:
        self.bins = COARSE if coarse else BINS
        self.cells = 2 * self.bins
        self.baseline = outcome.baseline if isinstance(outcome.baseline, float) else 0.5

    def bias(self) -> torch.Tensor:
        return torch.logit(torch.tensor([self.baseline], dtype=torch.float32))

    def targets(self, values: npt.NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(np.asarray(values, dtype=np.float32))

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return binary_entropy(outputs[:, 0], targets)

    def rows(self, outputs: Floats, values: npt.NDArray[Any]) -> Floats:
        scaled = (np.clip(outputs[:, 0], -LOGITS, LOGITS) + LOGITS) / (2 * LOGITS)
        bins = np.minimum((scaled * self.bins).astype(np.int64), self.bins - 1)
        return one_hot(bins + self.bins * (np.asarray(values) > 0.5), self.cells)

    def measure(self, total: Floats) -> dict[str, Floats]:
        negative, positive = total[..., : self.bins], total[..., self.bins :]
        n, p = negative.sum(axis=-1), positive.sum(axis=-1)
        half = self.bins // 2
        right_n, right_p = negative[..., :half].sum(axis=-1), positive[..., half:].sum(axis=-1)
        scores = _probabilities(self.bins)
        error = (negative * scores**2 + positive * (1 - scores) ** 2).sum(axis=-1)
        found = {
            "auroc": area_under_roc(negative, positive),
            "accuracy": ratio(right_n + right_p, n + p),
            "balanced_accuracy": (ratio(right_n, n) + ratio(right_p, p)) / 2,
            "brier": ratio(error, n + p),
        }
        # Noise can carry a share past its ends.
        return {name: np.clip(value, 0.0, 1.0) for name, value in found.items()}

    def resample(self, total: Floats, draws: int, random: np.random.Generator) -> Floats:
        return redraw(total, draws, random)

    def curves(self, total: Floats) -> dict[str, Any]:
        negative, positive = np.clip(total[: self.bins], 0, None), np.clip(total[self.bins :], 0, None)
        count = negative + positive
        if count.sum() <= 0:
            return {}
        # Ten groups of about equally many patients, as a calibration plot wants them.
        group = np.minimum((10 * (np.cumsum(count) - count / 2) / count.sum()).astype(int), 9)
        points = []
        for index in range(10):
            here = group == index
            size = count[here].sum()
            if size > 0:
                predicted = float((count[here] * _probabilities(self.bins)[here]).sum() / size)
                points.append(
                    {
                        "predicted": predicted,
                        "observed": float(positive[here].sum() / size),
                        "count": float(size),
                    }
                )
        return {"calibration": points}


def _probabilities(bins: int) -> Floats:
    centres = (np.arange(bins) + 0.5) / bins * 2 * LOGITS - LOGITS
    return np.asarray(1 / (1 + np.exp(-centres)), dtype=np.float64)
