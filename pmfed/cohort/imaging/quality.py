"""What a site should look at among its inputs, whatever they are made of: constant ones, the same one twice, odd ones."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

ODD = 8.0  # times the usual distance from the middle (MAD as of a normal distribution)
FEW = 20  # inputs, below which none is odd


def looked_at(
    what: str, inputs: NDArray[np.float32], present: NDArray[np.bool_], owners: Sequence[str] | None = None
) -> tuple[Counter[str], list[str]]:
    """Return counts for the site's sheet, and warnings of what it should look at.

    Parameters
    ----------
    what
        Where and what is counted, as "/data/pacs: scans".
    inputs, present
        (R, ...), and which of them are there.
    owners
        (R,) the patient of each. The very same input of two patients is a leak between training and test, or one
        patient's scan filed under another. None where the reader does not know.

    Returns
    -------
    counts : Counter
    warnings : list of str
        Counts only.
    """
    counts = Counter[str]()
    there = np.flatnonzero(present).tolist()
    if not there:
        return counts, []
    flat = inputs.reshape(len(inputs), -1)
    held: defaultdict[bytes, set[str]] = defaultdict(set)
    means, constant = np.empty(len(there)), 0
    for place, record in enumerate(there):
        row = flat[record]
        means[place] = row.mean()
        constant += int(row.size > 1 and np.ptp(row) == 0)
        if owners is not None:
            held[hashlib.sha256(row.tobytes()).digest()].add(owners[record])
    counts["inputs of one value throughout"] = constant
    counts["patients with the very input of another"] = sum(len(one) for one in held.values() if len(one) > 1)
    if len(there) >= FEW:
        away = np.abs(means - np.median(means))
        usual = 1.4826 * float(np.median(away))
        counts["inputs unlike the others in brightness"] = int((away > ODD * usual).sum()) if usual else 0
    then = {
        "inputs of one value throughout": "is the window right?",
        "patients with the very input of another": "whose is it? In training and test it is a leak.",
    }
    return +counts, [f"{what}: {name}: {counts[name]:,}; {rest}" for name, rest in then.items() if counts[name]]
