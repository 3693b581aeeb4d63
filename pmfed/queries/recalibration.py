"""Recalibration: what the finished model says of training patients beside what happened, for a slope and an intercept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from numpy.typing import NDArray

from pmfed.privacy import accounting
from pmfed.privacy.accounting import Release
from pmfed.queries.gradient import model_state
from pmfed.queries.query import Floats, RowSum, Shapes, SitePatients, Stage
from pmfed.queries.scored import patient_rows

if TYPE_CHECKING:
    from pmfed.recalibration import Recalibrator


class Recalibration(RowSum):
    """Bounded scores beside outcomes, of all training patients or of the part that is set aside for it."""

    name: ClassVar[str] = "recalibration"
    stage: ClassVar[Stage] = "fit"
    needed: ClassVar[bool] = False
    scaled: ClassVar[bool] = True

    @cached_property
    def recalibrator(self) -> Recalibrator:
        """What rows are made of, and what is made of their sum."""
        from pmfed.tasks import task_for

        found = task_for(self.study).recalibrator()
        assert found is not None
        return found

    @cached_property
    def noise(self) -> float:
        """The least noise within the share of the epsilon that this sum has by itself."""
        assert self.study.recalibration is not None
        privacy = self.study.privacy
        return accounting.noise_for(
            lambda multiplier: (Release(self.rate, multiplier, self.times),),
            self.study.recalibration.share * privacy.epsilon,
            privacy.delta,
        )

    @property
    def bound(self) -> float:
        return self.recalibrator.bound

    @property
    def size(self) -> int:
        return self.recalibrator.size

    @property
    def grid_unit(self) -> float:
        return 2.0**-12

    @cached_property
    def state(self) -> Shapes:
        return model_state(self)

    @property
    def label(self) -> str:
        return "recalibration"

    @property
    def key(self) -> str:
        return "recalibration.share"

    @property
    def cheaper(self) -> str:
        return "Lower recalibration.share, or leave [recalibration] out."

    def leaves(self) -> str:
        who = "training patients" if self.study.set_aside == 0 else "the training patients set aside for it"
        return f"once a sum over {who} of {self.size} numbers that set scores beside outcomes, bounded, with noise, under a mask"

    def rows(self, patients: SitePatients, state: Mapping[str, NDArray[Any]]) -> Iterator[Floats]:
        targets = patients.cohort.targets
        yield from patient_rows(
            patients, self.size, lambda outputs, part: self.recalibrator.rows(outputs, targets[part])
        )
