"""Inputs that tell the outcome one to one: the outcome under another name."""

from __future__ import annotations

from math import lgamma, log

import numpy as np
from numpy.typing import NDArray

from pmfed.cohort.block import Block
from pmfed.cohort.records import Records
from pmfed.cohort.tables import Problems, count

Floats = NDArray[np.float64]

LEAK = 1e-4  # an input that equals the outcome is refused when chance alone does that less often


def check_leaks(block: Block, records: Records, problems: Problems, warnings: list[str]) -> None:
    """Note the features of a modality that tell the outcome of every patient who has them."""
    first = np.searchsorted(records.owner, np.arange(len(records.ids)))  # a patient's records are no news
    outcomes = records.targets[first].reshape(len(first), -1).T  # a row for each number that an outcome is made of
    for raw in block.raw.values():
        values = raw.values[first]
        chances = [chance_equal(values, outcome, raw.ordered) for outcome in outcomes]
        chance = min((one for one in chances if one is not None), default=1.0)
        if chance > 0.05:
            continue
        what = f"{raw.where} tells the outcome of every patient who has it"
        if chance < LEAK:
            known = int((~np.isnan(values)).sum())
            problems.add(
                f"{what} ({known:,} of {count(len(first), 'patient')}): it leaks the label.",
                "Remove it from the study's features: it is the outcome under another name.",
            )
        else:
            warnings.append(f"{what}; with so few patients that may be chance.")


def chance_equal(values: Floats, target: Floats, ordered: bool) -> float | None:
    """Return how likely it is by chance alone that an input tells the outcome one to one as it does.

    Parameters
    ----------
    values, target : (P,) float64
        Input and outcome, one entry per patient; NaN where missing.
    ordered
        Whether the input is a number, so that a perfect (rank) correlation counts too.

    Returns
    -------
    float or None
        None where input and outcome are not one-to-one. Otherwise the probability that patients in random
        order show it: tiny for a copy of the outcome, 1 for a column in which every patient differs.
    """
    known = ~np.isnan(values) & ~np.isnan(target)
    if known.sum() < 3:
        return None
    _, x, x_sizes = np.unique(values[known], return_inverse=True, return_counts=True)
    _, t, t_sizes = np.unique(target[known], return_inverse=True, return_counts=True)
    if len(x_sizes) < 2 or len(t_sizes) < 2:
        return None
    arrangements = lgamma(len(t) + 1) - sum(lgamma(size + 1) for size in t_sizes)
    one_to_one = len(x_sizes) == len(t_sizes) == len(np.unique(x * len(t_sizes) + t))
    if ordered:
        monotone = one_to_one and (np.array_equal(x, t) or np.array_equal(x, len(t_sizes) - 1 - t))
        correlation = abs(float(np.corrcoef(values[known], target[known])[0, 1]))
        if monotone or correlation > 1 - 1e-9:
            return float(np.exp(log(2) - arrangements))
    if not one_to_one:
        return None
    _, alike = np.unique(t_sizes, return_counts=True)
    return float(np.exp(min(0.0, sum(lgamma(size + 1) for size in alike) - arrangements)))
