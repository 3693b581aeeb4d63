"""The one function that bounds what patients add to a sum. The site calls it, whatever a query made of its patients."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

log = logging.getLogger("pmfed.site")


def bounded(rows: Floats, bound: float) -> Floats:
    """Return rows (patients, size), each no longer than ``bound`` (L2 norm); what is not finite is 0.

    Guarantee
    ---------
    Whatever ``rows`` holds, every row that is returned is finite and of norm at most ``bound``, up to one rounding of float64
    (a part in 1e15). A row depends on the row it was made of and on nothing else.
    """
    rows = np.asarray(rows, np.float64)  # norms of float32 would be wrong by a part in 1e7
    finite = np.asarray(np.isfinite(rows).all(axis=1))
    if not finite.all():
        rows = np.where(finite[:, None], rows, 0.0)
    # Divided by their largest number first, or the squares of huge ones would overflow.
    largest = np.abs(rows).max(axis=1, initial=0.0, keepdims=True)
    scale = np.where(largest > 1e150, largest, 1.0)
    shrunk = rows / scale
    norms = np.linalg.norm(shrunk, axis=1, keepdims=True)
    over = norms > bound / scale
    if not over.any():
        return rows
    found: Floats = np.where(over, shrunk / np.where(over, norms, 1.0) * bound, rows)
    return found


def bounded_sum(chunks: Iterable[Floats], size: int, bound: float, patients: int) -> Floats:
    """Return the sum over all patients of their rows, bounded.

    Parameters
    ----------
    chunks
        Rows, (some patients, size) each; they are let go of one by one.
    size
        Length of a row.
    bound
        The most one patient may weigh.
    patients
        How many there are: who makes more rows than that counts somebody twice.

    Guarantee
    ---------
    Adding or removing a patient changes the sum by at most ``bound``. It is NOT noised: it must not leave the site.

    Raises
    ------
    ValueError
        Rows of another length than ``size``, or more of them than patients.
    """
    total = np.zeros(size)
    unfit = 0
    for rows in chunks:
        rows = np.asarray(rows, np.float64)
        if rows.ndim != 2 or rows.shape[1] != size:
            raise ValueError(f"rows of shape {rows.shape} do not fit a sum of {size} numbers")
        patients -= len(rows)
        if patients < 0:
            raise ValueError("more rows than patients")
        unfit += int((~np.isfinite(rows).all(axis=1)).sum())
        total = total + bounded(rows, bound).sum(axis=0)
    if unfit:
        log.warning("%d patient(s) left out of a sum: their rows are not finite.", unfit)
    return total
