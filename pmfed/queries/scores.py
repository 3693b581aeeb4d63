"""Scores of held-out patients: the cells from which discrimination, calibration and errors are computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pmfed.privacy.mechanism import Role
from pmfed.queries.gradient import model_state
from pmfed.queries.query import Floats, RowSum, Shapes, SitePatients, Stage
from pmfed.queries.scored import patient_rows

if TYPE_CHECKING:
    from pmfed.tasks import Task


class Scores(RowSum):
    """The common model's scores of held-out patients; a patient's records weigh one together."""

    name: ClassVar[str] = "evaluation"
    whose: ClassVar[Role] = "held-out"
    stage: ClassVar[Stage] = "look"
    scaled: ClassVar[bool] = True

    @cached_property
    def task(self) -> Task:
        """The outcome, which makes cells of scores."""
        from pmfed.tasks import task_for

        return task_for(self.study)

    @property
    def exact(self) -> bool:
        return self.study.evaluation.release == "exact"

    @property
    def needed(self) -> bool:  # type: ignore[override]
        return self.exact

    @property
    def repeats(self) -> bool:  # type: ignore[override]
        return self.exact

    @property
    def times(self) -> int:
        """Private scores are released once; of exact ones a run is answered some for every evaluation there is."""
        rules = self.study.evaluation
        return 3 * (self.study.training.rounds // rules.every + 2) if self.exact else 1

    @property
    def bound(self) -> float:
        return self.task.sensitivity

    @property
    def noise(self) -> float:
        return 0.0 if self.exact else self.study.evaluation.release_noise

    @property
    def size(self) -> int:
        return self.task.cells

    @property
    def grid_unit(self) -> float:
        return 2.0**-10

    @property
    def weight(self) -> float:
        return 1.0

    @cached_property
    def state(self) -> Shapes:
        if self.study.recalibration is None:
            return model_state(self)
        return {**model_state(self), "recalibration": (np.float64, self.study.outcome.outputs + 1)}

    def due(self, number: int) -> bool:
        return number == 1 or (number > 0 and number % self.study.evaluation.every == 0)

    @property
    def by_site(self) -> bool:
        return self.study.evaluation.per_site

    @property
    def label(self) -> str:
        return "scores of held-out patients"

    def leaves(self) -> str:
        rules = self.study.evaluation
        if not self.exact:
            return f"once the sums of {self.label}, with noise, under a mask"
        return (
            f"every {rules.every} rounds the sums of {self.label}, under a mask, WITHOUT noise: "
            "no promise covers those patients"
        )

    def rows(self, patients: SitePatients, state: Mapping[str, NDArray[Any]]) -> Iterator[Floats]:
        yield from self.summed(patients, lambda cells, _: cells)

    def summed(self, patients: SitePatients, made: Callable[[Floats, slice], Floats]) -> Iterator[Floats]:
        """Yield the rows of patients, chunk by chunk, where ``made`` turns the cells of some records into their rows."""
        targets = patients.cohort.targets
        yield from patient_rows(
            patients, self.size, lambda outputs, part: made(self.task.rows(outputs, targets[part]), part)
        )


class OwnScores(Scores):
    """The scores of each site's own model, in one sum."""

    name: ClassVar[str] = "personal-evaluation"
    stage: ClassVar[Stage] = "last"

    @property
    def needed(self) -> bool:  # type: ignore[override]
        return False

    @property
    def times(self) -> int:
        return 3 if self.exact else 1

    @property
    def label(self) -> str:
        return "scores of held-out patients by each site's own model"

    def leaves(self) -> str:
        if not self.exact:
            return super().leaves()
        return f"once the sums of {self.label}, under a mask, WITHOUT noise: no promise covers those patients"
