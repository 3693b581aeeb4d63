"""What a promise about single records is worth to a patient who has several."""

from __future__ import annotations

import math
from functools import lru_cache

from scipy.stats import binom

from pmfed.errors import StudyError
from pmfed.privacy.mechanism import Mechanism
from pmfed.privacy.plan import Counts, PrivacyPlan

_COARSE, _FINE = 1e-2, 1e-3  # cells that privacy losses are rounded up to; the fine ones where epsilon is small


def patient_epsilon(plan: PrivacyPlan, records: int, counts: Counts | None = None) -> float:
    """Return the epsilon, at the plan's delta, of a patient with so many records.

    Parameters
    ----------
    plan
        Any plan. Of a mechanism with the patient as the unit the number of records does not matter.
    records
        Of the patient; a study's ``cohort.max_records`` at most.
    counts
        How many answers were given; of queries it does not name, all.

    Returns
    -------
    float
        Against ``colluders`` other sites.

    Notes
    -----
    Each of k records takes part with probability q and weighs one bound; at worst all pull the same way. A step is then
    a Gaussian moved by j bounds with the binomial probability of j out of k: the mixture of Gaussians whose privacy
    loss is the group's (Ganesh 2024, Tight group-level DP guarantees for DP-SGD with sampling), composed
    and rounded up as in `accounting`. Means and scales count a patient once, whatever the unit.
    """
    if records < 1:
        raise StudyError(f"{records} records: a patient has one at least.")
    if plan.unit == "patient" or not plan.private:
        return plan.epsilon(counts)
    told = tuple((one, (counts or {}).get(one.query, one.times)) for one in plan.of("train"))
    found = _epsilon(told, plan.delta, records, _COARSE)
    return found if found > 5 else _epsilon(told, plan.delta, records, _FINE)


@lru_cache(maxsize=256)
def _epsilon(mechanisms: tuple[tuple[Mechanism, int], ...], delta: float, records: int, grid: float) -> float:
    from dp_accounting import dp_event
    from dp_accounting.pld import pld_privacy_accountant

    accountant = pld_privacy_accountant.PLDAccountant(value_discretization_interval=grid)
    for one, times in mechanisms:
        many = records if one.unit == "record" else 1
        chances = [float(binom.pmf(count, many, one.sampling_rate)) for count in range(many + 1)]
        chances[0] += 1 - math.fsum(chances)  # they must add up to 1, not nearly
        weights = [float(count) for count in range(many + 1) if chances[count] > 0]
        if weights == [1.0]:
            event = dp_event.GaussianDpEvent(one.noise_multiplier)
        else:
            kept = [chance for chance in chances if chance > 0]
            event = dp_event.MixtureOfGaussiansDpEvent(one.noise_multiplier, weights, kept)
        if times:
            accountant.compose(dp_event.SelfComposedDpEvent(event, times))
    return float(accountant.get_epsilon(delta))
