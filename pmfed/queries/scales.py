"""Means and scales of inputs that have no public ones, and centres of features: learned before the first round."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, ClassVar

from numpy.typing import NDArray

from pmfed.cohort.statistics import rows, statistics_size
from pmfed.queries.query import Floats, RowSum, SitePatients


class Scales(RowSum):
    """The moments of every unscaled input, and of every centre: one bounded row per patient."""

    name: ClassVar[str] = "statistics"

    @property
    def bound(self) -> float:
        return 1.0

    @property
    def noise(self) -> float:
        return self.study.privacy.statistics_noise

    @cached_property
    def size(self) -> int:
        return statistics_size(self.study)

    @property
    def grid_unit(self) -> float:
        return 2.0**-12

    @property
    def label(self) -> str:
        return "means and scales"

    @property
    def key(self) -> str:
        return "privacy.statistics_noise"

    @property
    def cheaper(self) -> str:
        return "Raise privacy.statistics_noise, or give every numeric feature a public 'mean' and 'scale'."

    def leaves(self) -> str:
        return "once the sums from which means and scales come, with noise, under a mask"

    def rows(self, patients: SitePatients, state: Mapping[str, NDArray[Any]]) -> Iterator[Floats]:
        yield rows(self.study, patients.cohort)
