"""What a promise about single records is worth to a patient who has several."""

from __future__ import annotations

import math
from functools import lru_cache

from scipy.stats import binom

from pmfed.errors import StudyError
from pmfed.privacy.plan import PrivacyPlan

_COARSE, _FINE = 1e-2, 1e-3  # cells that privacy losses are rounded up to; the fine ones where epsilon is small


def patient_epsilon(plan: PrivacyPlan, records: int) -> float:
    """Return the epsilon, at the plan's delta, of a patient with so many records.

    Parameters
    ----------
    plan
        Any plan. With the patient as the unit the number of records does not matter.
    records
        Of the patient; a study's ``cohort.max_records`` at most.

    Returns
    -------
    float
        Against ``colluders`` other sites.

    Notes
    -----
    Each of k records takes part with probability q and weighs one clip; at worst all pull the same way. A step is then
    a Gaussian moved by j clips with the binomial probability of j out of k: the mixture of Gaussians whose privacy
    loss is the group's (Ganesh 2024, Tight group-level DP guarantees for DP-SGD with sampling), composed
    and rounded up as in `accounting`. Means and scales count a patient once, whatever the unit.
    """
    if records < 1:
        raise StudyError(f"{records} records: a patient has one at least.")
    if plan.unit == "patient" or not plan.private:
        return plan.epsilon()
    found = _epsilon(plan, records, _COARSE)
    return found if found > 5 else _epsilon(plan, records, _FINE)


@lru_cache(maxsize=256)
def _epsilon(plan: PrivacyPlan, records: int, grid: float) -> float:
    from dp_accounting import dp_event
    from dp_accounting.pld import pld_privacy_accountant

    accountant = pld_privacy_accountant.PLDAccountant(value_discretization_interval=grid)
    chances = [float(binom.pmf(count, records, plan.sampling_rate)) for count in range(records + 1)]
    chances[0] += 1 - math.fsum(chances)  # they must add up to 1, not nearly
    weights = [float(count) for count in range(records + 1) if chances[count] > 0]
    for noise, steps in ((plan.noise_multiplier, plan.steps), (plan.personal_noise, plan.personal_steps)):
        if noise is not None:
            step = dp_event.MixtureOfGaussiansDpEvent(noise, weights, [one for one in chances if one > 0])
            accountant.compose(dp_event.SelfComposedDpEvent(step, steps))
    if plan.statistics_noise is not None:
        accountant.compose(dp_event.GaussianDpEvent(plan.statistics_noise))
    return float(accountant.get_epsilon(plan.delta))
