"""What a task is, and what every task shares: metrics as functions of a sum, intervals by bootstrap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from pmfed.recalibration import Recalibrator
from pmfed.study.outcome import Metric as Metric
from pmfed.tasks.scores import ratio

Floats = npt.NDArray[np.float64]
ROOM = 2**22  # numbers held at a time: rows of records, bootstrap samples


class Task(Protocol):
    """One kind of outcome.

    Attributes
    ----------
    cells
        Length of the row that one held-out patient adds to the sum.
    sensitivity
        L2 norm that no patient's row exceeds.
    histogram
        Cells in one of which every patient stands; of several labels, of whom the first is known; of masks, who has any of the
        first class behind the background.
    """

    cells: int
    sensitivity: float
    histogram: slice

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics by which models are compared, the headline first."""
        ...

    @property
    def details(self) -> tuple[Metric, ...]:
        """What else is told of a finished model."""
        ...

    def __init__(self, outcome: Any, coarse: bool = False) -> None:
        """Make the task of an outcome of its kind; ``coarse`` for sums that carry noise: few cells, each well filled."""
        ...

    def bias(self) -> torch.Tensor:
        """Return the outputs (out,), of each pixel in a segmentation, of a model that knows only the public baseline."""
        ...

    def targets(self, values: npt.NDArray[Any]) -> torch.Tensor:
        """Turn outcomes in natural units, shape (B,) or (B, ...), into what `loss` compares with."""
        ...

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the loss of each record, shape (B,), from outputs (B, out) or (B, out, ...). No record depends on another."""
        ...

    def recalibrator(self) -> Recalibrator | None:
        """Return how outputs are recalibrated; None where they are not."""
        ...

    def rows(self, outputs: Floats, values: npt.NDArray[Any]) -> Floats:
        """Return what each record adds to the sum, shape (B, cells), from outputs and natural outcomes."""
        ...

    def measure(self, total: Floats) -> dict[str, Floats]:
        """Return the metrics of sums of rows (..., cells), each of shape (...); NaN where a sum cannot tell."""
        ...

    def detail(self, total: Floats) -> dict[str, Floats]:
        """Return `details` of sums of rows, as `measure` does."""
        ...

    def resample(self, total: Floats, draws: int, random: np.random.Generator) -> Floats:
        """Draw the sum of as many patients again, with replacement (the bootstrap): (draws, cells)."""
        ...

    def curves(self, total: Floats, noise: float = 0.0) -> dict[str, Any]:
        """Return what the report plots beside the metrics: calibration, predicted against true, confusion.

        ``noise`` is the standard deviation of the noise in each cell, which bands around curves then cover.
        """
        ...


def headline(task: Task, name: str | None) -> Metric:
    """Return the metric of that name, or the task's first."""
    return next((metric for metric in task.metrics if metric.name == name), task.metrics[0])


def measured(task: Task, totals: Sequence[Floats], *, detailed: bool = False) -> dict[str, Floats]:
    """Return the metrics of sums (..., cells) over sites: the plain mean of those sites that can tell."""
    told = [task.measure(total) | (task.detail(total) if detailed else {}) for total in totals]
    means = {}
    for name in told[0]:
        values = np.stack([one[name] for one in told])
        known = np.isfinite(values)
        count = known.sum(axis=0)
        means[name] = np.where(count > 0, np.where(known, values, 0.0).sum(axis=0) / np.maximum(count, 1), np.nan)
    return means


def intervals(
    task: Task, totals: Sequence[Floats], *, noise: float = 0.0, draws: int = 1000, detailed: bool = False
) -> dict[str, tuple[float, float]]:
    """Return 95 % bootstrap intervals over patients for every metric.

    Parameters
    ----------
    task
        The task whose rows were summed.
    totals
        One sum (all patients together), or one per site whose metrics are averaged.
    noise
        Standard deviation of the noise in each cell; the intervals then cover it too.
    draws
        Bootstrap samples.
    detailed
        For the task's `details` too.

    Notes
    -----
    Rows are mostly one-hot cells, so drawing patients with replacement is drawing cells from a multinomial
    (Efron and Tibshirani 1993, chapter 6). The seed is fixed: the intervals describe sums that are published anyway.
    """
    random = np.random.default_rng(0)
    told = [total for total in totals if total.sum() > 0]
    if not told:
        return {}
    found: list[dict[str, Floats]] = []
    at_once = max(1, ROOM // task.cells)
    for start in range(0, draws, at_once):
        whole = [task.resample(total, min(at_once, draws - start), random) for total in told]
        if noise > 0:
            whole = [drawn + random.normal(0.0, noise, drawn.shape) for drawn in whole]
        found.append(measured(task, whole, detailed=detailed))
    result: dict[str, tuple[float, float]] = {}
    for name in found[0]:
        values = np.concatenate([one[name] for one in found])
        finite = values[np.isfinite(values)]
        if len(finite):
            low, high = np.percentile(finite, [2.5, 97.5])
            result[name] = (float(low), float(high))
    return result


def one_hot(index: npt.NDArray[np.int64], size: int) -> Floats:
    """Return rows (B, size) with a single 1 in each."""
    rows = np.zeros((len(index), size))
    rows[np.arange(len(index)), index] = 1.0
    return rows


def redraw(cells: Floats, draws: int, random: np.random.Generator) -> Floats:
    """Draw as many patients again over the same cells, (draws, cells); noise may have left cells below zero."""
    mass = nonnegative(cells)
    seen = np.flatnonzero(mass)
    drawn = np.zeros((draws, len(cells)))
    if len(seen):
        shares = mass[seen] / mass[seen].sum()
        drawn[:, seen] = random.multinomial(max(1, round(mass.sum())), shares, size=draws)
    return drawn


def nonnegative(cells: Floats) -> Floats:
    """Return the nearest cells that are not negative and have the same sum (Duchi et al. 2008).

    Noise leaves some cells below zero. Just cutting them off would make patients out of noise.
    """
    if len(cells) == 0 or cells.min() >= 0:
        return cells
    total = max(float(cells.sum()), 0.0)
    falling = np.sort(cells)[::-1]
    shift = (np.cumsum(falling) - total) / np.arange(1, len(cells) + 1)
    return np.clip(cells - shift[np.flatnonzero(falling > shift)[-1]] if total > 0 else cells * 0, 0.0, None)


def mean_of_known(values: Floats) -> Floats:
    """Return the mean over the last axis of what is not NaN: classes nobody had say nothing."""
    known = np.isfinite(values)
    return ratio(np.where(known, values, 0.0).sum(axis=-1), known.sum(axis=-1))


def thin(points: Floats, most: int = 120) -> list[list[float]]:
    """Return at most ``most`` of the points (N, 2) of a curve, both ends and no point twice, for a chart."""
    if not len(points):
        return []
    changed = np.append(True, np.any(np.diff(points, axis=0) != 0, axis=1))
    points = points[changed]
    place = np.unique(np.linspace(0, len(points) - 1, min(most, len(points))).round().astype(int))
    return [[round(float(x), 5), round(float(y), 5)] for x, y in points[place]]
