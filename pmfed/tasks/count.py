"""A count: Poisson loss of the logarithm of what is expected, deviance, absolute error, predicted against true."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pmfed.study.outcomes.count import CountOutcome
from pmfed.tasks.scores import ratio
from pmfed.tasks.task import Floats, Metric, one_hot, redraw

GRID = 24  # groups of counts, of each axis of predicted against true
COARSE = 6
CAP = 25.0  # most of a patient's deviance that counts: five standard deviations of a Poisson law
NUMBERS = 4  # deviance, absolute error, count, expected count: each as a share of the most it can be


class Count:
    """One output: the logarithm of the expected count.

    What is expected ends at the largest possible count: beyond it the loss goes on along its tangent, so that no slope is
    larger than that count, whatever the output.
    """

    details = (
        Metric("observed_mean", "mean count", False),
        Metric("expected_mean", "mean expected count", False),
        Metric("oe", "observed / expected (1 is right)", True),
    )
    sensitivity = float(np.sqrt(NUMBERS + 1))  # and one cell of predicted against true

    def __init__(self, outcome: CountOutcome, coarse: bool = False) -> None:
        self.metrics = outcome.metrics
        self.most, self.mean = outcome.most, outcome.mean
        self.end = float(np.log(self.most))
        grid = COARSE if coarse else GRID
        # A group for every count where there is room; else groups that grow with the count.
        even = np.unique(np.ceil((self.most + 1) * (np.arange(grid + 1) / grid) ** 2))
        self.edges = np.arange(self.most + 2.0) if self.most < grid else even
        self.grid = len(self.edges) - 1
        self.middle = (self.edges[:-1] + self.edges[1:] - 1) / 2
        self.cells = NUMBERS + self.grid**2
        self.histogram = slice(NUMBERS, self.cells)

    def bias(self) -> torch.Tensor:
        return torch.log(torch.tensor([self.mean], dtype=torch.float32))

    def targets(self, values: npt.NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(np.asarray(values, dtype=np.float32))

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        output = outputs[:, 0]
        return output.clamp(max=self.end).exp() + self.most * (output - self.end).clamp(min=0.0) - targets * output

    def predict(self, outputs: Floats) -> Floats:
        """Return the expected counts, (B,)."""
        return np.minimum(np.exp(np.minimum(outputs[:, 0], self.end)), float(self.most))

    def recalibrator(self) -> None:
        return None

    def rows(self, outputs: Floats, values: npt.NDArray[Any]) -> Floats:
        truth, expected = np.asarray(values, dtype=np.float64), self.predict(outputs)
        shares = [
            deviance(truth, expected) / CAP,
            *(part / self.most for part in (abs(truth - expected), truth, expected)),
        ]
        square = self._group(expected) * self.grid + self._group(truth)
        return np.column_stack([*shares, one_hot(square, self.grid**2)])

    def _group(self, counts: Floats) -> npt.NDArray[np.int64]:
        return np.clip(np.searchsorted(self.edges, counts, side="right") - 1, 0, self.grid - 1)

    def _means(self, total: Floats) -> tuple[Floats, ...]:
        """Return the mean deviance, absolute error, count and expected count of sums (..., cells)."""
        patients = total[..., NUMBERS:].sum(axis=-1)
        scales = (CAP, self.most, self.most, self.most)
        return tuple(np.clip(ratio(total[..., k], patients), 0.0, 1.0) * scale for k, scale in enumerate(scales))

    def measure(self, total: Floats) -> dict[str, Floats]:
        lost, error, mean, _ = self._means(total)
        true = np.clip(total[..., NUMBERS:].reshape(*total.shape[:-1], self.grid, self.grid).sum(axis=-2), 0, None)
        # What the mean of all would lose, capped alike; of a group of counts, whoever is in it is taken for its middle.
        constant = deviance(self.middle, np.maximum(mean, 1e-9)[..., None])
        nothing = ratio((true * constant).sum(axis=-1), true.sum(axis=-1))
        return {"deviance": lost, "deviance_explained": 1 - ratio(lost, nothing), "mae": error}

    def detail(self, total: Floats) -> dict[str, Floats]:
        _, _, mean, expected = self._means(total)
        return {"observed_mean": mean, "expected_mean": expected, "oe": ratio(mean, expected)}

    def resample(self, total: Floats, draws: int, random: np.random.Generator) -> Floats:
        cells = total[NUMBERS:]
        drawn = np.zeros((draws, self.cells))
        drawn[:, NUMBERS:] = picked = redraw(cells, draws, random)
        count = picked.sum(axis=1)
        # Within a cell patients are taken for its middle; the offset makes the mean over all draws the exact one.
        expected, truth = np.repeat(self.middle, self.grid), np.tile(self.middle, self.grid)
        lost = deviance(truth, np.maximum(expected, 0.5)) / CAP
        for column, figures in enumerate(
            (lost, *(part / self.most for part in (abs(truth - expected), truth, expected)))
        ):
            offset = (total[column] - cells @ figures) / max(cells.sum(), 1e-9)
            drawn[:, column] = picked @ figures + count * offset
        return drawn

    def curves(self, total: Floats, noise: float = 0.0) -> dict[str, Any]:
        counts = np.clip(total[NUMBERS:], 0, None).reshape(self.grid, self.grid)
        return {"predicted_true": {"edges": self.edges.tolist(), "counts": counts.round(1).tolist()}}


def deviance(truth: Floats, expected: Floats) -> Floats:
    """Return the Poisson deviance of each count, at most ``CAP``."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        logs = np.where(truth > 0, truth * np.log(truth / expected), 0.0)
        return np.clip(np.nan_to_num(2 * (logs - truth + expected), nan=CAP, posinf=CAP), 0.0, CAP)
