"""A grade: one of several classes that have an order."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import model_validator

from pmfed.study.counted import Counted, OneOf
from pmfed.study.outcome import Columns, Floats, Link, Metric, Outcome
from pmfed.study.outcomes.classes import misspelled, parts_of_one, strange, uneven

GRADES = "the grades, the lowest first, three or more"


class OrdinalOutcome(Outcome):
    """``task = "ordinal"``: which of ``classes``, the lowest first. ``baseline`` are their shares.

    The outputs are cumulative logits: one for every grade but the lowest, of the chance that the grade is that or higher.
    Patients differ in one risk, whose odds are proportional over the grades (McCullagh 1980).
    """

    task: Literal["ordinal"] = "ordinal"
    classes: tuple[str, ...] = ()

    scored_by: ClassVar[str] = "pmfed.tasks.ordinal:Ordinal"
    link: ClassVar[Link] = "grades"

    @model_validator(mode="after")
    def _fits(self) -> OrdinalOutcome:
        if why := misspelled(self.task, self.classes, which=GRADES):
            raise ValueError(why)
        if len(self.classes) < 3:
            raise ValueError("an ordinal outcome has three grades or more; of two, task = 'binary' says the same")
        if why := uneven(self.task, self.classes, self.baseline):
            raise ValueError(why)
        return self

    @property
    def reached(self) -> Floats:
        """The public shares of patients at each grade but the lowest or a higher one, (classes - 1,)."""
        shares = parts_of_one(self.classes, self.baseline)
        return np.asarray(1 - np.cumsum(shares)[:-1], dtype=np.float64)

    @property
    def meaning(self) -> str:
        return f"a grade: {', '.join(self.classes[:-1])} or {self.classes[-1]}"

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return (
            Metric("weighted_kappa", "quadratic-weighted kappa", True),
            Metric("accuracy", "accuracy", True),
            Metric("within_one", "accuracy within one grade", True),
            Metric("auroc", "mean AUROC over the grades", True),
        )

    @property
    def spelled(self) -> tuple[str, ...]:
        return self.classes

    def read(self, table: Columns) -> Floats:
        return table.category(self.column, self.classes, strange(self.classes))

    @property
    def counted(self) -> tuple[Counted, ...]:
        return (OneOf(self.column, "", self.classes),)

    @property
    def outputs(self) -> int:
        return len(self.classes) - 1

    @property
    def one_risk(self) -> bool:
        return True

    @property
    def curvature(self) -> float:
        return 0.25 * self.outputs  # one risk moves all of them

    def extremes(self, pixels: tuple[int, ...] = ()) -> npt.NDArray[Any]:
        return np.array([0, len(self.classes) - 1])

    def typical(self, pixels: tuple[int, ...] = ()) -> tuple[Floats, npt.NDArray[Any]]:
        return parts_of_one(self.classes, self.baseline), np.arange(len(self.classes), dtype=self.dtype)

    def answer(self) -> dict[str, Any]:
        return super().answer() | {"classes": self.classes}
