"""What result.json says of held-out patients: told by a run and worked out again by whoever verifies it, by one piece of code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pmfed.methods.evaluated import Evaluated, Sum
from pmfed.methods.figures import evaluation_noise, over_patients, personal_of, with_sites
from pmfed.methods.further import further_figures
from pmfed.privacy.plan import PrivacyPlan
from pmfed.study import Study


def held_out_figures(
    study: Study, plan: PrivacyPlan, evaluated: Evaluated, own: Evaluated | None, further: Mapping[str, Sum]
) -> dict[str, Any]:
    """Return the parts of result.json that follow from sums over held-out patients.

    Parameters
    ----------
    study, plan
        What was asked, and the noise in it.
    evaluated, own
        Of the common model, and of the sites' own ones where they have any.
    further
        By query, what the study asked for besides.
    """
    return {
        "metrics": with_sites(study, evaluated, evaluation_noise(plan)),
        **over_patients(study, evaluated.total),
        **personal_of(study, plan, evaluated, own),
        **further_figures(study, plan, evaluated.total, further),
    }
