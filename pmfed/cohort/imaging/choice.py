"""Which of a patient's scans each record gets: only what was made before the record's index date."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray


class DatedScan(Protocol):
    """A scan."""

    @property
    def taken(self) -> int | None:
        """When it was made, in seconds since 1970 in the hospital's own time; None when nobody says."""

    @property
    def tie(self) -> tuple[int, str]:
        """Of several scans made at one moment the one with the greatest of these is taken."""


NOT_BEFORE = "records whose scans are not before the index date, or without a date"

Scan = TypeVar("Scan", bound=DatedScan)


def choose(found: Sequence[Scan], latest: int | None, take: str) -> Scan | None:
    """Choose one of a patient's scans.

    Parameters
    ----------
    found
        The scans of the patient.
    latest
        The record's index date in seconds since 1970: only scans before it are used, none at it and none without a
        date. None when the study has no index date; a scan without a date then counts as the oldest.
    take
        "latest" or "earliest".
    """
    usable = [one for one in found if latest is None or (one.taken is not None and one.taken < latest)]
    sign = 1 if take == "latest" else -1

    def rank(one: Scan) -> tuple[float, tuple[int, str]]:
        return sign * (float("-inf") if one.taken is None else one.taken), one.tie

    return max(usable, key=rank, default=None)


def choose_all(
    by_patient: Mapping[str, Sequence[Scan]],
    patients: Sequence[str],
    when: NDArray[np.datetime64] | None,
    take: str,
    counts: Counter[str],
) -> dict[Scan, list[int]]:
    """Return the scans that are used, each with its records.

    Parameters
    ----------
    by_patient
        The scans of each patient.
    patients
        (R,) the patient of each record.
    when
        (R,) the index date of each record, NaT where it has none, or None when the study has none.
    take
        "latest" or "earliest".
    counts
        Records that get nothing are counted here.
    """
    seconds = None if when is None else when.astype("datetime64[s]")
    chosen: dict[tuple[str, int | None], Scan | None] = {}
    wanted: dict[Scan, list[int]] = {}
    for record, owner in enumerate(patients):
        if seconds is not None and np.isnat(seconds[record]):
            counts["records without an index date"] += 1
            continue
        latest = None if seconds is None else int(seconds[record].astype(np.int64))
        if (owner, latest) not in chosen:
            chosen[owner, latest] = choose(by_patient.get(owner, ()), latest, take)
        found = chosen[owner, latest]
        if found is not None:
            wanted.setdefault(found, []).append(record)
        elif owner in by_patient:
            counts[NOT_BEFORE] += 1
    return wanted
