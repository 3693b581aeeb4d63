"""Figures of evaluations: metrics of sums over held-out patients, with intervals that hold the noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pmfed.methods.evaluated import Evaluated
from pmfed.privacy.accounting import epsilon
from pmfed.privacy.plan import PrivacyPlan
from pmfed.privacy.rounding import rounded_up
from pmfed.study import Study

Metrics = dict[str, float | None]
Floats = NDArray[np.float64]


def metrics_of(study: Study, evaluated: Evaluated, noise: float = 0.0, *, detailed: bool = False) -> Metrics:
    """Return the metrics of an evaluation with ``_low`` and ``_high``, the 95 % bootstrap interval over patients.

    ``noise`` is the standard deviation of the noise in each cell of a private release; ``detailed`` adds the task's
    details to the metrics by which models are compared.
    """
    from pmfed.tasks import task_for  # torch, which a site's commands do without
    from pmfed.tasks.task import intervals, measured

    task = task_for(study)
    totals = evaluated.measured_as(study.evaluation.average)
    found = {name: float(value) for name, value in measured(task, totals, detailed=detailed).items()}
    for name, (low, high) in intervals(task, totals, noise=noise, detailed=detailed).items():
        found |= {f"{name}_low": low, f"{name}_high": high}
    return finite(found)


def with_sites(study: Study, evaluated: Evaluated, noise: float) -> dict[str, Any]:
    """Return ``test``, all metrics of an evaluation, and ``per_site``, those of each site that publishes its sums."""
    return {
        "test": metrics_of(study, evaluated, noise, detailed=True),
        "per_site": {
            site: metrics_of(study, Evaluated.of_site(site, total))
            for site, total in sorted(evaluated.per_site.items())
        },
    }


def over_patients(study: Study, total: Floats) -> dict[str, Any]:
    """Return the part ``over_patients`` of result.json: all figures of all patients together, where the study averages sites."""
    return {"over_patients": points_of(study, total)} if study.evaluation.average == "sites" else {}


def points_of(study: Study, total: Floats) -> Metrics:
    """Return all metrics of a sum over patients, without intervals."""
    from pmfed.tasks import task_for
    from pmfed.tasks.task import measured

    return finite({name: float(value) for name, value in measured(task_for(study), [total], detailed=True).items()})


def finite(values: Mapping[str, float]) -> Metrics:
    """Return values that JSON can hold: None where a figure cannot be told."""
    return {name: round(value, 6) if np.isfinite(value) else None for name, value in values.items()}


def personal_of(study: Study, plan: PrivacyPlan, evaluated: Evaluated, own: Evaluated | None) -> dict[str, Any]:
    """Return the part of result.json on the sites' own models; empty for a study that has none.

    Where parts of the model stay at the sites there is no other model: the run's figures are those of the sites' own.
    """
    if study.personal is None:
        return {}
    found = own if study.tuned else evaluated
    told: dict[str, Any] = {"method": study.personal.method, "epsilon": None, "test": {}, "per_site": {}}
    if "personal" in plan and plan.private:
        told["epsilon"] = rounded_up(epsilon([plan["personal"].release()], plan.delta))
    if found is not None and found.total.any():
        told |= with_sites(study, found, evaluation_noise(plan))
    return {"personal": told}


def evaluation_noise(plan: PrivacyPlan) -> float:
    """Return the noise in each cell of the evaluation: that of all sites together."""
    if "evaluation" not in plan or not plan.private:
        return 0.0
    return plan["evaluation"].sum_std()
