"""A grade: cumulative logits, quadratic-weighted kappa, accuracy within one grade, discrimination at every grade."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pmfed.study.outcomes.ordinal import OrdinalOutcome
from pmfed.tasks.histograms import Histograms
from pmfed.tasks.losses import binary_entropy
from pmfed.tasks.scores import area_under_roc, calibration, ratio
from pmfed.tasks.task import Floats, Metric, mean_of_known, one_hot, redraw

EACH = {"auroc": "AUROC", "oe": "observed / expected", "calibration_slope": "calibration slope"}


class Ordinal:
    """One output for every grade but the lowest: the logit of the chance of that grade or a higher one.

    The loss asks of every grade whether it was reached and adds the answers' cross-entropies up (Cao, Mirjalili and Raschka
    2020, Pattern Recognition Letters 140:325). The likelihood of the grade itself has a logarithm of a difference of
    neighbouring chances, which is not there once noise has put two of them in the wrong order. What is told is put in order:
    a chance counts as no larger than that of the grade below. The grade told is the middle one, with as much chance
    below as above.
    """

    def __init__(self, outcome: OrdinalOutcome, coarse: bool = False) -> None:
        self.metrics = outcome.metrics
        self.classes, self._reached = outcome.classes, outcome.reached
        self.histograms = Histograms(outcome.outputs, coarse)
        self.confusion = len(self.classes) ** 2
        self.cells = self.confusion + self.histograms.cells
        self.histogram = slice(0, self.confusion)
        self.sensitivity = float(np.sqrt(1 + outcome.outputs))  # one cell of the confusion, one per histogram
        self.details = (
            Metric("grade_error", "mean distance in grades", False),
            Metric("no_information", "accuracy of the commonest grade for all", True),
            *(Metric(f"{key}_{name}", f"{label} of {name} or higher", True) for name in self.classes[1:] for key, label in EACH.items()),
        )  # fmt: skip

    def bias(self) -> torch.Tensor:
        return torch.logit(torch.tensor(self._reached, dtype=torch.float32))

    def targets(self, values: npt.NDArray[Any]) -> torch.Tensor:
        """Return whether each grade but the lowest was reached, (B, classes - 1)."""
        return torch.from_numpy(self._at_least(values).astype(np.float32))

    def _at_least(self, values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        return np.asarray(values)[:, None] >= np.arange(1, len(self.classes))

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return binary_entropy(outputs, targets).sum(dim=1)

    def predict(self, outputs: Floats) -> npt.NDArray[np.int64]:
        """Return the middle grade of each record, (B,)."""
        return np.asarray((np.minimum.accumulate(outputs, axis=1) > 0).sum(axis=1), dtype=np.int64)

    def recalibrator(self) -> None:
        return None

    def rows(self, outputs: Floats, values: npt.NDArray[Any]) -> Floats:
        truth = np.asarray(values, dtype=np.int64)
        square = one_hot(truth * len(self.classes) + self.predict(outputs), self.confusion)
        ordered = np.minimum.accumulate(outputs, axis=1)
        return np.concatenate([square, self.histograms.rows(ordered, self._at_least(truth))], axis=1)

    def _confusion(self, total: Floats) -> Floats:
        """Return patients (..., true, said)."""
        count = len(self.classes)
        return np.clip(total[..., : self.confusion], 0, None).reshape(*total.shape[:-1], count, count)

    def measure(self, total: Floats) -> dict[str, Floats]:
        confusion, grades = self._confusion(total), np.arange(len(self.classes))
        apart = np.abs(grades[:, None] - grades)
        whole = confusion.sum(axis=(-2, -1))
        by_chance = confusion.sum(axis=-1)[..., :, None] * confusion.sum(axis=-2)[..., None, :]
        wrong = (confusion * apart**2).sum(axis=(-2, -1))
        negative, positive = self.histograms.parts(total[..., self.confusion :])
        return {
            "weighted_kappa": 1 - ratio(wrong * whole, (by_chance * apart**2).sum(axis=(-2, -1))),
            "accuracy": ratio((confusion * (apart == 0)).sum(axis=(-2, -1)), whole),
            "within_one": ratio((confusion * (apart <= 1)).sum(axis=(-2, -1)), whole),
            "auroc": np.clip(mean_of_known(area_under_roc(negative, positive)), 0.0, 1.0),
        }

    def detail(self, total: Floats) -> dict[str, Floats]:
        confusion, grades = self._confusion(total), np.arange(len(self.classes))
        whole = confusion.sum(axis=(-2, -1))
        negative, positive = self.histograms.parts(total[..., self.confusion :])
        each = {"auroc": area_under_roc(negative, positive), **calibration(negative, positive, self.histograms.logits)}
        return {
            "grade_error": ratio((confusion * np.abs(grades[:, None] - grades)).sum(axis=(-2, -1)), whole),
            "no_information": ratio(confusion.sum(axis=-1).max(axis=-1), whole),
            **{f"{key}_{name}": each[key][..., place] for place, name in enumerate(self.classes[1:]) for key in EACH},
        }

    def resample(self, total: Floats, draws: int, random: np.random.Generator) -> Floats:
        # Confusion and histograms are drawn apart: each metric reads only one of them.
        confusion = redraw(total[: self.confusion], draws, random)
        return np.concatenate([confusion, self.histograms.resample(total[self.confusion :], draws, random)], axis=1)

    def curves(self, total: Floats, noise: float = 0.0) -> dict[str, Any]:
        return {"confusion": {"classes": list(self.classes), "counts": self._confusion(total).round(1).tolist()}}
