"""Scan after scan into the records that want it; what cannot be read is gathered with its reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pmfed.cohort.contract.uses import LATER, Use, of_files
from pmfed.cohort.imaging.choice import NOT_BEFORE
from pmfed.cohort.imaging.failures import ScanError
from pmfed.cohort.imaging.inside import Progress
from pmfed.cohort.imaging.libraries import quiet

Scan = TypeVar("Scan")
Made = tuple[NDArray[np.float32], dict[str, int]]


@dataclass
class Filled:
    """What became of the scans. Its repr shows counts only.

    Attributes
    ----------
    scans : Counter
        Per thing that was seen ("tilted"), in how many scans.
    totals : Counter
        Per thing that was seen, how often in all.
    failed : dict
        Per path of a scan that cannot be used, why.
    """

    scans: Counter[str] = field(default_factory=Counter)
    totals: Counter[str] = field(default_factory=Counter)
    failed: dict[str, str] = field(repr=False, default_factory=dict)


def used(wanted: Mapping[Scan, object], filled: Filled, counts: Mapping[str, int]) -> dict[str, Use]:
    """Return what became of the scans that were chosen, and of those that came too late."""
    lost = Counter(filled.failed.values())
    return {"scan": of_files(len(wanted) - lost.total(), lost, {LATER: counts.get(NOT_BEFORE, 0)})}


def fill(
    wanted: Mapping[Scan, Sequence[int]],
    make: Callable[[Scan], Made],
    path: Callable[[Scan], str],
    inputs: NDArray[np.float32],
    present: NDArray[np.bool_],
    progress: Progress | None,
) -> Filled:
    """Make every scan once and put it into its records.

    Parameters
    ----------
    wanted
        Per scan, the records that want it.
    make
        Makes one scan, or raises ScanError.
    path
        Where a scan lies, for the site's own list.
    inputs, present
        Filled here.
    progress
        Called with scans done and scans in all.
    """
    filled = Filled()
    with quiet():
        for done, (scan, records) in enumerate(wanted.items(), 1):
            try:
                values, seen = make(scan)
            except ScanError as error:
                filled.failed[error.path or path(scan)] = error.reason
            else:
                inputs[list(records)], present[list(records)] = values, True
                filled.scans.update({name: 1 for name, number in seen.items() if number})
                filled.totals.update(seen)
            if progress is not None:
                progress(done, len(wanted))
    return filled
