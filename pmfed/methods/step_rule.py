"""What "auto" stands for: clip, sampling rate, rounds and step length from the public numbers of a study.

They are found with invented patients on the machine of whoever writes the study. No patient, and no site, is asked: the
numbers stand in the study and cost nothing. docs/study.md gives the formulas and the reasons.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from pmfed.cohort.invented import typical_outcomes
from pmfed.errors import StudyError
from pmfed.methods.gradient_norms import gradient_norms
from pmfed.methods.schedule import noiseless_plan, plan_for
from pmfed.privacy.plan import PrivacyPlan
from pmfed.queries.gradient import model_size
from pmfed.study import Study
from pmfed.study.automatic import Place, at
from pmfed.study.draft import Draft, Numbers
from pmfed.tasks import Task, task_for

Floats = NDArray[np.float64]

ROUNDS = 100
RATE = 0.5
WANDER = 0.6
"""By how much noise alone may move a typical patient's score until the end, were nothing to pull it back: in units of the
outcome's scale, or in logits. Between 0.35 and 1 hardly anything changes."""
STABLE = 10.0
"""The longest step, momentum counted, times the curvature: with momentum of 0.9 steps twice as long are stable still."""
INTERCEPT = 8.0
"""How much faster the output's constants go where no public baseline is given; half of it, or less, where one is."""

FAR = (0.6, 3.0)
"""Between these multiples of the rule's clip nothing is said of a study's own."""
FAR_STEP = 5.0
"""So many times the rule's step, or its part, and nothing is said."""

_SURE = 20.0  # logits: as wrong as a model can be
_MANY, _FEW, _LARGE = 16, 8, 100_000  # invented patients, for small and large models


@dataclass(frozen=True)
class Typical:
    """What a typical patient adds to the first sum of gradients.

    Parameters
    ----------
    weights
        L2 norm of the gradient, by outcome.
    growth
        By how much the longest of them may grow while the model learns: once it is sure, and wrong about a patient.
    information
        Mean square of the norms over the outcomes at their public shares, per number of the model: of a likelihood that is how
        fast a step closes in on the best model, on average over directions.
    reach
        By how much a gradient is longer than the slope of its loss: of a linear model the norm of the inputs and a 1.
    curvature
        How fast that slope changes with the output, at most.
    spread
        Of the outcome in units of the output; 1 but for numbers whose public scale says otherwise.
    """

    weights: tuple[float, ...]
    growth: float
    information: float
    reach: float
    curvature: float
    spread: float


@lru_cache(maxsize=32)
def resolved(draft: Draft) -> Study:
    """Return the study that a draft stands for, with numbers only.

    Raises
    ------
    StudyError
        What "auto" stands for cannot be told of such a study.
    """
    study = draft.study
    for place, number in numbers_for(draft).items():
        study = _with(study, place, number)
    return study


def numbers_for(draft: Draft) -> Numbers:
    """Return the numbers for the keys that say "auto", to two digits."""
    study, found = draft.study, dict[Place, float | int]()
    if not draft.asked:
        return found
    if study.method.kind != "gradient":
        raise StudyError(f"{_key(draft.asked[0])}: method '{study.method.kind}' trains nothing.", "Leave the key out.")
    for place, rule in _RULES.items():
        if place in draft.asked:
            found[place] = rule(study)
            study = _with(study, place, found[place])
    return found


def advice(draft: Draft, study: Study) -> Iterator[str]:
    """Yield what whoever wrote a study should know of its steps: what "auto" became, and what is far off."""
    for place in draft.asked:
        yield f'{_key(place)}: "auto" is {at(study.model_dump(), place):g}.'
    for line in far_from_rule(study):
        yield f"note: {line}"


def far_from_rule(study: Study) -> Iterator[str]:
    """Yield what should be thought over, with its figures: a clip, a step or a start far from what the rule would take."""
    if study.method.kind != "gradient" or study.training.algorithm != "fedsgd":
        return
    own, rule = study.privacy.clip, _clip(study)
    if not FAR[0] * rule <= own <= FAR[1] * rule:
        kept = [min(1.0, own / weight) for weight in typical(study).weights]
        what = (
            f"cuts what a typical patient says to {min(kept):.0%} with one outcome and {max(kept):.0%} with another, so that "
            "predictions may leave what is observed"
            if own < rule
            else f"brings {own / rule:.1f} times the noise that is needed"
        )
        yield f"privacy.clip: {own:g} {what}; about {rule:g} would do."
    if study.training.optimizer.name in ("sgd", "momentum"):
        own, rule = study.training.optimizer.learning_rate, _learning_rate(study)
        loud = own / (_quiet(study, study.privacy.clip) * _before_momentum(study))
        if loud > FAR_STEP:
            yield (
                f"training.optimizer.learning_rate: at {own:g} noise alone would move a typical score by {WANDER * loud:.1f} in "
                f"{study.training.rounds} rounds; {rule:g} would do."
            )
        elif own < rule / FAR_STEP:
            yield (
                f"training.optimizer.learning_rate: {own:g} is {own / rule:.0%} of the {rule:g} that noise allows: in "
                f"{study.training.rounds} rounds the model may not get far."
            )
    if not _knows_shares(study):
        yield (
            "outcome.baseline: none is given, so the model must learn how frequent the outcome is before anything else. A rough "
            "figure from the literature helps, the more the smaller epsilon and cohort are."
        )


def typical(study: Study) -> Typical:
    """Return what a typical patient adds to the first sum of gradients, found with invented patients."""
    plain = {
        "algorithm": "fedsgd", "rounds": 1, "optimizer": {"learning_rate": 1.0},
        "local_steps": 1, "local_learning_rate": None, "proximal": 0.0,
    }  # fmt: skip
    return _typical(study.replace(training=plain, privacy={"epsilon": 1.0, "clip": 1.0, "sampling_rate": 1.0}))


@lru_cache(maxsize=32)
def _typical(study: Study) -> Typical:
    norms, (starts, ends) = _norms(study), _slopes(study)
    longest = int(np.argmax(norms))
    reach, size = float(norms[longest] / starts[longest]), model_size(study)
    if study.outcome.endless:
        # Its slope, the error, has no end. Half a spread is where Huber's loss would begin to cut.
        spread = _spread(study)
        return Typical((reach * spread / 2,), 1.0, reach**2 / size, reach, study.outcome.curvature, spread)
    shares, _ = typical_outcomes(study)
    information = float(shares @ norms**2) / size
    if not np.isfinite(ends).all():
        return Typical((math.sqrt(information * size),), 1.0, information, reach, study.outcome.curvature, 1.0)
    growth = float(ends[longest] / starts[longest])
    return Typical(tuple(norms.tolist()), growth, information, reach, study.outcome.curvature, 1.0)


def _norms(study: Study) -> Floats:
    """Return the L2 norm of a patient's gradient at the start, (outcomes,), as the root mean square of invented patients."""
    patients = _MANY if model_size(study) < _LARGE else _FEW
    norms, _ = gradient_norms(study, noiseless_plan(study, study.fewest_sites)["step"], patients)
    return np.asarray(np.sqrt((norms**2).mean(axis=1)), dtype=np.float64)


def _slopes(study: Study) -> tuple[Floats, Floats]:
    """Return how long the slope of the loss is at the baseline and where the model is surely wrong, (outcomes,) each.

    Infinite where the loss, such as that of a count, has no longest slope.
    """
    task = task_for(study)
    _, outcomes = typical_outcomes(study)
    found = []
    for outcome in outcomes:
        targets = task.targets(outcome[None])
        pixels = outcome.shape if study.outcome.masks is not None else ()
        start = task.bias().view(1, -1, *[1] * len(pixels)).expand(1, -1, *pixels)
        slope = _slope(task, start, targets)
        ascent = slope / slope.norm().clamp(min=1e-12)
        wrong, worse = (_slope(task, start + far * ascent, targets).norm() for far in (_SURE, 2 * _SURE))
        found.append((slope.norm(), wrong if worse < 1.1 * wrong else math.inf))
    starts, ends = np.array(found, dtype=np.float64).T
    return starts, ends


def _slope(task: Task, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    outputs = outputs.detach().clone().requires_grad_()
    (slope,) = torch.autograd.grad(task.loss(outputs, targets).sum(), outputs)
    return slope


def _spread(study: Study) -> float:
    """Return the spread of a regression's outcome in units of the output: 1, unless the bounds make that impossible."""
    low, high = task_for(study).targets(study.outcome.extremes()).tolist()
    return float(np.clip(1.0, (high - low) / 30, (high - low) / 4))


# -- the rules, by key: each looks at a study in which the ones before it have answered -----------------------------------


def _clip(study: Study) -> float:
    """Return what the rarest say at the baseline, and a part of what more they may come to say, as far as the run gets.

    Half of it; all of it where no baseline says how rare they are.
    """
    seen, part = typical(study), 0.5 if _knows_shares(study) else 1.0
    return rounded(max(seen.weights) * (1 + (seen.growth - 1) * part * _progress(study)))


def _intercept(study: Study) -> float:
    if study.training.optimizer.name not in ("sgd", "momentum"):
        return 1.0
    return rounded(1 + (INTERCEPT / 2 - 1) * _progress(study)) if _knows_shares(study) else INTERCEPT


def _knows_shares(study: Study) -> bool:
    """Whether the model starts at a public baseline, or need not (a number's middle is no worse than its mean)."""
    return study.outcome.baseline is not None or not study.outcome.rare


def _learning_rate(study: Study) -> float:
    training, optimizer = study.training, study.training.optimizer
    if training.algorithm != "fedsgd" or optimizer.name not in ("sgd", "momentum"):
        raise StudyError(
            'training.optimizer.learning_rate: "auto" is for fedsgd with sgd or momentum.', "Give a number."
        )
    seen = typical(study)
    stable = STABLE / (seen.curvature * (seen.reach**2 + optimizer.intercept - 1))
    return rounded(min(_quiet(study, study.privacy.clip), stable) * _before_momentum(study))


def _before_momentum(study: Study) -> float:
    """Return the part of a step that momentum does not add."""
    optimizer = study.training.optimizer
    return 1 - optimizer.momentum if optimizer.name == "momentum" else 1.0


def _quiet(study: Study, clip: float) -> float:
    """Return the step with which the noise of all rounds moves a typical score by ``WANDER``."""
    seen = typical(study)
    batch = study.privacy.sampling_rate * study.cohort.expected_patients
    noise = _plan(study)["step"].noise_multiplier * clip / batch  # of a mean gradient, in every number of the model
    return WANDER * seen.spread / (noise * seen.reach * math.sqrt(study.training.rounds))


def _progress(study: Study) -> float:
    """Return how much of the way to the best model a run gets with that step: little where the noise is much."""
    seen, training = typical(study), study.training
    step = min(_quiet(study, max(seen.weights)), STABLE / (seen.curvature * seen.reach**2))
    rounds = training.rounds * (1 - training.average_last / 2)  # what the averaged models have behind them
    return 1 - math.exp(-seen.information * step * rounds)


_RULES: dict[Place, Callable[[Study], float | int]] = {
    ("privacy", "sampling_rate"): lambda study: RATE,
    ("training", "rounds"): lambda study: ROUNDS,
    ("privacy", "clip"): _clip,
    ("training", "optimizer", "intercept"): _intercept,
    ("training", "optimizer", "learning_rate"): _learning_rate,
}


def rounded(number: float) -> float:
    """Return a number to two digits: the same on every machine, and as exact as the rule is."""
    return float(f"{number:.2g}")


def _plan(study: Study) -> PrivacyPlan:
    """Return the study's plan for the fewest sites: the noise that no colluder knows does not depend on how many there are."""
    return plan_for(study, study.fewest_sites)


def _with(study: Study, place: Place, number: float | int) -> Study:
    if len(place) == 2:
        return study.replace(**{place[0]: {place[1]: number}})
    optimizer = study.training.optimizer.model_dump() | {place[-1]: number}
    return study.replace(training={"optimizer": optimizer})


def _key(place: Place) -> str:
    return ".".join(place)
