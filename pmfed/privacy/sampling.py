"""Poisson sampling of patients: who takes part in a step."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pmfed.errors import StudyError
from pmfed.privacy.noise import Source


def poisson(patients: int, rate: float, source: Source) -> NDArray[np.int64]:
    """Draw the patients of one step: each one independently with probability ``rate``.

    Parameters
    ----------
    patients
        How many there are to draw from.
    rate
        The sampling rate, above 0 and at most 1. At 1 everyone takes part.
    source
        Where the randomness comes from; it must be secret wherever a promise is made.

    Returns
    -------
    numpy.ndarray
        int64, the drawn indices, ascending. Its length is random and may be 0: it must never be published,
        and an empty step is released and charged like any other.

    Guarantee
    ---------
    The inclusion of a patient depends neither on the other patients nor on the other steps. This is what the
    accounting of a sampled Gaussian assumes; shuffled batches of a fixed size are something else.
    """
    if not 0 < rate <= 1:
        raise StudyError(f"a sampling rate of {rate:g} is not above 0 and at most 1.")
    return np.flatnonzero(source.uniform(patients) < rate).astype(np.int64, copy=False)
