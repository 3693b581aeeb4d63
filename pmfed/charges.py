"""What a run charges a site's patients: one table, read by the site that books it and by whoever checks its receipt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pmfed.privacy.accounting import Release
from pmfed.privacy.plan import PrivacyPlan
from pmfed.study import Study
from pmfed.tasks import task_for

Role = Literal["train", "held-out"]


@dataclass(frozen=True)
class Charge:
    """One kind of release that a run makes at each site.

    Parameters
    ----------
    what
        'step', 'personal', 'statistics', 'evaluation' or 'personal-evaluation'; the ledger and the receipt know it by this word.
    role
        Whose patients it is charged to.
    release
        The mechanism, and how often the whole run applies it.
    clip
        Most that one patient can change it by (L2 norm).
    """

    what: str
    role: Role
    release: Release
    clip: float


def charges(study: Study, plan: PrivacyPlan) -> tuple[Charge, ...]:
    """Return what a run charges at each site, from the very plan that adds the noise."""
    found = [Charge("step", "train", Release(plan.sampling_rate, plan.noise_multiplier, plan.steps), plan.clip)]
    if plan.personal_noise is not None:
        steps = Release(plan.sampling_rate, plan.personal_noise, plan.personal_steps)
        found.append(Charge("personal", "train", steps, plan.clip))
    if plan.statistics_noise is not None:
        found.append(Charge("statistics", "train", Release(1.0, plan.statistics_noise), 1.0))
    if study.evaluation.release == "private":
        scores = Release(1.0, study.evaluation.release_noise)
        found.append(Charge("evaluation", "held-out", scores, task_for(study).sensitivity))
        if study.tuned:
            found.append(Charge("personal-evaluation", "held-out", scores, task_for(study).sensitivity))
    return tuple(found)
