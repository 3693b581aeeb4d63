"""What a run charges a site's patients: derived from the schedule, read by the site that books it and by whoever checks its receipt."""

from __future__ import annotations

from dataclasses import dataclass

from pmfed.methods import schedule
from pmfed.privacy.mechanism import Mechanism
from pmfed.privacy.plan import PrivacyPlan
from pmfed.study import Study


@dataclass(frozen=True)
class Charge:
    """One query that a run is charged for at each site.

    Parameters
    ----------
    mechanism
        Whose patients, with how much noise, and how often over the whole run.
    at_once
        Applications of the mechanism that one answer is charged for.
    """

    mechanism: Mechanism
    at_once: int = 1

    @property
    def query(self) -> str:
        """The word that ledger and receipt know it by."""
        return self.mechanism.query


def charges(study: Study, plan: PrivacyPlan) -> tuple[Charge, ...]:
    """Return what a run charges at each site, from the very plan that adds the noise; exact queries have no price."""
    return tuple(Charge(plan[query.name], query.charged_at_once) for query in schedule(study) if query.name in plan)
