"""The schedule of a study and its privacy plan: derived from the queries of its method, and from nothing else."""

from __future__ import annotations

from functools import lru_cache

from pmfed.errors import StudyError
from pmfed.methods.registry import METHODS, method_class
from pmfed.plugins import plugin_of
from pmfed.privacy.plan import PrivacyPlan
from pmfed.queries.plugged import PluginRows
from pmfed.queries.query import Query
from pmfed.study import Study


@lru_cache(maxsize=32)
def schedule(study: Study) -> tuple[Query, ...]:
    """Return everything a run of a study may ask, in order; the queries of a plug-in as `PluginRows`.

    Raises
    ------
    StudyError
        The method names a query twice, or a plug-in's query is not what it must be.
    """
    kind = study.method.kind
    found = method_class(kind).queries(study)
    if kind not in METHODS:
        plugin = plugin_of("methods", kind)
        assert plugin is not None
        package = f"{plugin.distribution} {plugin.version}"
        found = tuple(PluginRows(study, one, package) for one in found)  # type: ignore[arg-type]
    if len({one.name for one in found}) < len(found):
        raise StudyError(f"method '{study.method.kind}' names a query twice.")
    return found


def plan_for(study: Study, sites: int) -> PrivacyPlan:
    """Return the privacy plan of a study: the least noise that keeps its promise.

    Parameters
    ----------
    study
        The study; its epsilon is the total of the run for the patients that are learned from.
    sites
        Sites that enrol.

    Raises
    ------
    StudyError
        There are not more sites than colluders, or what has noise of its own alone spends the epsilon.
    """
    queries = [one for one in schedule(study) if not one.exact]
    blank = [one.mechanism(sites) for one in queries]
    scaled = [one.name for one in queries if one.noise is None]
    epsilon, delta = study.privacy.epsilon, study.privacy.delta
    try:
        return PrivacyPlan.solve(blank, scaled, epsilon, delta)
    except StudyError:
        fixed = [one for one in queries if one.noise is not None and one.whose != "held-out"]
        others = [one for one in blank if one.query in {query.name for query in fixed}]
        if not others or PrivacyPlan(tuple(others), delta).epsilon() < epsilon:
            raise
        alone = PrivacyPlan(tuple(others), delta).epsilon()
        names = " and ".join(one.label for one in fixed)
        raise StudyError(
            f"{fixed[-1].key}: {names} alone spend epsilon {alone:.3g} of {epsilon:g}.",
            " ".join(one.cheaper for one in fixed),
        ) from None


def noiseless_plan(study: Study, sites: int, *, clipped: bool = False) -> PrivacyPlan:
    """Return the plan of a comparison that trains without noise, and without the clip unless ``clipped``.

    Only simulations run it.
    """
    blank = tuple(one.mechanism(sites) for one in schedule(study) if not one.exact)
    return PrivacyPlan(blank, study.privacy.delta).without_noise(clipped=clipped)
