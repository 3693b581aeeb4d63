"""What a task is, and what every task shares: metrics as functions of a sum, intervals by bootstrap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt
import torch

from pmfed.study import Outcome

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Metric:
    """A figure of merit: its key in result.json, its name for people, and which way is better."""

    name: str
    label: str
    higher_is_better: bool


class Task(Protocol):
    """One kind of outcome.

    Attributes
    ----------
    metrics
        The metrics it knows, the headline first.
    cells
        Length of the row that one held-out patient adds to the sum.
    sensitivity
        L2 norm that no patient's row exceeds.
    """

    metrics: ClassVar[tuple[Metric, ...]]
    cells: int
    sensitivity: float

    def __init__(self, outcome: Outcome) -> None: ...

    def bias(self) -> torch.Tensor:
        """Return the outputs (out,) of a model that knows only the public baseline."""
        ...

    def targets(self, values: npt.NDArray[Any]) -> torch.Tensor:
        """Turn outcomes in natural units, shape (B,), into what `loss` compares with."""
        ...

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the loss of each record, shape (B,), from outputs (B, out). No record depends on another."""
        ...

    def rows(self, outputs: Floats, values: npt.NDArray[Any]) -> Floats:
        """Return what each record adds to the sum, shape (B, cells), from outputs and natural outcomes."""
        ...

    def measure(self, total: Floats) -> dict[str, float]:
        """Return the metrics of a sum of rows, NaN where it does not hold enough to tell."""
        ...

    def resample(self, total: Floats, random: np.random.Generator) -> Floats:
        """Draw the sum of as many patients again, with replacement (the bootstrap)."""
        ...

    def curves(self, total: Floats) -> dict[str, Any]:
        """Return what the report plots beside the metrics: calibration, predicted against true, confusion."""
        ...


def headline(task: Task, name: str | None) -> Metric:
    """Return the metric of that name, or the task's first."""
    return next((metric for metric in task.metrics if metric.name == name), task.metrics[0])


def average(measures: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the plain mean over sites of each metric, leaving out sites that cannot tell."""
    means: dict[str, float] = {}
    for name in measures[0] if measures else ():
        told = [measure[name] for measure in measures if np.isfinite(measure[name])]
        means[name] = float(np.mean(told)) if told else float("nan")
    return means


def intervals(
    task: Task, totals: Sequence[Floats], *, by_site: bool = False, draws: int = 1000, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Return 95 % bootstrap intervals over patients for every metric.

    Parameters
    ----------
    task
        The task whose rows were summed.
    totals
        One sum per site (or one for all).
    by_site
        Average the sites' metrics instead of measuring all patients together.
    draws
        Bootstrap samples.
    seed
        The intervals describe published sums; their randomness need not be secret.

    Notes
    -----
    Rows are mostly one-hot cells, so drawing patients with replacement is drawing cells from a multinomial
    (Efron and Tibshirani 1993, chapter 6).
    """
    random = np.random.default_rng(seed)
    told: dict[str, list[float]] = {metric.name: [] for metric in task.metrics}
    whole = [total for total in totals if total.sum() > 0]
    if not whole:
        return {}
    for _ in range(draws):
        drawn = [task.resample(total, random) for total in (whole if by_site else [sum(whole, np.zeros(task.cells))])]
        measure = average([task.measure(one) for one in drawn])
        for name, values in told.items():
            values.append(measure[name])
    result: dict[str, tuple[float, float]] = {}
    for name, values in told.items():
        finite = [value for value in values if np.isfinite(value)]
        if finite:
            low, high = np.percentile(finite, [2.5, 97.5])
            result[name] = (float(low), float(high))
    return result


def one_hot(index: npt.NDArray[np.int64], size: int) -> Floats:
    """Return rows (B, size) with a single 1 in each."""
    rows = np.zeros((len(index), size))
    rows[np.arange(len(index)), index] = 1.0
    return rows


def redraw(cells: Floats, random: np.random.Generator) -> Floats:
    """Draw as many patients again over the same cells; noise may have left cells below zero."""
    mass = np.clip(cells, 0.0, None)
    total = mass.sum()
    if total <= 0:
        return np.zeros_like(cells)
    return random.multinomial(max(1, round(total)), mass / total).astype(np.float64)


def area_under_roc(negative: Floats, positive: Floats) -> float:
    """Return the area under the ROC curve from histograms of scores over the same bins, ties counted half."""
    negative, positive = np.clip(negative, 0, None), np.clip(positive, 0, None)
    n, p = negative.sum(), positive.sum()
    if n <= 0 or p <= 0:
        return float("nan")
    below = np.cumsum(negative) - negative
    return float((positive * (below + 0.5 * negative)).sum() / (n * p))
