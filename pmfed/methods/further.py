"""What a study asks of held-out patients besides the scores of its model: figures by subgroup, and with worse inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pmfed.errors import StudyError
from pmfed.methods.evaluated import Evaluated
from pmfed.methods.figures import Metrics, metrics_of, points_of
from pmfed.privacy.plan import PrivacyPlan
from pmfed.queries import altered, subgroups
from pmfed.queries.subgroups import Subgroups
from pmfed.study import Study

Floats = NDArray[np.float64]
FEWEST = 10  # patients of whom something is told by themselves,
CLEAR = 4.0  # and more than so many standard deviations of the noise in their number


def further_of(study: Study) -> tuple[Subgroups | altered.Altered, ...]:
    """Return the queries that look at the finished model once more, in order.

    Raises
    ------
    StudyError
        The study names inputs it does not have, or that cannot be told apart or altered so.
    """
    if why := subgroups.misfit(study) or altered.misfit(study):
        raise StudyError(f"{why}.")
    groups = (Subgroups(study),) if study.evaluation.subgroups else ()
    return (*groups, *altered.altered_of(study))


def further_figures(
    study: Study, plan: PrivacyPlan | None, whole: Floats, sums: Mapping[str, Floats]
) -> dict[str, Any]:
    """Return the parts ``subgroups`` and ``robustness`` of result.json; empty for a study that asks for neither.

    All figures are of patients, whatever the study averages: ``all`` and ``unaltered`` stand beside them for comparison.

    Parameters
    ----------
    study
        What was asked.
    plan
        Tells the noise in the sums; None where they carry none.
    whole
        The sum over all held-out patients, (cells,).
    sums
        Query -> its sum over all held-out patients. A query that was lost is not among them.
    """
    queries = further_of(study)
    if not queries:
        return {}

    def noise(query: str) -> float:
        return plan[query].sum_std() if plan is not None and plan.private and query in plan else 0.0

    unaltered = _figures(study, whole, noise("evaluation"))
    found: dict[str, Any] = {}
    for query in queries:
        total = sums.get(query.name)
        if isinstance(query, Subgroups):
            by = [] if total is None else _by_group(query, total, noise(query.name))
            patients = round(float(whole[query.task.histogram].sum()))
            found["subgroups"] = {"all": {"patients": patients, "metrics": unaltered}, "by": by}
            continue
        found.setdefault("robustness", {"unaltered": unaltered, "altered": []})
        if total is not None and total.any():
            metrics = _figures(study, total, noise(query.name))
            told = {"name": query.name, "label": query.alteration, "metrics": metrics}
            found["robustness"]["altered"].append(told)
    return found


def _by_group(query: Subgroups, total: Floats, noise: float) -> list[dict[str, Any]]:
    counted = query.task.histogram
    found = []
    for grouping, parts in query.split(total):
        groups = []
        for name, part in zip(grouping.cells, parts, strict=True):
            cells = part[counted]
            patients = float(cells.sum())
            if not part.any() or (noise > 0 and patients < noise * np.sqrt(len(cells))):
                continue  # nobody, as far as the noise lets anyone see
            clear = patients >= max(FEWEST, CLEAR * noise * np.sqrt(len(cells)))
            metrics = _figures(query.study, part, noise) if clear else {}
            groups.append({"name": name, "patients": round(patients), "metrics": metrics})
        found.append({"name": grouping.name, "label": grouping.label, "groups": groups})
    return found


def _figures(study: Study, total: Floats, noise: float) -> Metrics:
    """Return the metrics of some patients together, with intervals, and the details without: there are many groups."""
    study = study.replace(evaluation={"average": "patients"})
    return points_of(study, total) | metrics_of(study, Evaluated(total), noise)
