"""Whether a study can learn anything: what an effect of a usual size adds to the sum of all its steps, beside their noise.

Everything here follows from the study: nobody's data is looked at, so the answer is there before anybody is asked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

from pmfed.cohort.invented import typical_outcomes
from pmfed.methods.gradient_norms import gradient_norms
from pmfed.privacy.plan import PrivacyPlan
from pmfed.study import Study

USUAL = math.sqrt(2) * NormalDist().inv_cdf(0.75)
"""Between two outcomes, in standard deviations of the best direction: what an AUROC of .75 comes to."""

PATIENTS = 5  # invented, for each outcome
LOST, ENOUGH = 0.25, 1.0
"""Of `Power.ratio`. On invented cohorts of 500 and 4,000 patients with 20 to 2,000 inputs and an effect of that size, models had
an AUROC of .50 to .55 at LOST, of .49 to .59 at ENOUGH. Real inputs say the same in several ways, and their effects are
strong: eicu had .75 (of .84 without noise) at ENOUGH, hospitals .58 (of .83); heart-disease .64 (of .87) at .6; eicu-events, a
network, .70 (of .81) at .29."""
PEOPLE = 10**9  # no cohort has more
MOST = 100.0  # an epsilon above this promises nothing


@dataclass(frozen=True)
class Power:
    """What a study has in its favour.

    Attributes
    ----------
    ratio
        Length of the mean clipped gradient that an effect of a usual size makes if it lies where the inputs vary most, added
        up over all steps, over that of the noise in the same sum. 0: nobody would have a gradient.
    parameters
        That share the noise.
    patients, fewer, epsilon
        What by itself would make the ratio `ENOUGH`: that many expected patients, so few parameters, such an epsilon;
        None for one that no study can have.
    """

    ratio: float
    parameters: int
    patients: int | None = None
    fewer: int | None = None
    epsilon: float | None = None

    @property
    def lost(self) -> bool:
        """Whether a run would spend its budget on nothing."""
        return self.ratio < LOST

    def verdict(self) -> str:
        """Return a sentence for whoever is about to spend a budget; "" where there is no reason to doubt."""
        if self.ratio >= ENOUGH:
            return ""
        if self.ratio == 0:
            return (
                "this will not learn: no invented patient of these shapes has a gradient that is finite and not zero."
            )
        says = "this will not learn" if self.lost else "this may learn only a strong effect"
        would = [
            f"{self.patients:,} patients" if self.patients else "",
            f"{self.fewer:,} parameters instead of {self.parameters:,}" if self.fewer else "",
            f"epsilon {self.epsilon:g}" if self.epsilon else "",
        ]
        *others, last = [one for one in would if one] or ["more than any study can have"]
        return (
            f"{says}: an effect of the usual size (AUROC .75) would move all steps together {self.ratio:.2g} times as far as "
            f"their noise does. About {', '.join(others)}{' or ' * bool(others)}{last} would do."
        )


def power(study: Study, plan: PrivacyPlan) -> Power:
    """Return how an effect of a usual size compares with the noise of a plan.

    Parameters
    ----------
    study
        One that trains a model.
    plan
        Its plan, for as many sites as would take part.
    """
    step = plan["step"]
    norms, parameters = gradient_norms(study, step, PATIENTS)
    shares, _ = typical_outcomes(study)
    # Outcomes a standard deviation apart pull with s (1 - s) of their gradients' lengths each; masks all pull one way.
    pull = USUAL * float((shares * (1 - shares) if len(shares) > 1 else np.full(1, 0.5)) @ norms.mean(axis=1))
    patients = step.sampling_rate * study.cohort.expected_patients
    noise = step.noise_multiplier * step.bound * math.sqrt(parameters)
    if not step.shared:
        noise *= math.sqrt(step.sites)  # each adds the whole
    ratio = pull * patients * math.sqrt(step.times) / noise
    if ratio >= ENOUGH or ratio == 0 or not math.isfinite(ratio):
        return Power(ratio if math.isfinite(ratio) else 0.0, parameters)
    fewer = int(_two_digits(parameters * (ratio / ENOUGH) ** 2))
    patients = _two_digits(study.cohort.expected_patients * ENOUGH / ratio)
    return Power(
        ratio,
        parameters,
        int(patients) if patients <= PEOPLE else None,
        fewer if fewer > 1 else None,
        _epsilon(plan, step.noise_multiplier * ratio / ENOUGH),
    )


def _epsilon(plan: PrivacyPlan, noise: float) -> float | None:
    """Return the epsilon of a plan whose steps have another noise; None beyond `MOST`."""
    if noise < 0.3:  # where accounting takes long, and comes to more than anybody should allow
        return None
    steps = (replace(one, noise_multiplier=noise) if one.query == "step" else one for one in plan.mechanisms)
    found = _two_digits(replace(plan, mechanisms=tuple(steps)).epsilon())
    return found if found <= MOST else None


def _two_digits(value: float) -> float:
    return float(f"{value:.1e}")
