"""How often something happened: admissions, attacks, lesions."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import PositiveInt, model_validator

from pmfed.study.counted import Counted, Quantity
from pmfed.study.outcome import Columns, Floats, Link, Metric, Outcome


class CountOutcome(Outcome):
    """``task = "count"``: a whole number from 0 to ``maximum``. ``baseline`` is its mean, above 0."""

    task: Literal["count"] = "count"
    maximum: PositiveInt | None = None

    scored_by: ClassVar[str] = "pmfed.tasks.count:Count"
    link: ClassVar[Link] = "rate"

    @model_validator(mode="after")
    def _fits(self) -> CountOutcome:
        if self.maximum is None:
            raise ValueError("a count outcome needs 'maximum', the largest possible count")
        if self.baseline is not None and not (isinstance(self.baseline, float) and 0 < self.baseline <= self.maximum):
            raise ValueError("'baseline' of a count outcome is its mean, above 0 and at most 'maximum'")
        return self

    @property
    def most(self) -> int:
        """The largest possible count."""
        assert self.maximum is not None
        return self.maximum

    @property
    def mean(self) -> float:
        """The public mean, 1 where none is given."""
        return self.baseline if isinstance(self.baseline, float) else 1.0

    @property
    def meaning(self) -> str:
        return f"how often, from 0 to {self.most}"

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return (
            Metric("deviance", "mean Poisson deviance", False),
            Metric("deviance_explained", "deviance explained", True),
            Metric("mae", "mean absolute error", False),
        )

    def read(self, table: Columns) -> Floats:
        values = table.number(self.column)
        whole = np.isnan(values) | (values == np.floor(values))
        table.refuse("that is no whole number", ~whole)
        table.refuse(f"outside 0 to {self.most}, the possible counts", (values < 0) | (values > self.most))
        return values

    @property
    def counted(self) -> tuple[Counted, ...]:
        return (Quantity(self.column, self.unit, 0.0, float(self.most)),)

    @property
    def curvature(self) -> float:
        return self.mean

    def balance(self, values: npt.NDArray[Any]) -> list[tuple[str, int]]:
        """Return patients by their count: 0, 1, then groups twice as wide as the one before."""
        edges = [0, 1]
        while edges[-1] <= self.most:
            edges.append(2 * edges[-1])
        ends = [min(high - 1, self.most) for high in edges[1:]]
        names = [f"{low}" if low == end else f"{low} to {end}" for low, end in zip(edges, ends, strict=False)]
        places = np.searchsorted(edges, values, side="right") - 1
        return [(name, int((places == place).sum())) for place, name in enumerate(names)]

    def extremes(self, pixels: tuple[int, ...] = ()) -> npt.NDArray[Any]:
        return np.array([0.0, float(self.most)])

    def typical(self, pixels: tuple[int, ...] = ()) -> tuple[Floats, npt.NDArray[Any]]:
        """Return the counts that a Poisson law with the public mean gives, as far as they are likely."""
        last = min(self.most, int(self.mean + 6 * np.sqrt(self.mean)) + 6)
        values = np.arange(last + 1)
        logs = values * np.log(self.mean) - np.append(0.0, np.cumsum(np.log(values[1:])))
        shares = np.exp(logs - logs.max())
        return shares / shares.sum(), values.astype(self.dtype)

    def answer(self) -> dict[str, Any]:
        return super().answer() | {"minimum": 0.0, "maximum": float(self.most)}
