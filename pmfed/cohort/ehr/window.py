"""The records of a cohort, and which events count for each: those before its index date, and no others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pmfed.cohort.contract.times import DAY, Moments
from pmfed.cohort.ehr.events import Asked, Chunk, Ints

EVER = 1 << 40  # seconds: longer than any record reaches back


class Window:
    """R records of P patients with their index dates.

    Parameters
    ----------
    patients : (R,) str
        Patient of each record.
    when : (R,) datetime64[s]
        Index dates; no event counts for a record without one (NaT).
    reach : (C,) int64
        Per concept how many seconds before the index date an event may lie; `EVER` for no limit.

    Guarantee
    ---------
    `rows` returns an event for a record only if it happened AND was entered strictly before the record's index date,
    and no other part of pmfed sees the events of a source: what came later cannot reach an input.
    """

    def __init__(self, patients: Sequence[str], when: Moments, reach: Ints) -> None:
        owner, distinct = pd.factorize(np.array(patients, dtype=object))
        self.when = when
        self.owner: Ints = owner.astype(np.int64)
        self.reach = reach
        self._order = np.argsort(self.owner, kind="stable")
        self._sizes = np.bincount(self.owner, minlength=len(distinct))
        self._starts = np.cumsum(self._sizes) - self._sizes
        self._latest = np.full(len(distinct), np.iinfo(np.int64).min)
        np.maximum.at(self._latest, self.owner, when.astype("datetime64[s]").astype(np.int64))
        known = when[~np.isnat(when)]
        longest = int(reach.max(initial=0))
        never = np.datetime64("NaT", "s")
        earliest = known.min() - np.timedelta64(longest, "s") if len(known) and longest < EVER else never
        self.asked = Asked(tuple(str(one) for one in distinct), earliest, known.max() if len(known) else never)

    def rows(self, chunk: Chunk) -> tuple[Ints, Ints, Ints]:
        """Return record, row of the chunk, and seconds before the index date, of every event that counts.

        The seconds are above 0, and at most the concept's reach.
        """
        times = self._sizes[chunk.patient]
        row = np.repeat(np.arange(len(chunk)), times)
        nth = np.arange(len(row)) - np.repeat(np.cumsum(times) - times, times)
        record = self._order[self._starts[chunk.patient[row]] + nth]
        index = self.when[record]
        ago: Ints = (index - chunk.when[row]).astype(np.int64)
        before = (chunk.when[row] < index) & (chunk.known[row] < index)  # False with NaT
        counts: NDArray[np.bool_] = before & (ago <= self.reach[chunk.concept[row]])
        return record[counts], row[counts], ago[counts]

    def before(self, patient: Ints, when: Moments) -> NDArray[np.bool_]:
        """Return which moments come before any index date of their patient."""
        out: NDArray[np.bool_] = when.astype(np.int64) < self._latest[patient]
        return out


def seconds(days: float | None) -> int:
    """Return a window in days as seconds, `EVER` for None."""
    return EVER if days is None else min(round(days * DAY), EVER)
