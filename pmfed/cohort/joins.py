"""Records out of several tables: left joins by patient, and the cap on records per patient."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pmfed.cohort.split import draws

Ints = NDArray[np.int64]


def left_join(left: Ints, right: Ints) -> tuple[Ints, Ints]:
    """Join two tables by a key, keeping every left row at least once and in order.

    Parameters
    ----------
    left
        Key of every left row, 0 or above.
    right
        Key of every right row; -1 joins nothing.

    Returns
    -------
    left_rows, right_rows : int64
        Row numbers of the joined table; ``right_rows`` is -1 where a left row found no partner.
    """
    keys = int(max(left.max(initial=-1), right.max(initial=-1))) + 1
    order = np.argsort(right, kind="stable")
    order = order[right[order] >= 0]
    partners = np.bincount(right[order], minlength=keys)
    starts = np.cumsum(partners) - partners
    times = np.maximum(partners[left], 1)
    left_rows = np.repeat(np.arange(len(left)), times)
    nth = np.arange(len(left_rows)) - np.repeat(np.cumsum(times) - times, times)
    found = partners[left[left_rows]] > 0
    right_rows = np.full(len(left_rows), -1, dtype=np.int64)
    right_rows[found] = order[starts[left[left_rows[found]]] + nth[found]]
    return left_rows, right_rows


def under_cap(owner: Ints, ids: Sequence[str], cap: int, key: str, purpose: str) -> NDArray[np.bool_]:
    """Draw at most ``cap`` records of every patient.

    The draw is fixed by key, patient id and the record's place among the patient's records, so it is the
    same in every run and for every other patient's data.

    Parameters
    ----------
    owner
        Patient of every record, ascending.
    ids
        Patient ids.
    cap
        Most records to keep.
    key, purpose
        The study's split key and what the draw is for.

    Returns
    -------
    (R,) bool
        Which records to keep.
    """
    sizes = np.bincount(owner, minlength=len(ids))
    keep = np.ones(len(owner), dtype=bool)
    crowded = np.flatnonzero(sizes[owner] > cap)
    if not len(crowded):
        return keep
    starts = np.cumsum(sizes) - sizes
    places = crowded - starts[owner[crowded]]
    names = [f"{place}\0{ids[patient]}" for place, patient in zip(places, owner[crowded], strict=True)]
    drawn = crowded[np.lexsort((draws(names, key, purpose), owner[crowded]))]
    of_drawn = owner[drawn]
    rank = np.arange(len(drawn)) - np.searchsorted(of_drawn, of_drawn)
    keep[drawn[rank >= cap]] = False
    return keep
