"""One class of several, in no order."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import PositiveFloat, model_validator

from pmfed.study.counted import Counted, OneOf
from pmfed.study.outcome import Columns, Floats, Link, Metric, Outcome
from pmfed.study.outcomes.classes import misspelled, no_weights, parts_of_one, shares, strange, uneven


class MulticlassOutcome(Outcome):
    """``task = "multiclass"``: which of ``classes``. ``baseline`` are their shares.

    With ``balanced`` every class counts alike, however rare: training adds the logarithms of those shares to the outputs
    (logit adjustment, Menon et al. 2021), so the outputs themselves are the scores of a population in which all classes are
    as frequent. With ``class_weights`` a patient's loss counts by class, divided by the largest weight, and the outputs are put
    right for it: probabilities stay those of the patients there are.
    """

    task: Literal["multiclass"] = "multiclass"
    classes: tuple[str, ...] = ()
    balanced: bool = False
    class_weights: tuple[PositiveFloat, ...] = ()

    LATER: ClassVar[frozenset[str]] = frozenset({"class_weights"})
    since_first: ClassVar[bool] = True
    scored_by: ClassVar[str] = "pmfed.tasks.multiclass:Multiclass"
    link: ClassVar[Link] = "softmax"
    recalibrated: ClassVar[bool] = True
    dtype: ClassVar[type[np.generic]] = np.int64

    @model_validator(mode="after")
    def _fits(self) -> MulticlassOutcome:
        if why := misspelled(self.task, self.classes):
            raise ValueError(why)
        if why := no_weights(self.classes, self.class_weights):
            raise ValueError(why)
        if self.balanced and self.class_weights:
            raise ValueError("'balanced' and 'class_weights' are two ways to weigh classes; choose one")
        if self.balanced and self.baseline is None:
            raise ValueError("'balanced' needs a multiclass outcome with 'baseline', the share of every class")
        if why := uneven(self.task, self.classes, self.baseline):
            raise ValueError(why)
        return self

    @property
    def shares(self) -> tuple[float, ...]:
        """The public share of every class."""
        return shares(self.classes, self.baseline)

    @property
    def meaning(self) -> str:
        return " or ".join(self.classes)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return (
            Metric("accuracy", "accuracy", True),
            Metric("balanced_accuracy", "balanced accuracy", True),
            Metric("auroc", "macro AUROC", True),
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
        return len(self.classes)

    def extremes(self, pixels: tuple[int, ...] = ()) -> npt.NDArray[Any]:
        return np.array([0, len(self.classes) - 1])

    def typical(self, pixels: tuple[int, ...] = ()) -> tuple[Floats, npt.NDArray[Any]]:
        return parts_of_one(self.classes, self.baseline), np.arange(len(self.classes))

    def answer(self) -> dict[str, Any]:
        return super().answer() | {"classes": self.classes}
