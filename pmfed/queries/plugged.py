"""The queries of a plug-in's method: its rows, at pmfed's price and in pmfed's words."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pmfed.cohort import Cohort
from pmfed.errors import StudyError
from pmfed.plain import plain
from pmfed.queries.query import Floats, Query, RowSum, Shapes, SitePatients

LABEL = 60
"""Characters of what a plug-in calls its query."""
TOGETHER = 256
"""Patients who are taken out of a cohort at once, before each is looked at alone."""
LARGEST = 10_000_000
"""Numbers of a sum or of a state."""

_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")
_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


@dataclass(frozen=True)
class Alone:
    """One patient, as the query of a plug-in sees him or her: nobody else is there."""

    cohort: Cohort

    def as_read(self) -> Cohort:
        """Return the patient as he or she was read: nothing is scaled for a plug-in."""
        return self.cohort

    def outputs(self, part: slice) -> tuple[Floats, NDArray[np.bool_]]:
        """Refuse: a plug-in's method has no model that pmfed would run."""
        raise StudyError("the query of a plug-in asks for a model's outputs, and its study trains none.")


@dataclass(frozen=True)
class PluginRows(RowSum):
    """The query of a plug-in, with everything that is charged, counted or shown taken over or decided here.

    Parameters
    ----------
    inner
        The query of the plug-in: its name, whom it is about, how often it is asked, its bound, size, grid and state are read once.
    package
        The package it comes from, and its version.

    Guarantee
    ---------
    Each patient is given to the plug-in alone, and makes one row, which the site then clips: what the plug-in hands over can be
    no sum over patients. Rate, mechanism, noise, charge and the words of the approval page are pmfed's; of the plug-in's own words
    only its label is shown, short, plain and in quotation marks. It is never exact, and no site's own sum leaves.
    """

    inner: RowSum = field(repr=False)
    package: str

    def __post_init__(self) -> None:
        inner, where = self.inner, f"the plug-in {self.package}"
        if not isinstance(inner, RowSum):
            raise StudyError(
                f"{where} has a query that is no sum of rows.",
                "It must be made of pmfed.queries.query.RowSum; only pmfed itself adds up gradients.",
            )
        taken = _taken(Query)  # type: ignore[type-abstract]
        if not _NAME.fullmatch(str(inner.name)) or inner.name in taken:
            raise StudyError(
                f"{where} gives a query a name that is taken or no name.", "Use small letters, digits, '-'."
            )
        if inner.whose not in ("train", "all") or inner.stage not in ("first", "round"):
            raise StudyError(
                f"{where}: '{inner.name}' must be about 'train' or 'all', and of the stage 'first' or 'round'."
            )
        if inner.exact or inner.by_site or inner.noise is not None or inner.rate != 1.0 or inner.charged_at_once != 1:
            raise StudyError(f"{where}: '{inner.name}' has a rate, noise or charge of its own.", "pmfed decides them.")
        counts = (inner.times, inner.size, *(size for _, size in inner.state.values()))
        if not all(isinstance(one, int) and 0 < one <= LARGEST for one in counts):
            raise StudyError(f"{where}: '{inner.name}' has a size or number of times that is not 1 to {LARGEST:,}.")
        if not all(math.isfinite(one) and one > 0 for one in (inner.bound, inner.grid_unit)):
            raise StudyError(f"{where}: '{inner.name}' has a bound or grid that is not above 0.")
        if any(np.dtype(kind) not in _FLOATS for kind, _ in inner.state.values()):
            raise StudyError(f"{where}: '{inner.name}' comes with arrays that are neither float32 nor float64.")
        for name in ("name", "whose", "stage", "needed", "repeats"):  # class variables of every other query
            object.__setattr__(self, name, getattr(inner, name))

    @cached_property
    def times(self) -> int:
        return self.inner.times

    @cached_property
    def bound(self) -> float:
        return float(self.inner.bound)

    @cached_property
    def size(self) -> int:
        return self.inner.size

    @cached_property
    def grid_unit(self) -> float:
        return float(self.inner.grid_unit)

    @cached_property
    def state(self) -> Shapes:
        return dict(self.inner.state)

    @cached_property
    def label(self) -> str:
        called = plain(str(self.inner.label), LABEL).replace("'", "’")
        return f"what {self.package} calls '{called}'"

    def leaves(self) -> str:
        often = "once" if self.times == 1 else f"{self.times} times"
        who = "training patients" if self.whose == "train" else "all patients"
        return (
            f"{often} a sum over {who} of {self.size} numbers, to which one patient adds at most {self.bound:g}, with noise, under a "
            f"mask; computed by the plug-in: {self.label}"
        )

    def rows(self, patients: SitePatients, state: Mapping[str, NDArray[Any]]) -> Iterator[Floats]:
        cohort = patients.cohort
        for first in range(0, cohort.patients, TOGETHER):
            few = cohort.select(_between(cohort.patients, first, first + TOGETHER))
            for patient in range(few.patients):
                alone = Alone(few.select(_between(few.patients, patient, patient + 1)))
                made = [np.asarray(rows, np.float64) for rows in self.inner.rows(alone, state)]
                if len(made) != 1 or made[0].shape != (1, self.size):
                    raise StudyError(
                        f"the plug-in {self.package} did not make one row of {self.size} numbers of one patient."
                    )
                yield made[0]


def _between(size: int, first: int, end: int) -> NDArray[np.bool_]:
    chosen = np.zeros(size, dtype=bool)
    chosen[first:end] = True
    return chosen


def _taken(kind: type[Query]) -> set[str]:
    """Return the names of pmfed's own queries."""
    found = (
        {kind.name} if kind.__module__.startswith("pmfed.") and isinstance(getattr(kind, "name", None), str) else set()
    )
    return found.union(*(_taken(one) for one in kind.__subclasses__()))
