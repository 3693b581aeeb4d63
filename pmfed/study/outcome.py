"""``[outcome]``: what is predicted, and by which figures it is judged."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveFloat, model_validator

from pmfed.validate import Frozen

METRICS = {
    "binary": ("auroc", "accuracy", "balanced_accuracy"),
    "multiclass": ("accuracy", "balanced_accuracy", "auroc"),
    "regression": ("mae", "within_20", "rmse"),
    "segmentation": ("dice", "iou"),
    "survival": ("c_index", "integrated_brier"),
    "none": (),
}

_VALUES = "the values it can take (negative first)"


class Outcome(Frozen):
    """``[outcome]``: the column that is predicted.

    ``baseline`` is a public constant: prevalence (binary), mean in natural units (regression) or the
    shares of the classes (multiclass, segmentation) or the hazard in every interval (survival). The model's bias starts
    there. With ``balanced`` every class of a multiclass outcome counts alike, however rare: training adds the logarithms
    of those shares to the outputs (logit adjustment, Menon et al. 2021), so the outputs themselves are the scores of a
    population in which all classes are as frequent. Of a segmentation ``column`` lists mask files in ``folder``, whose pixels hold ``values``, one per class; the
    first class is the background. Of a survival outcome ``column`` is the time until the event or the last look at the
    patient, ``event`` says which of the two it was (``classes``: last look first), and ``intervals`` are the public ends
    of the pieces that time is cut into. Risk is that by ``horizon``, one of them.
    """

    column: str
    task: Literal["binary", "multiclass", "regression", "segmentation", "survival", "none"]
    classes: tuple[str, ...] = ()
    transform: Literal["none", "sqrt", "log"] = "none"
    baseline: float | tuple[float, ...] | None = None
    balanced: bool = False
    scale: PositiveFloat = 1.0
    minimum: float | None = None
    maximum: float | None = None
    unit: str = ""
    folder: str | None = None
    values: tuple[int, ...] = ()
    event: str | None = None
    intervals: tuple[PositiveFloat, ...] = ()
    horizon: PositiveFloat | None = None
    hazards: Literal["proportional", "free"] = "proportional"

    @model_validator(mode="after")
    def _fits_task(self) -> Outcome:
        if self.task == "regression":
            if self.classes:
                raise ValueError("a regression outcome has no 'classes'")
            if self.minimum is None or self.maximum is None:
                raise ValueError("a regression outcome needs 'minimum' and 'maximum', the possible values")
            if self.minimum >= self.maximum:
                raise ValueError("'minimum' must be below 'maximum'")
            if self.transform == "log" and self.minimum <= 0:
                raise ValueError("transform 'log' needs 'minimum' above 0")
            if self.transform == "sqrt" and self.minimum < 0:
                raise ValueError("transform 'sqrt' needs 'minimum' at or above 0")
        elif self.task != "none":
            expected = 2 if self.task in ("binary", "survival") else None
            if len(self.classes) < 2 or (expected and len(self.classes) != expected):
                which = "the two values of 'event' (censored first)" if self.task == "survival" else _VALUES
                raise ValueError(f"a {self.task} outcome needs 'classes', {which}")
            if len(set(self.classes)) != len(self.classes):
                raise ValueError("'classes' holds a value twice")
            if self.transform != "none" or self.scale != 1.0 or self.minimum is not None or self.maximum is not None:
                raise ValueError("only a regression outcome has 'transform', 'scale', 'minimum' and 'maximum'")
        self._fits_masks()
        self._fits_time()
        base = self.baseline
        if self.balanced and not (self.task == "multiclass" and base is not None):
            raise ValueError("'balanced' needs a multiclass outcome with 'baseline', the share of every class")
        if self.task == "survival":
            if base is not None and not (
                isinstance(base, tuple) and len(base) == len(self.intervals) and 0 < min(base) <= max(base) < 1
            ):
                raise ValueError("'baseline' of a survival outcome is one hazard between 0 and 1 per interval")
        elif self.task in ("multiclass", "segmentation"):
            if base is not None and not (isinstance(base, tuple) and len(base) == len(self.classes) and min(base) > 0):
                raise ValueError(f"'baseline' of a {self.task} outcome is one share above 0 per class")
        elif isinstance(base, tuple):
            raise ValueError(f"'baseline' of a {self.task} outcome is one number")
        elif self.minimum is not None and self.maximum is not None and base is not None:
            if not self.minimum <= base <= self.maximum:
                raise ValueError("'baseline' must lie between 'minimum' and 'maximum'")
        elif self.task == "binary" and base is not None and not 0 < base < 1:
            raise ValueError("'baseline' of a binary outcome is the prevalence, between 0 and 1")
        return self

    def _fits_time(self) -> None:
        if self.task != "survival":
            if self.event is not None or self.intervals or self.horizon is not None or self.hazards != "proportional":
                raise ValueError("only a survival outcome has 'event', 'intervals', 'horizon' and 'hazards'")
            return
        if self.event is None or self.event == self.column:
            raise ValueError(
                "a survival outcome needs 'event', the column that says whether the event came at that time"
            )
        if not self.intervals or list(self.intervals) != sorted(set(self.intervals)):
            raise ValueError(
                "a survival outcome needs 'intervals', the ends of pieces of time, each above the one before"
            )
        if self.horizon is not None and self.horizon not in self.intervals:
            raise ValueError("'horizon' must be one of 'intervals'")

    def _fits_masks(self) -> None:
        if self.task != "segmentation":
            if self.folder is not None or self.values:
                raise ValueError("only a segmentation has 'folder' and 'values'")
            return
        if self.folder is None:
            raise ValueError("a segmentation needs 'folder', the source that the mask files lie in")
        if len(self.classes) > 256:
            raise ValueError("a segmentation has at most 256 'classes'")
        if self.values and (len(self.values) != len(self.classes) or len(set(self.values)) != len(self.values)):
            raise ValueError("'values' holds one number per class, each another")

    @property
    def outputs(self) -> int:
        """How many numbers the model gives per patient, or per pixel."""
        return len(self.classes) if self.task in ("multiclass", "segmentation") else max(1, len(self.intervals))

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the cohort table that the outcome is read from."""
        return tuple(name for name in (self.column, self.event) if name)


NOTHING = Outcome(column="", task="none")
"""Of a study that predicts nothing."""
