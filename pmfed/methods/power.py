"""Whether a study can learn anything: an effect of a usual size in the sum of all its steps, beside the noise in that sum."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import torch

from pmfed.cohort.invented import invented, typical_outcomes
from pmfed.cohort.statistics import solve, statistics_size
from pmfed.models import build
from pmfed.privacy import accounting
from pmfed.privacy.gradients import PrivateStep
from pmfed.privacy.plan import PrivacyPlan
from pmfed.study import Study
from pmfed.tasks import task_for

USUAL = math.sqrt(2) * NormalDist().inv_cdf(0.75)  # between two classes, in standard deviations: AUROC .75
PATIENTS = 8  # invented for each outcome
LEAST = 1.0


@dataclass(frozen=True)
class Power:
    ratio: float
    parameters: int
    gradients: tuple[float, ...]


def power(study: Study, plan: PrivacyPlan) -> Power:
    step = plan["step"]
    norms, size = _norms(study, plan)
    shares, _ = typical_outcomes(study)
    spread = shares * (1 - shares) if len(shares) > 1 else np.full(1, 0.5)
    towards = USUAL * float(spread @ norms)
    steps = step.times
    sites = step.sites
    signal = towards * step.sampling_rate * study.cohort.expected_patients * math.sqrt(steps)
    noise = step.noise_multiplier * step.bound * math.sqrt(size) * (1 if step.shared else math.sqrt(sites))
    return Power(signal / noise, size, tuple(norms))


def _norms(study, plan):
    model, task = build(study), task_for(study)
    cohort = invented(study, PATIENTS)
    if study.needs_statistics:
        cohort = cohort.scaled(solve(study, np.zeros(statistics_size(study))))
    inputs = {name: torch.from_numpy(values) for name, values in cohort.inputs.items()}
    present = {name: torch.from_numpy(values) for name, values in cohort.present.items()}
    private = PrivateStep(model, task.loss, plan["step"])
    _, outcomes = typical_outcomes(study)
    norms = []
    for outcome in outcomes:
        targets = task.targets(np.repeat(outcome[None], cohort.records, axis=0))
        each = []
        for p in range(cohort.patients):
            r = torch.from_numpy(cohort.owner == p)
            each.append(np.linalg.norm(private.clipped_sum({k: v[r] for k, v in inputs.items()}, {k: v[r] for k, v in present.items()}, targets[r], cohort.owner[cohort.owner == p]).vector))
        norms.append(float(np.mean(each)))
    return np.array(norms), private.size
