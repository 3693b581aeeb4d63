"""The time until an event, of patients who may leave before it."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import PositiveFloat, model_validator

from pmfed.study.counted import Counted, Event, Time
from pmfed.study.outcome import Columns, Floats, Link, Metric, Outcome
from pmfed.study.outcomes.classes import misspelled

WHICH = "the two values of 'event' (censored first)"


class SurvivalOutcome(Outcome):
    """``task = "survival"``: ``column`` is the time until the event or the last look at the patient.

    ``event`` says which of the two it was (``classes``: last look first), and ``intervals`` are the public ends of the
    pieces that time is cut into. Risk is that by ``horizon``, one of them. ``baseline`` is the hazard in every interval.
    """

    task: Literal["survival"] = "survival"
    classes: tuple[str, ...] = ()
    event: str | None = None
    intervals: tuple[PositiveFloat, ...] = ()
    horizon: PositiveFloat | None = None
    hazards: Literal["proportional", "free"] = "proportional"

    since_first: ClassVar[bool] = True
    scored_by: ClassVar[str] = "pmfed.tasks.survival:Survival"
    link: ClassVar[Link] = "hazards"
    recalibrated: ClassVar[bool] = True

    @model_validator(mode="after")
    def _fits(self) -> SurvivalOutcome:
        if why := misspelled(self.task, self.classes, exactly=2, which=WHICH):
            raise ValueError(why)
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
        base = self.baseline
        if base is not None and not (
            isinstance(base, tuple) and len(base) == len(self.intervals) and 0 < min(base) <= max(base) < 1
        ):
            raise ValueError("'baseline' of a survival outcome is one hazard between 0 and 1 per interval")
        return self

    @property
    def until(self) -> float:
        """The moment by which risk is told."""
        return self.horizon or self.intervals[-1]

    @property
    def hazard(self) -> tuple[float, ...]:
        """The public hazard in every interval: where none is given, as many events in each, as many after the last."""
        count = len(self.intervals)
        equal = tuple(1 / (count + 1 - place) for place in range(count))
        return self.baseline if isinstance(self.baseline, tuple) else equal

    @property
    def meaning(self) -> str:
        return f"the chance of '{self.event}' by then"

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return (
            Metric("c_index", "concordance index", True),
            Metric("integrated_brier", "integrated Brier score", False),
            Metric("calibration_gap", "predicted less observed risk", False, headline=False),
        )

    @property
    def spelled(self) -> tuple[str, ...]:
        return self.classes

    @property
    def columns(self) -> tuple[str, ...]:
        assert self.event is not None
        return (self.column, self.event)

    def read(self, table: Columns) -> Floats:
        assert self.event is not None
        times = table.number(self.column)
        table.refuse("with a time below zero", times < 0)
        what = f"where '{self.event}' is none of the study's two classes"
        return np.column_stack([times, table.category(self.event, self.classes, what)])

    @property
    def counted(self) -> tuple[Counted, ...]:
        assert self.event is not None
        return (Time(self.event, self.unit, self.intervals), Event(self.event, "", self.classes))

    @property
    def outputs(self) -> int:
        return len(self.intervals)

    @property
    def one_risk(self) -> bool:
        return self.hazards == "proportional"

    def extremes(self, pixels: tuple[int, ...] = ()) -> npt.NDArray[Any]:
        """Return who has the event at once, and who outlives the study."""
        return np.array([[0.0, 1.0], [self.intervals[-1], 0.0]])

    def typical(self, pixels: tuple[int, ...] = ()) -> tuple[Floats, npt.NDArray[Any]]:
        """Return somebody who outlives the study, and for each interval somebody with the event in it."""
        hazards = np.array(self.hazard)
        alive = np.append(1.0, np.cumprod(1 - hazards))
        starts = (0.0, *self.intervals[:-1])
        times = [[(a + b) / 2, 1.0] for a, b in zip(starts, self.intervals, strict=True)]
        return np.append(alive[-1], alive[:-1] * hazards), np.array([[self.intervals[-1], 0.0], *times], self.dtype)

    def answer(self) -> dict[str, Any]:
        return super().answer() | {"classes": self.classes, "intervals": self.intervals, "horizon": self.until}
