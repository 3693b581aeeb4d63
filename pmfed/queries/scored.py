"""One row per patient from what a model says of records: a patient's records weigh one together."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from pmfed.queries.query import Floats, SitePatients, starts_of

RECORDS = 4096  # most records scored at a time,
NUMBERS = 1 << 20  # and most numbers of one of their inputs: a network keeps many times as much
Rows = Callable[[Floats, slice], Floats]
"""Makes rows (records, size) of outputs (records, out, ...), and of which records they are."""


def patient_rows(patients: SitePatients, size: int, rows: Rows) -> Iterator[Floats]:
    """Yield rows (some patients, size): the mean over each patient's records, those without finite outputs counting as 0."""
    cohort = patients.cohort
    if cohort.patients == 0:
        return
    starts = starts_of(cohort)
    weight = 1 / np.diff(starts)[cohort.owner]
    most = max(1, min(RECORDS, NUMBERS // max(values[0].size for values in cohort.inputs.values())))
    most = max(1, min(most, (1 << 24) // size))
    first = 0
    while first < cohort.patients:  # whole patients: a row is one patient's
        last = max(first + 1, int(np.searchsorted(starts, starts[first] + most, side="right")) - 1)
        part = slice(int(starts[first]), int(starts[last]))
        outputs, finite = patients.outputs(part)
        cells = rows(outputs, part) * (weight[part] * finite)[:, None]
        yield np.add.reduceat(cells, starts[first:last] - starts[first], axis=0)
        first = last
