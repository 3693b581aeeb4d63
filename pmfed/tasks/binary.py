"""A yes-or-no outcome: logistic loss, AUROC, accuracy, calibration."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pmfed.recalibration import Logistic
from pmfed.study.outcomes.binary import BinaryOutcome
from pmfed.tasks.agreement import flexible_curve
from pmfed.tasks.losses import binary_entropy
from pmfed.tasks.scores import area_under_roc, average_precision, calibration, decisions, expit, ratio
from pmfed.tasks.task import Floats, Metric, one_hot, redraw, thin

BINS = 500
COARSE = 20  # when cells carry noise: it adds up over the cells a metric reads
LOGITS = 10.0  # scores are binned by logit in [-10, 10]: 0.04 wide, so ties hardly touch the AUROC


DECISIONS = {
    "sensitivity": "sensitivity", "specificity": "specificity", "ppv": "positive predictive value",
    "npv": "negative predictive value", "f1": "F1", "net_benefit": "net benefit",
}  # fmt: skip
CALIBRATION = (
    Metric("calibration_intercept", "calibration in the large (0 is right)", False),
    Metric("calibration_slope", "calibration slope (1 is right)", True),
    Metric("oe", "observed / expected (1 is right)", True),
    Metric("ece", "expected calibration error", False),
)


class Binary:
    """Two classes, one output: the logit of the second class."""

    sensitivity = 1.0  # one cell per record, averaged over a patient's records

    def __init__(self, outcome: BinaryOutcome, coarse: bool = False) -> None:
        self.metrics = outcome.metrics
        self.bins = COARSE if coarse else BINS
        self.cells = 2 * self.bins
        self.histogram = slice(0, self.cells)
        self.baseline, self.weights = outcome.prevalence, outcome.class_weights or None
        self.logits = (np.arange(self.bins) + 0.5) / self.bins * 2 * LOGITS - LOGITS
        # Decisions are told at the public baseline, or where no baseline is given at a half; at the edge of a bin.
        place = (np.log(self.baseline / (1 - self.baseline)) + LOGITS) / (2 * LOGITS) * self.bins
        self.edge = int(np.clip(np.round(place), 1, self.bins - 1))
        self.threshold = float(expit(np.array(self.edge / self.bins * 2 * LOGITS - LOGITS)))
        at = f"at {self.threshold:.2g}"
        self.details = (
            Metric("auprc", "average precision", True),
            Metric("no_information", "accuracy of the commoner class for all", True),
            *(Metric(name, f"{label} {at}", True) for name, label in DECISIONS.items()),
            Metric("brier_skill", "Brier skill over the observed share", True),
            Metric("log_loss", "log loss", False),
            *CALIBRATION,
        )

    def bias(self) -> torch.Tensor:
        return torch.logit(torch.tensor([self.baseline], dtype=torch.float32))

    def targets(self, values: npt.NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(np.asarray(values, dtype=np.float32))

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if self.weights is None:
            return binary_entropy(outputs[:, 0], targets)
        negative, positive = self.weights
        # What weighs classes moves the logit by the logarithm of their ratio; the outputs are those without.
        shifted = outputs[:, 0] + math.log(positive / negative)
        return (negative + (positive - negative) * targets) / max(negative, positive) * binary_entropy(shifted, targets)

    def recalibrator(self) -> Logistic:
        return Logistic(self.baseline)

    def rows(self, outputs: Floats, values: npt.NDArray[Any]) -> Floats:
        scaled = (np.clip(outputs[:, 0], -LOGITS, LOGITS) + LOGITS) / (2 * LOGITS)
        bins = np.minimum((scaled * self.bins).astype(np.int64), self.bins - 1)
        return one_hot(bins + self.bins * (np.asarray(values) > 0.5), self.cells)

    def measure(self, total: Floats) -> dict[str, Floats]:
        negative, positive = total[..., : self.bins], total[..., self.bins :]
        n, p = negative.sum(axis=-1), positive.sum(axis=-1)
        half = self.bins // 2
        right_n, right_p = negative[..., :half].sum(axis=-1), positive[..., half:].sum(axis=-1)
        scores = expit(self.logits)
        error = (negative * scores**2 + positive * (1 - scores) ** 2).sum(axis=-1)
        found = {
            "auroc": area_under_roc(negative, positive),
            "accuracy": ratio(right_n + right_p, n + p),
            "balanced_accuracy": (ratio(right_n, n) + ratio(right_p, p)) / 2,
            "brier": ratio(error, n + p),
        }
        # Noise can carry a share past its ends.
        return {name: np.clip(value, 0.0, 1.0) for name, value in found.items()}

    def detail(self, total: Floats) -> dict[str, Floats]:
        negative, positive = np.clip(total[..., : self.bins], 0, None), np.clip(total[..., self.bins :], 0, None)
        n, p = negative.sum(axis=-1), positive.sum(axis=-1)
        share, scores = ratio(p, n + p), expit(self.logits)
        error = ratio((negative * scores**2 + positive * (1 - scores) ** 2).sum(axis=-1), n + p)
        surprise = negative * np.logaddexp(0.0, self.logits) + positive * np.logaddexp(0.0, -self.logits)
        return {
            "auprc": average_precision(negative, positive),
            "no_information": np.maximum(share, 1 - share),
            **decisions(negative, positive, self.edge, self.threshold),
            "brier_skill": 1 - ratio(error, share * (1 - share)),
            "log_loss": ratio(surprise.sum(axis=-1), n + p),
            **calibration(negative, positive, self.logits),
        }

    def resample(self, total: Floats, draws: int, random: np.random.Generator) -> Floats:
        return redraw(total, draws, random)

    def curves(self, total: Floats, noise: float = 0.0) -> dict[str, Any]:
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
                predicted = float((count[here] * expit(self.logits)[here]).sum() / size)
                points.append(
                    {
                        "predicted": predicted,
                        "observed": float(positive[here].sum() / size),
                        "count": float(size),
                    }
                )
        curve = flexible_curve(total[: self.bins], total[self.bins :], self.logits, noise=noise)
        return {"calibration": points, "calibration_curve": curve, **self._operating(negative, positive)}

    def _operating(self, negative: Floats, positive: Floats) -> dict[str, Any]:
        """Return what every threshold would give: ROC, precision and recall, and net benefit up to three times the share."""
        n, p = float(negative.sum()), float(positive.sum())
        if n <= 0 or p <= 0:
            return {}
        false, true = (np.append(np.cumsum(part[::-1])[::-1], 0.0) for part in (negative, positive))
        edges = expit(np.linspace(-LOGITS, LOGITS, self.bins + 1))
        share = p / (n + p)
        told = (edges >= 0.01) & (edges <= min(0.9, max(3 * share, 0.2)))
        odds = edges / (1 - edges)
        precision = ratio(true, true + false)
        recalled = true > 0
        return {
            "roc": thin(np.column_stack([false / n, true / p])),
            "precision_recall": thin(np.column_stack([true / p, precision])[recalled]),
            "decision": {
                "threshold": self.threshold,
                "share": share,
                "model": thin(np.column_stack([edges, (true - false * odds) / (n + p)])[told]),
                "all": thin(np.column_stack([edges, share - (1 - share) * odds])[told]),
            },
        }
