"""Federated means and scales of inputs that have no public ones, and centres, from sums in which a patient counts once."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pmfed.cohort import centres
from pmfed.cohort.cohort import Cohort
from pmfed.cohort.scales import Statistics, unscaled
from pmfed.study import Study

Floats = NDArray[np.float64]

# Shares of a patient's unit norm given to "is known" and to the two moments.
_KNOWN, _MOMENTS = np.sqrt(1 / 3), np.sqrt(2 / 3)


def rows(study: Study, cohort: Cohort) -> Floats:
    """Return each patient's contribution to the sum from which means and scales are solved.

    Parameters
    ----------
    study
        The study; its unscaled inputs are the numeric features without mean and scale.
    cohort
        The site's cohort, unscaled.

    Returns
    -------
    (P, 3 U) float64
        Per unscaled input: whether it is known, its mean over the patient's records and the mean distance
        of its square from 1; weighted. Then the rows of every centre. Held-out patients have rows too: sum those of the
        training patients.

    Guarantee
    ---------
    Every row has L2 norm at most 1, whatever the patient's records hold and however many there are: adding
    or removing a patient changes the sum by at most 1. For an input v in [-1, 1] the part is
    (a, b v, b (1 - v^2)) / sqrt(U) with a^2 + b^2 = 1, of squared norm (a^2 + b^2 (1 - v^2 + v^4)) / U
    <= 1 / U; means over records stay inside that ball because it is convex. The inputs together and each centre are
    parts of norm at most 1, of which G are put side by side with weight 1/sqrt(G).
    """
    parts = [_inputs(study, cohort), *(centres.rows(cohort, name) for name in centres.centred(study))]
    flat: Floats = np.concatenate(parts, axis=1) / np.sqrt(_groups(study))
    # Rounding can leave a norm at 1 + 1e-16; the promise is 1.
    norms = np.linalg.norm(flat, axis=1, keepdims=True)
    flat *= np.minimum(1.0, (1.0 - 1e-12) / np.maximum(norms, 0.5))
    return flat


def _inputs(study: Study, cohort: Cohort) -> Floats:
    columns = _columns(study)
    patients = cohort.patients
    out = np.zeros((patients, len(columns), 3))
    for place, (name, column) in enumerate(columns):
        values = cohort.inputs[name][:, column].astype(np.float64)
        known = cohort.present[name] & ~np.isnan(values)
        owner, v = cohort.owner[known], np.clip(values[known], -1.0, 1.0)
        records = np.bincount(owner, minlength=patients)
        share = np.divide(1.0, records, out=np.zeros(patients), where=records > 0)
        out[:, place, 0] = _KNOWN * (records > 0)
        out[:, place, 1] = _MOMENTS * share * np.bincount(owner, v, patients)
        out[:, place, 2] = _MOMENTS * share * np.bincount(owner, 1.0 - v**2, patients)
    flat: Floats = out.reshape(patients, 3 * len(columns)) / np.sqrt(max(1, len(columns)))
    return flat


def solve(study: Study, total: Floats) -> Statistics:
    """Solve means and scales from the (noised) sum of `rows` over all patients of all sites.

    Where the noise of the study's ``statistics_noise`` hides an input, its mean is the middle of its bounds
    and its scale that of values spread evenly between them: inputs stay bounded, whatever the noise.

    Parameters
    ----------
    study
        The study.
    total : (3 U,) float64
        The sum.
    """
    columns, names = _columns(study), centres.centred(study)
    assert total.shape == (statistics_size(study),)
    total = total * np.sqrt(_groups(study))
    ends = 3 * len(columns) + np.cumsum([0, *centres.sizes(study)])
    found = {name: centres.solve(total[a:b]) for name, (a, b) in zip(names, pairwise(ends), strict=True)}
    parts = total[: 3 * len(columns)].reshape(len(columns), 3) * np.sqrt(max(1, len(columns)))
    known, first, second = parts[:, 0] / _KNOWN, parts[:, 1] / _MOMENTS, parts[:, 2] / _MOMENTS
    # The standard deviation of `known`.
    noise = study.privacy.statistics_noise * np.sqrt(_groups(study) * max(1, len(columns))) / _KNOWN
    visible = known > np.maximum(3 * noise, 1.0)
    people = np.where(visible, known, 1.0)
    mean = np.where(visible, np.clip(first / people, -1.0, 1.0), 0.0)
    square = 1.0 - second / people
    # A spread that the noise could have made counts as the noise's: dividing by less would blow inputs up.
    variance = np.clip(square - mean**2, np.maximum(noise / people, 1e-6), 1.0)
    scale = np.sqrt(np.where(visible, variance, 1 / 3))
    return Statistics(columns, mean, scale, found)


def statistics_size(study: Study) -> int:
    """Return how many numbers a row of `rows` holds: three per unscaled input, and those of every centre."""
    return 3 * len(_columns(study)) + sum(centres.sizes(study))


def _groups(study: Study) -> int:
    """Return of how many parts of norm 1 a row is made: the inputs together, and each centre."""
    return max(1, bool(_columns(study)) + len(centres.centred(study)))


def _columns(study: Study) -> tuple[tuple[str, int], ...]:
    return tuple((name, column) for name, _, _, column in unscaled(study))
