"""How much hospitals differ: a random-effects summary of their own figures, and differences paired over hospitals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from pmfed.tasks.scores import ratio
from pmfed.tasks.task import Floats, Task

FEWEST = 5  # sites from which a spread between sites can be told
DRAWS = 1000


def random_effects(values: npt.ArrayLike, errors: npt.ArrayLike) -> dict[str, float]:
    """Return the mean over sites of which these are a sample, and where the figure of another such site would lie.

    Parameters
    ----------
    values, errors
        (sites,), each site's figure and its standard error.

    Returns
    -------
    dict
        ``mean`` with ``low`` and ``high`` (DerSimonian and Laird 1986, with Hartung and Knapp's interval, never
        narrower than the plain one), ``tau``, the standard deviation between sites, and ``predicted_low`` and
        ``predicted_high``, the 95 % prediction interval of Nagashima et al. (2019), which holds for few sites too.
    """
    y, variance = np.asarray(values, dtype=np.float64), np.asarray(errors, dtype=np.float64) ** 2
    count, fixed = len(y), 1 / variance
    observed = float(_heterogeneity(y, fixed))
    between = max(0.0, (observed - (count - 1)) / (fixed.sum() - (fixed**2).sum() / fixed.sum()))
    mean, error = _pooled(y, variance, np.array([between]))
    half = stats.t.ppf(0.975, count - 1) * error[0]
    random = np.random.default_rng(0)
    # How sure one is of the spread between sites: the share of cohorts with that spread that would show more than this.
    spreads = np.append(0.0, np.geomspace(1e-3, 1e2, 60)) * max(float(np.std(y)), float(np.sqrt(variance.min())))
    drawn = random.normal(size=(DRAWS, count))
    shares = [float((_heterogeneity(drawn * np.sqrt(variance + tau**2), fixed) >= observed).mean()) for tau in spreads]
    taus = np.interp(random.random(10 * DRAWS), np.maximum.accumulate(shares), spreads, left=0.0)
    means, their_errors = _pooled(y, variance, taus**2)
    others = means + taus * random.normal(size=len(taus)) + random.standard_t(count - 1, len(taus)) * their_errors
    low, high = np.percentile(others, [2.5, 97.5])
    found = {"mean": mean[0], "low": mean[0] - half, "high": mean[0] + half, "tau": np.sqrt(between)}
    return {key: float(value) for key, value in (found | {"predicted_low": low, "predicted_high": high}).items()}


def _heterogeneity(y: Floats, weight: Floats) -> Floats:
    """Return Cochran's Q of figures (..., sites)."""
    mean = (weight * y).sum(axis=-1, keepdims=True) / weight.sum()
    return np.asarray((weight * (y - mean) ** 2).sum(axis=-1), dtype=np.float64)


def _pooled(y: Floats, variance: Floats, between: Floats) -> tuple[Floats, Floats]:
    """Return the pooled mean and its standard error under each variance between sites."""
    weight = 1 / (variance + between[:, None])
    mean = (weight * y).sum(axis=1) / weight.sum(axis=1)
    wider = np.maximum(1.0, (weight * (y - mean[:, None]) ** 2).sum(axis=1) / (len(y) - 1))
    return mean, np.sqrt(wider / weight.sum(axis=1))


def across_sites(metric: str, per_site: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return `random_effects` of a metric over sites, on the logit scale where it is a share; None for fewer than five.

    Standard errors are those of the sites' own bootstrap intervals. A site at the very end of the scale says nothing of
    its error and is left out and counted.
    """
    told = [[one.get(metric + end) for end in ("", "_low", "_high")] for one in per_site.values()]
    figures = np.array([line for line in told if None not in line], dtype=np.float64).reshape(-1, 3)
    share = bool(len(figures)) and figures.min() >= 0 and figures.max() <= 1
    with np.errstate(divide="ignore"):
        scaled = np.log(figures / (1 - figures)) if share else figures
    usable = scaled[np.isfinite(scaled).all(axis=1) & (scaled[:, 2] > scaled[:, 1])]
    if len(usable) < FEWEST:
        return None
    found = random_effects(usable[:, 0], (usable[:, 2] - usable[:, 1]) / (2 * stats.norm.ppf(0.975)))
    back = {key: float(1 / (1 + np.exp(-value))) if share else value for key, value in found.items() if key != "tau"}
    return {
        "sites": len(usable),
        "left_out": len(told) - len(usable),
        **{key: round(value, 6) for key, value in back.items()},
    }


def paired(
    task: Task, metric: str, one: Mapping[str, Floats], other: Mapping[str, Floats], average: str
) -> dict[str, float] | None:
    """Return how much more the first of two lines has of a metric, with a 95 % interval paired over groups of patients.

    Parameters
    ----------
    task, metric
        What is measured.
    one, other
        Group -> exact sum over the same held-out patients, under two models. A group is a site; where there are few sites
        it is what a fold held out at one, named ``SITE/FOLD``.
    average
        ``patients`` or ``sites``, as the study averages.

    Returns
    -------
    dict or None
        ``value``, ``low``, ``high``; None unless both have the same groups, five or more.

    Notes
    -----
    Sums hold no patient, so what is left out in turn are groups, the same for both lines (the grouped jackknife with
    Student's t; Efron and Tibshirani 1993, chapter 11): what is hard about a group's patients is hard for both models and
    cancels. Drawing few groups again by bootstrap would give intervals that are too narrow. With sites as groups the
    interval is about other sites; with folds of sites, about other patients of these.
    """
    names = sorted(one)
    if names != sorted(other) or len(names) < FEWEST:
        return None
    sites, of = np.unique([name.partition("/")[0] for name in names], return_inverse=True)

    def all_and_without_each(line: Mapping[str, Floats]) -> Floats:
        """Return the metric of all groups, and of all but each, (1 + groups,)."""
        sums = np.stack([line[name] for name in names])
        if average == "patients":
            total = sums.sum(axis=0)
            return task.measure(np.concatenate([total[None], total - sums]))[metric]
        whole = np.stack([sums[of == place].sum(axis=0) for place in range(len(sites))])
        each, less = task.measure(whole)[metric], task.measure(whole[of] - sums)[metric]
        known, told = np.isfinite(each), np.nan_to_num(each)
        count = known.sum() - known[of] + np.isfinite(less)
        means = ratio(told.sum() - told[of] + np.nan_to_num(less), count)
        return np.append(ratio(told.sum(), known.sum()), means)

    gaps = all_and_without_each(one) - all_and_without_each(other)
    if not np.isfinite(gaps).all():
        return None
    value, without = float(gaps[0]), gaps[1:]
    count = len(names)
    error = np.sqrt((count - 1) / count * ((without - without.mean()) ** 2).sum())
    half = float(stats.t.ppf(0.975, count - 1) * error)
    return {"value": round(value, 6), "low": round(value - half, 6), "high": round(value + half, 6)}
