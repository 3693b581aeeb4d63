"""One class of several: cross-entropy, accuracy, macro AUROC, confusion."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pmfed.recalibration import Temperature
from pmfed.study.outcomes.multiclass import MulticlassOutcome
from pmfed.tasks.losses import cross_entropy
from pmfed.tasks.scores import area_under_roc, average_precision, calibration, expit, ratio
from pmfed.tasks.task import Floats, Metric, mean_of_known, one_hot, redraw

BINS = 200  # of the probability of each class, on the logit scale
COARSE = 10
LOGITS = 10.0


EACH = {
    "sensitivity": "sensitivity", "specificity": "specificity", "ppv": "positive predictive value", "f1": "F1",
    "auroc": "AUROC", "oe": "observed / expected", "calibration_slope": "calibration slope",
}  # fmt: skip


class Multiclass:
    """Several classes, one output each."""

    def __init__(self, outcome: MulticlassOutcome, coarse: bool = False) -> None:
        self.metrics = outcome.metrics
        self.bins = COARSE if coarse else BINS
        self.classes = outcome.classes
        count = len(outcome.classes)
        self._log_shares = torch.log(torch.tensor(outcome.shares, dtype=torch.float32))
        self._balanced = outcome.balanced
        self._weights = torch.tensor(outcome.class_weights, dtype=torch.float32) if outcome.class_weights else None
        self.confusion = count * count
        self.cells = self.confusion + count * 2 * self.bins
        self.histogram = slice(0, self.confusion)
        self.sensitivity = float(np.sqrt(1 + count))  # one cell of the confusion, one per class histogram
        self.logits = (np.arange(self.bins) + 0.5) / self.bins * 2 * LOGITS - LOGITS
        self.details = (
            Metric("no_information", "accuracy of the commonest class for all", True),
            Metric("macro_f1", "macro F1", True),
            Metric("kappa", "Cohen's kappa", True),
            Metric("auprc", "macro average precision", True),
            Metric("brier", "Brier score over all classes", False),
            Metric("ece", "expected calibration error, mean over classes", False),
            *(
                Metric(f"{key}_{name}", f"{label} of {name}", True)
                for name in self.classes
                for key, label in EACH.items()
            ),
        )

    def bias(self) -> torch.Tensor:
        return torch.zeros_like(self._log_shares) if self._balanced else self._log_shares

    def targets(self, values: npt.NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(np.asarray(values, dtype=np.int64))

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        adjusted = outputs + self._log_shares.to(outputs) if self._balanced else outputs
        if self._weights is None:
            return cross_entropy(adjusted, targets)
        weights = self._weights.to(
            outputs
        )  # which moves the outputs by their logarithms; those without are the model's
        return (weights / weights.max())[targets] * cross_entropy(outputs + weights.log(), targets)

    def recalibrator(self) -> Temperature:
        return Temperature(np.exp(self._log_shares.double().numpy()), self._balanced)

    def rows(self, outputs: Floats, values: npt.NDArray[Any]) -> Floats:
        count = len(self.classes)
        truth = np.asarray(values, dtype=np.int64)
        shifted = np.exp(outputs - outputs.max(axis=1, keepdims=True))
        probability = np.clip(shifted / shifted.sum(axis=1, keepdims=True), 1e-9, 1 - 1e-9)
        scaled = (np.clip(np.log(probability / (1 - probability)), -LOGITS, LOGITS) + LOGITS) / (2 * LOGITS)
        bins = np.minimum((scaled * self.bins).astype(np.int64), self.bins - 1)
        parts = [one_hot(truth * count + outputs.argmax(axis=1), self.confusion)]
        parts += [one_hot(bins[:, index] + self.bins * (truth == index), 2 * self.bins) for index in range(count)]
        return np.concatenate(parts, axis=1)

    def measure(self, total: Floats) -> dict[str, Floats]:
        count = len(self.classes)
        shape = total.shape[:-1]
        confusion = np.clip(total[..., : self.confusion], 0, None).reshape(*shape, count, count)
        right, sizes = np.diagonal(confusion, axis1=-2, axis2=-1), confusion.sum(axis=-1)
        histograms = total[..., self.confusion :].reshape(*shape, count, 2, self.bins)
        areas = area_under_roc(histograms[..., 0, :], histograms[..., 1, :])
        found = {
            "accuracy": ratio(right.sum(axis=-1), sizes.sum(axis=-1)),
            "balanced_accuracy": mean_of_known(ratio(right, sizes)),
            "auroc": mean_of_known(areas),
        }
        # Noise can carry a share past its ends.
        return {name: np.clip(value, 0.0, 1.0) for name, value in found.items()}

    def detail(self, total: Floats) -> dict[str, Floats]:
        count, shape = len(self.classes), total.shape[:-1]
        confusion = np.clip(total[..., : self.confusion], 0, None).reshape(*shape, count, count)
        right, true, said = np.diagonal(confusion, axis1=-2, axis2=-1), confusion.sum(axis=-1), confusion.sum(axis=-2)
        whole = true.sum(axis=-1)
        chance = ratio((true * said).sum(axis=-1), whole**2)
        histograms = np.clip(total[..., self.confusion :], 0, None).reshape(*shape, count, 2, self.bins)
        negative, positive = histograms[..., 0, :], histograms[..., 1, :]
        scores, patients = expit(self.logits), (negative + positive).sum(axis=-1)
        error = (negative * scores**2 + positive * (1 - scores) ** 2).sum(axis=-1)
        agreement = calibration(negative, positive, self.logits)
        each = {
            "sensitivity": ratio(right, true),
            "specificity": ratio(whole[..., None] - true - said + right, whole[..., None] - true),
            "ppv": ratio(right, said),
            "f1": ratio(2 * right, true + said),
            "auroc": area_under_roc(negative, positive),
            **agreement,
        }
        return {
            "no_information": ratio(true.max(axis=-1), whole),
            "macro_f1": mean_of_known(each["f1"]),
            "kappa": ratio(ratio(right.sum(axis=-1), whole) - chance, 1 - chance),
            "auprc": mean_of_known(average_precision(negative, positive)),
            "brier": ratio(error, patients).sum(axis=-1),
            "ece": mean_of_known(agreement["ece"]),
            **{f"{key}_{name}": each[key][..., place] for place, name in enumerate(self.classes) for key in EACH},
        }

    def resample(self, total: Floats, draws: int, random: np.random.Generator) -> Floats:
        # Confusion and histograms are drawn apart: each metric reads only one of them.
        parts = [total[: self.confusion], *total[self.confusion :].reshape(len(self.classes), 2 * self.bins)]
        return np.concatenate([redraw(part, draws, random) for part in parts], axis=1)

    def curves(self, total: Floats, noise: float = 0.0) -> dict[str, Any]:
        count = len(self.classes)
        confusion = np.clip(total[: self.confusion], 0, None).reshape(count, count)
        return {"confusion": {"classes": list(self.classes), "counts": confusion.round(1).tolist()}}
