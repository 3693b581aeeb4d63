"""Several findings at once: logistic loss of each, macro AUROC and average precision, and every label's own figures."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pmfed.study.outcomes.multilabel import MultilabelOutcome
from pmfed.tasks.histograms import Histograms
from pmfed.tasks.losses import binary_entropy
from pmfed.tasks.scores import area_under_roc, average_precision, calibration, expit, ratio
from pmfed.tasks.task import Floats, Metric, mean_of_known

EACH = {
    "auroc": "AUROC", "auprc": "average precision", "prevalence": "share of patients", "oe": "observed / expected",
    "calibration_slope": "calibration slope",
}  # fmt: skip


class Multilabel:
    """One output per label: its logit. A label that nobody looked for says nothing.

    The labels' losses are added up and divided by the root of their number: a patient's gradient is then about as long as
    that of one label alone, and clips and steps that suit a yes-or-no outcome suit this one.
    """

    def __init__(self, outcome: MultilabelOutcome, coarse: bool = False) -> None:
        self.metrics = outcome.metrics
        self.labels, self._prevalences = outcome.labels, outcome.prevalences
        self.histograms = Histograms(len(self.labels), coarse)
        self.cells = self.histograms.cells
        self.histogram = slice(0, 2 * self.histograms.bins)
        self.sensitivity = float(np.sqrt(len(self.labels)))  # one cell of each label's histogram
        self.details = (
            Metric("ece", "expected calibration error, mean over labels", False),
            *(
                Metric(f"{key}_{name}", f"{label} of {name}", True)
                for name in self.labels
                for key, label in EACH.items()
            ),
        )

    def bias(self) -> torch.Tensor:
        return torch.logit(torch.tensor(self._prevalences, dtype=torch.float32))

    def targets(self, values: npt.NDArray[Any]) -> torch.Tensor:
        """Return 0, 1, or -1 for a label that nobody looked for, (B, labels)."""
        return torch.from_numpy(np.nan_to_num(np.asarray(values, dtype=np.float32), nan=-1.0))

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        known = (targets >= 0).to(outputs.dtype)
        each = binary_entropy(outputs, targets.clamp(min=0.0).to(outputs.dtype)) * known
        return each.sum(dim=1) / math.sqrt(len(self.labels))

    def recalibrator(self) -> None:
        return None

    def rows(self, outputs: Floats, values: npt.NDArray[Any]) -> Floats:
        truth = np.asarray(values, dtype=np.float64)
        return self.histograms.rows(outputs, truth > 0.5, np.isfinite(truth))

    def measure(self, total: Floats) -> dict[str, Floats]:
        negative, positive = self.histograms.parts(total)
        scores = expit(self.histograms.logits)
        error = (negative * scores**2 + positive * (1 - scores) ** 2).sum(axis=-1)
        told = {
            "auroc": area_under_roc(negative, positive),
            "auprc": average_precision(negative, positive),
            "brier": ratio(error, (negative + positive).sum(axis=-1)),
        }
        # Noise can carry a share past its ends.
        return {name: np.clip(mean_of_known(each), 0.0, 1.0) for name, each in told.items()}

    def detail(self, total: Floats) -> dict[str, Floats]:
        negative, positive = (np.clip(part, 0, None) for part in self.histograms.parts(total))
        agreement = calibration(negative, positive, self.histograms.logits)
        each = {
            "auroc": area_under_roc(negative, positive),
            "auprc": average_precision(negative, positive),
            "prevalence": ratio(positive.sum(axis=-1), (negative + positive).sum(axis=-1)),
            **agreement,
        }
        own = {f"{key}_{name}": each[key][..., place] for place, name in enumerate(self.labels) for key in EACH}
        return {"ece": mean_of_known(agreement["ece"]), **own}

    def resample(self, total: Floats, draws: int, random: np.random.Generator) -> Floats:
        return self.histograms.resample(total, draws, random)

    def curves(self, total: Floats, noise: float = 0.0) -> dict[str, Any]:
        return {}
