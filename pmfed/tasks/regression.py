"""A number: squared loss on a transformed scale, mean absolute error and share within 20 %."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from pmfed.study.outcomes.regression import RegressionOutcome
from pmfed.tasks.scores import ratio
from pmfed.tasks.task import Floats, Metric, one_hot, redraw

BINS = 256  # of the absolute error, finer near zero
GRID = 24  # predicted against true, per axis
COARSE = (16, 6)  # both, when cells carry noise


class Regression:
    """One output: the outcome on the transformed scale, centred at the baseline."""

    details: ClassVar[tuple[Metric, ...]] = (Metric("medae", "median absolute error", False),)
    sensitivity = 2.0  # |error| and error^2 as shares of the range, and two one-hot parts: each at most 1

    def __init__(self, outcome: RegressionOutcome, coarse: bool = False) -> None:
        self.metrics = outcome.metrics
        self.bins, self.grid = COARSE if coarse else (BINS, GRID)
        self.cells = 2 + 2 * self.bins + self.grid**2
        self.histogram = slice(2, 2 + 2 * self.bins)
        self.low, self.high = outcome.bounds
        self.transform, self.scale = outcome.transform, outcome.scale
        self.centre, self._forward = outcome.centre, outcome.forward

    def _backward(self, values: Floats) -> Floats:
        if self.transform == "sqrt":
            real = np.clip(values, 0, None) ** 2
        elif self.transform == "log":
            real = np.exp(np.clip(values, None, np.log(self.high)))
        else:
            real = values
        return np.clip(real, self.low, self.high)

    def bias(self) -> torch.Tensor:
        return torch.zeros(1)

    def targets(self, values: npt.NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(((self._forward(values) - self.centre) / self.scale).astype(np.float32))

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return 0.5 * (outputs[:, 0] - targets) ** 2

    def predict(self, outputs: Floats) -> Floats:
        """Return predictions in natural units, shape (B,)."""
        return self._backward(outputs[:, 0] * self.scale + self.centre)

    def recalibrator(self) -> None:
        return None

    def rows(self, outputs: Floats, values: npt.NDArray[Any]) -> Floats:
        truth = np.asarray(values, dtype=np.float64)
        predicted = self.predict(outputs)
        share = np.abs(predicted - truth) / (self.high - self.low)
        bins = np.minimum((np.sqrt(share) * self.bins).astype(np.int64), self.bins - 1)
        near = np.abs(predicted - truth) <= 0.2 * np.abs(truth)
        square = _cell(truth, self.low, self.high, self.grid) * self.grid + _cell(
            predicted, self.low, self.high, self.grid
        )
        return np.concatenate(
            [
                np.stack([share, share**2], axis=1),
                one_hot(bins + self.bins * near, 2 * self.bins),
                one_hot(square, self.grid**2),
            ],
            axis=1,
        )

    def measure(self, total: Floats) -> dict[str, Floats]:
        cells = total[..., 2 : 2 + 2 * self.bins]
        count = cells.sum(axis=-1)
        span = self.high - self.low
        return {
            "mae": ratio(total[..., 0], count) * span,
            "within_20": ratio(cells[..., self.bins :].sum(axis=-1), count),
            "rmse": np.sqrt(np.clip(ratio(total[..., 1], count), 0.0, None)) * span,
        }

    def detail(self, total: Floats) -> dict[str, Floats]:
        cells = np.clip(total[..., 2 : 2 + 2 * self.bins], 0, None)
        cells = cells[..., : self.bins] + cells[..., self.bins :]
        upto, half = np.cumsum(cells, axis=-1), cells.sum(axis=-1) / 2
        place = np.minimum((upto < half[..., None]).sum(axis=-1), self.bins - 1)
        inside = np.take_along_axis(cells, place[..., None], axis=-1)[..., 0]
        past = half - (np.take_along_axis(upto, place[..., None], axis=-1)[..., 0] - inside)
        middle = (place + np.clip(np.nan_to_num(ratio(past, inside)), 0, 1)) / self.bins  # spread evenly in its bin
        return {"medae": np.where(half > 0, middle**2 * (self.high - self.low), np.nan)}

    def resample(self, total: Floats, draws: int, random: np.random.Generator) -> Floats:
        drawn = np.zeros((draws, self.cells))
        cells = total[2 : 2 + 2 * self.bins]
        drawn[:, 2 : 2 + 2 * self.bins] = picked = redraw(cells, draws, random)
        count = picked.sum(axis=1)
        # Within a bin errors are taken for its middle; the offset makes the mean over all draws the exact one.
        middle = np.tile(((np.arange(self.bins) + 0.5) / self.bins) ** 2, 2)
        for column, powers in ((0, middle), (1, middle**2)):
            offset = (total[column] - cells @ powers) / max(cells.sum(), 1e-9)
            drawn[:, column] = picked @ powers + count * offset
        return drawn

    def curves(self, total: Floats, noise: float = 0.0) -> dict[str, Any]:
        counts = np.clip(total[2 + 2 * self.bins :], 0, None).reshape(self.grid, self.grid)
        edges = (self.low + (self.high - self.low) * (np.arange(self.grid + 1) / self.grid) ** 2).round(3)
        return {"predicted_true": {"edges": edges.tolist(), "counts": counts.round(1).tolist()}}


def _cell(values: Floats, low: float, high: float, grid: int) -> npt.NDArray[np.int64]:
    """Bins grow with the value: most outcomes of medicine are skewed to the right."""
    share = np.sqrt(np.clip((values - low) / (high - low), 0, 1))
    return np.minimum((share * grid).astype(np.int64), grid - 1)
