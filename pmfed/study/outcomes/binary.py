"""A yes-or-no outcome."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import PositiveFloat, model_validator

from pmfed.study.counted import Counted, OneOf
from pmfed.study.outcome import Columns, Floats, Link, Metric, Outcome
from pmfed.study.outcomes.classes import misspelled, no_weights, strange


class BinaryOutcome(Outcome):
    """``task = "binary"``: which of two ``classes``, negative first. ``baseline`` is the prevalence of the second.

    With ``class_weights`` a patient's loss counts by class, divided by the largest weight. The outputs are put right for it
    (King and Zeng 2001), so probabilities stay those of the patients there are.
    """

    task: Literal["binary"] = "binary"
    classes: tuple[str, ...] = ()
    class_weights: tuple[PositiveFloat, ...] = ()

    LATER: ClassVar[frozenset[str]] = frozenset({"class_weights"})
    since_first: ClassVar[bool] = True
    scored_by: ClassVar[str] = "pmfed.tasks.binary:Binary"
    link: ClassVar[Link] = "logistic"
    recalibrated: ClassVar[bool] = True

    @model_validator(mode="after")
    def _fits(self) -> BinaryOutcome:
        if why := misspelled(self.task, self.classes, exactly=2):
            raise ValueError(why)
        if why := no_weights(self.classes, self.class_weights):
            raise ValueError(why)
        if isinstance(self.baseline, tuple):
            raise ValueError("'baseline' of a binary outcome is one number")
        if self.baseline is not None and not 0 < self.baseline < 1:
            raise ValueError("'baseline' of a binary outcome is the prevalence, between 0 and 1")
        return self

    @property
    def prevalence(self) -> float:
        """The public share of the second class, a half where none is given."""
        return self.baseline if isinstance(self.baseline, float) else 0.5

    @property
    def meaning(self) -> str:
        return " or ".join(self.classes)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return (
            Metric("auroc", "AUROC", True),
            Metric("accuracy", "accuracy", True),
            Metric("balanced_accuracy", "balanced accuracy", True),
            Metric("brier", "Brier score", False, headline=False),
        )

    @property
    def spelled(self) -> tuple[str, ...]:
        return self.classes

    def read(self, table: Columns) -> Floats:
        return table.category(self.column, self.classes, strange(self.classes))

    @property
    def counted(self) -> tuple[Counted, ...]:
        return (OneOf(self.column, "", self.classes),)

    def extremes(self, pixels: tuple[int, ...] = ()) -> npt.NDArray[Any]:
        return np.array([0, 1])

    def typical(self, pixels: tuple[int, ...] = ()) -> tuple[Floats, npt.NDArray[Any]]:
        return np.array([1 - self.prevalence, self.prevalence]), np.array([0, 1], dtype=self.dtype)

    def answer(self) -> dict[str, Any]:
        return super().answer() | {"classes": self.classes}
