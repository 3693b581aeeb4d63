"""Scores of held-out patients once more, apart for each value of a category and each band of a number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pmfed.modality import Numeric
from pmfed.queries.cells import MISSING, Bins, Categories, CellTable, Inputs, inputs_of
from pmfed.queries.query import Floats, SitePatients, Stage
from pmfed.queries.scores import Scores
from pmfed.study import Study


class Subgroups(Scores):
    """The common model's scores by subgroup: one grouping of the cells for each input that the study names.

    Guarantee
    ---------
    Each record stands in one group of each grouping, so a patient's row has at most the norm of a row of scores times the
    square root of the number of groupings, which is the bound.
    """

    name: ClassVar[str] = "subgroups"
    stage: ClassVar[Stage] = "last"

    @cached_property
    def groupings(self) -> tuple[CellTable, ...]:
        """By what patients are told apart, in the order of the sum."""
        known = {name: (label, unit, what, source) for name, label, unit, what, source in inputs_of(self.study)}
        return tuple(
            _grouping(name, *known[name], edges) for name, edges in sorted(self.study.evaluation.subgroups.items())
        )

    @property
    def needed(self) -> bool:  # type: ignore[override]
        return False

    @property
    def times(self) -> int:
        return 3 if self.exact else 1

    @property
    def by_site(self) -> bool:
        return False

    @property
    def bound(self) -> float:
        return self.task.sensitivity * float(np.sqrt(len(self.groupings)))

    @property
    def size(self) -> int:
        return self.task.cells * sum(len(one.cells) for one in self.groupings)

    @property
    def label(self) -> str:
        return "scores of held-out patients by subgroup"

    @property
    def key(self) -> str:
        return "evaluation.subgroups"

    def leaves(self) -> str:
        by = " and ".join(one.label for one in self.groupings)
        how = ", WITHOUT noise: no promise covers those patients" if self.exact else ", with noise"
        return f"once the sums of scores of held-out patients by {by}, under a mask{how}"

    def rows(self, patients: SitePatients, state: Mapping[str, NDArray[Any]]) -> Iterator[Floats]:
        read = patients.as_read()
        groups = np.concatenate([one.rows(read) for one in self.groupings], axis=1)

        def apart(cells: Floats, part: slice) -> Floats:
            return np.asarray((groups[part][:, :, None] * cells[:, None, :]).reshape(len(cells), -1))

        yield from self.summed(patients, apart)

    def split(self, total: Floats) -> Iterator[tuple[CellTable, Floats]]:
        """Yield each grouping with its part of a sum, (groups, cells)."""
        parts = total.reshape(-1, self.task.cells)
        start = 0
        for one in self.groupings:
            yield one, parts[start : start + len(one.cells)]
            start += len(one.cells)


def misfit(study: Study) -> str:
    """Return why figures cannot be told by these subgroups, key first; empty when they can."""
    known = {name: what for name, _, _, what, _ in inputs_of(study)}
    for name, edges in study.evaluation.subgroups.items():
        what = known.get(name)
        if what is None:
            some = ", ".join(sorted(known)) or "there is none"
            return f"evaluation.subgroups: '{name}' is no category or number of a table or of events ({some})"
        if not isinstance(what, Numeric):
            if edges:
                return f"evaluation.subgroups: '{name}' is a category: write [], its values are the groups"
        elif not edges:
            return f"evaluation.subgroups: '{name}' is a number: write the edges between its bands, such as [50, 65]"
        elif any(low >= high for low, high in pairwise((what.minimum, *edges, what.maximum))):
            return (
                f"evaluation.subgroups: the edges of '{name}' must ascend between {what.minimum:g} and {what.maximum:g}"
            )
    return ""


def _grouping(
    name: str, label: str, unit: str, what: tuple[str, ...] | Numeric, source: Inputs, edges: tuple[float, ...]
) -> CellTable:
    if not isinstance(what, Numeric):
        return Categories(name, label, unit, what, source)
    ends = (what.minimum, *edges, what.maximum)
    names = [
        f"below {edges[0]:g}",
        *(f"{low:g} to {high:g}" for low, high in pairwise(edges)),
        f"{edges[-1]:g} or more",
    ]
    if what.mean is not None and not what.indicator:  # a missing number was read as the mean
        mean = float(np.expm1(what.mean)) if what.transform == "log1p" else what.mean
        names[int(np.searchsorted(edges, mean, side="right"))] += ", or unknown"
    return Bins(name, label, unit, (*names, MISSING), source, ends)
