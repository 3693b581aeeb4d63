"""A number."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import PositiveFloat, model_validator

from pmfed.study.counted import Counted, Quantity
from pmfed.study.outcome import Columns, Floats, Link, Metric, Outcome


class RegressionOutcome(Outcome):
    """``task = "regression"``: a number between ``minimum`` and ``maximum``, learned on the scale of ``transform``.

    ``baseline`` is its mean in natural units; the transformed outcome is divided by ``scale``.
    """

    task: Literal["regression"] = "regression"
    transform: Literal["none", "sqrt", "log"] = "none"
    scale: PositiveFloat = 1.0
    minimum: float | None = None
    maximum: float | None = None

    since_first: ClassVar[bool] = True
    scored_by: ClassVar[str] = "pmfed.tasks.regression:Regression"
    link: ClassVar[Link] = "regression"

    @model_validator(mode="after")
    def _fits(self) -> RegressionOutcome:
        if self.minimum is None or self.maximum is None:
            raise ValueError("a regression outcome needs 'minimum' and 'maximum', the possible values")
        if self.minimum >= self.maximum:
            raise ValueError("'minimum' must be below 'maximum'")
        if self.transform == "log" and self.minimum <= 0:
            raise ValueError("transform 'log' needs 'minimum' above 0")
        if self.transform == "sqrt" and self.minimum < 0:
            raise ValueError("transform 'sqrt' needs 'minimum' at or above 0")
        if isinstance(self.baseline, tuple):
            raise ValueError("'baseline' of a regression outcome is one number")
        if self.baseline is not None and not self.minimum <= self.baseline <= self.maximum:
            raise ValueError("'baseline' must lie between 'minimum' and 'maximum'")
        return self

    @property
    def bounds(self) -> tuple[float, float]:
        """The smallest and the largest possible value."""
        assert self.minimum is not None
        assert self.maximum is not None
        return self.minimum, self.maximum

    @property
    def mean(self) -> float:
        """The public mean in natural units, the middle of the bounds where none is given."""
        return self.baseline if isinstance(self.baseline, float) else sum(self.bounds) / 2

    @property
    def centre(self) -> float:
        """The public mean on the transformed scale."""
        return float(self.forward(np.array([self.mean]))[0])

    def forward(self, values: npt.NDArray[Any]) -> Floats:
        """Return numbers in natural units on the transformed scale."""
        real = np.asarray(values, dtype=np.float64)
        return np.sqrt(real) if self.transform == "sqrt" else np.log(real) if self.transform == "log" else real

    @property
    def meaning(self) -> str:
        return "a number"

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return (
            Metric("mae", "mean absolute error", False),
            Metric("within_20", "within 20 %", True),
            Metric("rmse", "root mean squared error", False),
        )

    def read(self, table: Columns) -> Floats:
        values, (low, high) = table.number(self.column), self.bounds
        table.refuse(f"outside {low:g} to {high:g}, the possible values", (values < low) | (values > high))
        return values

    @property
    def counted(self) -> tuple[Counted, ...]:
        return (Quantity(self.column, self.unit, *self.bounds),)

    @property
    def curvature(self) -> float:
        return 1.0

    @property
    def endless(self) -> bool:
        return True

    @property
    def rare(self) -> bool:
        return False  # the middle of the bounds is no worse a start than the mean

    def extremes(self, pixels: tuple[int, ...] = ()) -> npt.NDArray[Any]:
        return np.array(self.bounds)

    def typical(self, pixels: tuple[int, ...] = ()) -> tuple[Floats, npt.NDArray[Any]]:
        """Return two numbers, as far from the baseline as a third of the way to the bounds."""
        return np.full(2, 0.5), (self.mean + (np.array(self.bounds) - self.mean) / 3).astype(self.dtype)

    def answer(self) -> dict[str, Any]:
        return super().answer() | {
            "transform": self.transform, "minimum": self.minimum, "maximum": self.maximum, "centre": self.centre,
            "scale": self.scale,
        }  # fmt: skip
