"""Federated centres of features: their mean over patients, learned with noise, taken away before training.

What a public network makes of pictures of one kind points mostly in one direction, that of the kind. Without it the rest,
in which patients differ, is longer when a record is brought back to norm 1, and learns faster under a clip.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from pmfed.cohort.cohort import Cohort
from pmfed.study import Study

Floats = NDArray[np.float64]

# Shares of a patient's unit norm given to "has it" and to the features.
_HAS, _FEATURES = np.sqrt(0.1), np.sqrt(0.9)


def centred(study: Study) -> tuple[str, ...]:
    """Return the modalities whose features are centred."""
    return tuple(name for name, m in sorted(study.modalities.items()) if m.recentred)


def sizes(study: Study) -> list[int]:
    """Return how many numbers `rows` has for each modality of `centred`."""
    return [1 + math.prod(study.modalities[name].shape) for name in centred(study)]


def rows(cohort: Cohort, name: str) -> Floats:
    """Return each patient's contribution to the sum from which a centre is solved.

    Returns
    -------
    (P, 1 + F) float64
        Whether the patient has the modality, and the mean of the features of its records; weighted.

    Guarantee
    ---------
    Every row has L2 norm at most 1: features have at most norm 1, and so has their mean over records.
    """
    there = cohort.present[name]
    owner, features = cohort.owner[there], cohort.inputs[name][there].astype(np.float64)
    features /= np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1.0)
    records = np.bincount(owner, minlength=cohort.patients)
    out = np.zeros((cohort.patients, 1 + features.shape[1]))
    np.add.at(out[:, 1:], owner, features * (_FEATURES / np.maximum(records, 1))[owner, None])
    out[:, 0] = _HAS * (records > 0)
    return out


def solve(total: Floats) -> Floats:
    """Return the centre (F,) from the (noised) sum of `rows`; its norm is at most 1, whatever the noise."""
    people = max(total[0] / _HAS, 1.0)
    centre = total[1:] / _FEATURES / people
    bounded: Floats = centre / max(1.0, float(np.linalg.norm(centre)))
    return bounded
