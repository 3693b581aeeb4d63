"""FT, the filter of a single call: what it says of a call, in any record."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pmfed.cohort.genomics.records import Record

# What is no worse for a call. Manta marks with HomRef that a call has none of the alleles.
_GOOD = {"PASS", ".", "", "HomRef"}


def failing(record: Record) -> NDArray[np.bool_] | None:
    """Return whose call FT calls bad, (S,); None where it says so of nobody."""
    told = record.texts("FT")
    bad = {one for one in set(told or ()) if not _GOOD.issuperset(one.replace(",", ";").split(";"))}
    return np.array([one in bad for one in told or ()]) if bad else None
