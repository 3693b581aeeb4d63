"""From the jobs of a simulation to one result.json: means over seeds, intervals over patients, comparisons."""

from __future__ import annotations

import json
import logging
import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pmfed_client.ledger.entries import cohorts as cohort_names
from pmfed_client.ledger.ledger import Ledger
from pmfed_server.spread import FEWEST, across_sites, paired
from scipy import stats

from pmfed.cohort import Cohort
from pmfed.errors import LedgerError
from pmfed.methods.evaluated import Evaluated
from pmfed.methods.figures import Metrics, evaluation_noise, finite, metrics_of, over_patients
from pmfed.methods.further import further_figures
from pmfed.privacy.rounding import rounded_up
from pmfed.study import Study
from pmfed.tasks import task_for
from pmfed_simulations.job import Job, Sum, plan_of
from pmfed_simulations.planning import far_off
from pmfed_simulations.protocols import Protocol, TrainingSeries

log = logging.getLogger("pmfed.simulation")
ENDS = ("_low", "_high")
SHARES = frozenset(
    ("auroc", "accuracy", "balanced_accuracy", "auprc", "sensitivity", "specificity", "ppv", "npv", "f1", "brier", "within_20",
     "dice", "iou", "c_index")
)  # fmt: skip
"""Figures that lie between 0 and 1, however few the seeds."""


def gather(row: Sequence[Job]) -> Evaluated:
    """Add up what the folds of one seed say: every patient was held out exactly once."""
    per_site: dict[str, Sum] = {}
    for job in row:
        for name, total in job.totals().items():
            per_site[name] = per_site.get(name, np.zeros_like(total)) + total
    return Evaluated(np.sum(list(per_site.values()), axis=0), per_site)


def over_seeds(series: TrainingSeries) -> Metrics:
    """Return the metrics of a line: the mean over seeds, ``_sd`` where there are several, the mean interval."""
    detailed = not series.name.startswith("local")  # a hospital alone is compared, and no model that anyone reports
    found = [metrics_of(row[0].scoring, gather(row), _noise(row[0]), detailed=detailed) for row in series.jobs]
    return _mean(found)


def _noise(job: Job) -> float:
    """Return the noise in the cells a job left behind; what was scored beside the federation carries none."""
    return 0.0 if job.scored else evaluation_noise(plan_of(job.study, len(job.sites), job.books))


def per_site(series: TrainingSeries) -> dict[str, Metrics]:
    """Return the metrics of a line at each site, averaged over seeds."""
    study = series.jobs[0][0].scoring
    told = [gather(row).per_site for row in series.jobs]
    return {
        name: _mean([metrics_of(study, Evaluated.of_site(name, sites[name])) for sites in told])
        for name in sorted(told[0])
        if name != "total" and told[0][name].sum() > 0
    }


def personal(series: TrainingSeries) -> dict[str, Any]:
    """Return the metrics of the sites' own models, all together and at each site, averaged over seeds."""
    study = series.jobs[0][0].scoring
    told = []
    for row in series.jobs:
        found: dict[str, Sum] = {}
        for job in row:
            for name, total in job.personal_totals().items() if study.tuned else job.totals().items():
                found[name] = found.get(name, np.zeros_like(total)) + total
        if found:
            told.append(Evaluated(np.sum(list(found.values()), axis=0), found))
    if not told:
        return {"test": {}, "per_site": {}}
    noise = _noise(series.jobs[0][0])
    return {
        "test": _mean([metrics_of(study, one, noise, detailed=True) for one in told]),
        "per_site": {
            name: _mean([metrics_of(study, Evaluated.of_site(name, one.per_site[name])) for one in told])
            for name in sorted(told[0].per_site)
            if name != "total"
        },
    }


def _further(series: TrainingSeries) -> dict[str, Any]:
    """Return the figures by subgroup and with altered inputs, of the first seed: sums of all its folds together."""
    row = series.jobs[0]
    sums: dict[str, Sum] = {}
    for job in row:
        for query, total in job.further().items():
            sums[query] = sums[query] + total if query in sums else total
    plan = None if row[0].scored else plan_of(row[0].study, len(row[0].sites), row[0].books)
    return further_figures(row[0].scoring, plan, gather(row).total, sums)


def _mean(found: Sequence[Metrics]) -> Metrics:
    mean: dict[str, float] = {}
    for name in found[0]:
        values = [value for one in found if (value := one.get(name)) is not None]
        mean[name] = statistics.fmean(values) if values else float("nan")
        if len(values) > 1 and not name.endswith(ENDS):
            mean[f"{name}_sd"] = statistics.stdev(values)
    for name in [name.removesuffix("_sd") for name in mean if name.endswith("_sd")]:
        _widen(mean, name, len(found))
    return finite(mean)


def _widen(mean: dict[str, float], name: str, seeds: int) -> None:
    """Let the interval of a figure hold what one training and its noise may do, beside the chance of having met these patients.

    Both variances add up; that between trainings is known from few seeds, so it counts by Student's t.
    """
    reach = float(stats.t.ppf(0.975, seeds - 1)) * mean[f"{name}_sd"]
    for end, sign in zip(ENDS, (-1.0, 1.0), strict=True):
        if math.isfinite(edge := mean.get(name + end, math.nan)):
            wide = mean[name] + sign * math.hypot(edge - mean[name], reach)
            mean[name + end] = min(max(wide, 0.0), 1.0) if name in SHARES else wide


def summarise_series(
    study: Study,
    main: TrainingSeries,
    others: Sequence[TrainingSeries],
    protocol: Protocol,
    cohorts: Mapping[str, Cohort],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return result.json of a whole simulation, and the curves of its report.

    The privacy part is that of one training: a cross-validation trains several models to measure one method, and
    the epsilon is what each of them spends.
    """
    first = [job for row in main.jobs for job in row]
    results = [json.loads((job.folder / "result.json").read_text(encoding="utf-8")) for job in first]
    result: dict[str, Any] = {**results[0]}
    result["fingerprint"] = study.fingerprint()
    result["protocol"] = protocol
    result["seeds"] = len(main.jobs)
    result["trainings"] = len(first)
    result["refused"] = {name: reason for one in results for name, reason in one["refused"].items()}
    off = far_off(study, sum(int(cohort.training.sum()) for cohort in cohorts.values()))
    result["notes"] = [*result.get("notes", ()), *([off] if off else []), *_at_several(cohorts)]
    took_part = {site["name"] for one in results for site in one["sites"]}
    digests = {site["name"]: site.get("data") for site in results[0]["sites"]}
    result["sites"] = [
        {
            "name": name,
            "patients": cohort.patients,
            "held_out": int((~cohort.training).sum()) if protocol == "holdout" else None,
            "data": digests.get(name) if len(results) == 1 else None,  # each training has a key of its own
        }
        for name, cohort in sorted(cohorts.items())
        if name in took_part
    ]
    metrics = over_seeds(main)
    sites = per_site(main)
    result["metrics"] = {"test": metrics, "per_site": sites}
    result["across_sites"] = across_sites(result["metric"]["name"], sites)
    if study.personal is not None:
        result["personal"] = {**results[0]["personal"], **personal(main)}
    result |= over_patients(study, gather(main.jobs[0]).total) | _further(main)
    privacy = dict(result["privacy"])
    privacy["epsilon"] = max(one["privacy"]["epsilon"] for one in results)
    spent: dict[str, dict[str, float]] = {}
    for one in results:
        for name, figures in one["privacy"]["spent"].items():
            if name not in spent or figures["epsilon"] > spent[name]["epsilon"]:
                spent[name] = figures
    privacy["spent"] = {name: {**figures, "all_runs": _all_runs(first, name)} for name, figures in spent.items()}
    privacy["evaluation_release"] = first[0].scoring.evaluation.release
    privacy["insecure"] = any(job.seed is not None for job in first)
    result["privacy"] = privacy
    result["comparisons"] = [_line(main, metrics, sites, privacy["epsilon"])]
    for series in others:
        if series.jobs:
            line = _line(series, over_seeds(series), per_site(series), study.privacy.epsilon)
            line["difference"] = _difference(result["metric"]["name"], main, series)
            result["comparisons"].append(line)
    return result, task_for(first[0].scoring).curves(gather(main.jobs[0]).total, _noise(first[0]))


def _at_several(cohorts: Mapping[str, Cohort]) -> list[str]:
    """Say how many patient ids stand at more than one hospital: only whoever made the files knows whether they are one person."""
    counts = Counter(one for cohort in cohorts.values() for one in cohort.ids)
    several = sum(number > 1 for number in counts.values())
    if not several:
        return []
    return [
        f"{several:,} patient ids stand at more than one hospital. Should they be the same persons, each counts once at every one of "
        "them, here and in the promise; a person who is held out at one may have been trained on at another."
    ]


def _all_runs(jobs: Sequence[Job], name: str) -> float | None:
    """Return what a hospital's patients have spent over every run its ledger knows; None when it cannot tell."""
    found = []
    for job in jobs:
        fold = "" if job.training is None else job.folder.name
        for site in job.sites:
            if site.name == name:
                try:
                    found.append(Ledger(site.ledger).spent(cohort_names(job.study, fold)["train"], site.policy.delta))
                except LedgerError as error:  # spoilt while the run went; what was trained is still the result
                    log.warning("%s: %s", name, error)
                    return None
    return rounded_up(max(found, default=0.0))


def _difference(metric: str, main: TrainingSeries, series: TrainingSeries) -> dict[str, float] | None:
    """Return how much more the federation has of a metric than a line, sums of all seeds together.

    It is paired over sites; over the folds at each where there are fewer than five sites.
    """
    study = series.jobs[0][0].scoring
    if study.evaluation.release != "exact" or main.jobs[0][0].scoring.evaluation.release != "exact":
        return None
    by_fold = len({name for row in main.jobs for job in row for name in job.totals()}) < FEWEST
    both = []
    for line in (main, series):
        found: dict[str, Sum] = {}
        for row in line.jobs:
            for fold, job in enumerate(row):
                for name, total in job.totals().items():
                    group = f"{name}/{fold}" if by_fold else name
                    found[group] = found.get(group, np.zeros_like(total)) + total
        both.append({name: total for name, total in found.items() if name != "total" and total.any()})
    return paired(task_for(study), metric, both[0], both[1], study.evaluation.average)


def _line(series: TrainingSeries, metrics: Metrics, sites: dict[str, Metrics], epsilon: float) -> dict[str, Any]:
    return {
        "name": series.name,
        "label": series.label,
        "private": series.private,
        "epsilon": epsilon if series.private else None,
        "metrics": metrics,
        "per_site": sites,
        **({"personal": personal(series)} if series.jobs[0][0].study.personal else {}),
    }
