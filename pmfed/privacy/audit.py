"""The statistics of `pmfed audit`: what a build of pmfed really does, measured against what its plan claims.

Everything here sees numbers only: noise that was collected, sums with and without a patient, canaries and
what was released about them. What is expected is computed from the fields of the plan and never by the code that
adds the noise, so that an error there cannot hide itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from pmfed.privacy.mechanism import Mechanism

Floats = NDArray[np.float64]

FALSE_ALARM = 1e-9
"""How often a correct build fails the check of its noise, or of the noise's independence."""

LARGEST_Z = 4.0
"""Standard deviations beyond which the canaries are an alarm (Gaussian: 6 in 100,000)."""

TOLERANCE = 1e-4
"""Share of the clip by which rounding in float32 may carry one patient's weight past the clip."""

MIXING = 1e-2
"""Share of the clip by which a patient's gradient may differ alone and among others: rounding, not mixing."""

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Check:
    """One question to the build: what was found, what would be right, and whether it is."""

    name: str
    found: str
    right: str
    passed: bool


@dataclass(frozen=True)
class Audit:
    """All checks of one study, and the two epsilons that people compare.

    ``claimed`` is the plan's epsilon at ``delta`` for one ``unit``; ``lower_bound`` is shown at 95 % confidence by
    attacking; ``most`` is the largest lower bound the attack could have shown, had every guess been right; 0 where
    none was made.
    """

    checks: tuple[Check, ...]
    claimed: float
    delta: float
    unit: str
    lower_bound: float
    most: float

    @property
    def alarms(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if not check.passed)

    @property
    def verdict(self) -> str:
        """Return the outcome in one or two sentences."""
        if self.alarms:
            names = ", ".join(check.name for check in self.alarms)
            return f"this build does not keep the study's promise. Alarm: {names}."
        if self.most == 0:
            return (
                f"nothing speaks against epsilon {self.claimed:.3g} at delta {self.delta:.2g} per {self.unit}; there is no "
                "model to plant canaries in, so no attack was made."
            )
        weaker = " The study protects single records, which is weaker than protecting patients."
        return (
            f"nothing speaks against epsilon {self.claimed:.3g} at delta {self.delta:.2g} per {self.unit}; the attack "
            f"proves at least {self.lower_bound:.2g}." + weaker * (self.unit == "record")
        )


def honest_sites(mechanism: Mechanism) -> int:
    """Return over how many sites the noise that the claim counts on is shared out."""
    return mechanism.sites - mechanism.colluders if mechanism.shared else 1


def site_std(mechanism: Mechanism, local_steps: int = 1) -> float:
    """Return the standard deviation that the noise in one release of one of all K sites must have.

    Parameters
    ----------
    mechanism
        The claim.
    local_steps
        Noisy sums in one release; 1 with fedsgd.
    """
    return mechanism.noise_multiplier * mechanism.bound * math.sqrt(local_steps / honest_sites(mechanism))


def noise_check(name: str, blocks: Mapping[str, Floats], std: float, unit: float) -> Check:
    """Check the standard deviation of noise, block by block.

    Parameters
    ----------
    name
        Of the check.
    blocks
        Noise that was collected, any shape; a block that had no noise must not hide among others.
    std
        What it must be before rounding.
    unit
        Width of the grid it was rounded to; rounding adds unit^2 / 12 to the variance.

    Notes
    -----
    The sum of n squared numbers of N(0, v) over v is chi-square with n degrees of freedom. A block is an alarm
    outside the central interval that correct noise leaves with probability ``FALSE_ALARM`` over all blocks.
    """
    variance = std**2 + unit**2 / 12
    tail = FALSE_ALARM / (2 * len(blocks))
    passed, worst, total, count = True, 0.0, 0.0, 0
    for values in blocks.values():
        low, high = stats.chi2.ppf(tail, values.size), stats.chi2.isf(tail, values.size)
        size = float((values**2).sum()) / variance
        passed &= bool(low <= size <= high)
        worst = max(worst, abs(size - values.size) / math.sqrt(2 * values.size))
        total, count = total + size, count + values.size
    which = "" if passed else f", the worst of {len(blocks)} parts {worst:.0f} standard errors off"
    return Check(name, f"{math.sqrt(total / count):.4f} times the plan's ({count} numbers{which})", "1", passed)


def independence_check(first: Floats, second: Floats) -> Check:
    """Check that noise depends neither on the noise of other steps nor on that of another site.

    Parameters
    ----------
    first, second
        (steps, size) noise of two sites, two steps at least.

    Notes
    -----
    Products of independent numbers of mean 0 have mean 0: a correlation over n pairs times sqrt(n) is N(0, 1).
    Looked at: one step and the next, neighbours within a step, one site and the other; and the sum over all steps, whose
    variance grows when noise comes back after any number of steps.
    """
    pairs = (
        (first[:-1], first[1:]),
        (second[:-1], second[1:]),
        (first[:, :-1], first[:, 1:]),
        (first, second),
    )
    largest = 0.0
    for a, b in pairs:
        if a.size:
            norm = math.sqrt(float((a**2).sum()) * float((b**2).sum()))
            # No noise at all repeats itself perfectly.
            correlation = float((a * b).sum()) / norm if norm != 0 else 1.0
            largest = float(np.maximum(largest, abs(correlation) * math.sqrt(a.size)))  # which keeps NaN
    limit = float(stats.norm.isf(FALSE_ALARM / (2 * len(pairs) + 2)))
    repeats = False
    for noise in (first, second):
        steps, size = noise.shape
        mean_square = float((noise**2).mean())
        grown = float((noise.sum(axis=0) ** 2).sum()) / (steps * mean_square) if mean_square > 0 else math.inf
        repeats |= not grown <= float(stats.chi2.isf(FALSE_ALARM, size))
    return Check(
        "independence of the noise",
        f"correlations of {largest:.1f} standard errors" + ("; noise that comes back" if repeats else ""),
        f"at most {limit:.1f}",
        largest <= limit and not repeats,
    )


def sensitivity_check(changes: Floats, mixing: Floats, clip: float) -> Check:
    """Check what one adversarial patient does to the sum without noise.

    Parameters
    ----------
    changes
        (n,) length of the change of the sum when the patient joins the others.
    mixing
        (n,) length of the difference between that change and the sum of the patient alone.
    clip
        The most a patient may change.
    """
    largest, mixed = float(np.max(changes)) / clip, float(np.max(mixing)) / clip
    tells = f"; {mixed:.2g} C of it through other patients" if not mixed <= MIXING else ""
    return Check(
        "weight of one patient",
        f"{largest:.5f} C ({len(changes)} adversaries){tells}",
        "at most 1 C",
        largest <= 1 + TOLERANCE and mixed <= MIXING,
    )


@dataclass(frozen=True)
class Canaries:
    """Planted vectors, which of them took part, and what was released.

    Attributes
    ----------
    directions : (m, d)
        Unit vectors; every one was planted with a length beyond the clip.
    included : (m,) bool
        Drawn with probability 1/2 each.
    releases : (n, d)
        Sums over the honest sites, in clips.
    steps
        Noisy sums in each release.
    rounding
        Variance that rounding adds to a coordinate of a release, in clips squared.
    """

    directions: Floats
    included: NDArray[np.bool_]
    releases: Floats
    steps: int
    rounding: float


def canary_checks(canaries: Canaries, mechanism: Mechanism) -> tuple[Check, Check]:
    """Check how strongly the canaries show, and the noise around them, against the mechanism.

    Notes
    -----
    An included canary is in each step with probability q and weighs one clip. Its inner product with the sum over T steps
    is then q T on average among noise of sigma sqrt(T): q sqrt(T) / sigma standard deviations. The mean over the included
    canaries (weighted as least squares does, because directions are not exactly at right angles) is measured in the
    plan's units of noise; what the least-squares fit leaves over gives the noise.
    """
    q, sigma = mechanism.sampling_rate, mechanism.noise_multiplier
    inside = canaries.directions[canaries.included]
    releases, length = len(canaries.releases), canaries.directions.shape[1]
    count = releases * canaries.steps
    signal = inside.sum(axis=0)
    power = float(signal @ signal)
    if power == 0:
        raise ValueError("no canary was included")
    variance = sigma**2 + canaries.rounding / canaries.steps  # of a coordinate, per step
    chance = q * (1 - q)  # of a canary's taking part, per step
    rate = float(canaries.releases.sum(axis=0) @ signal) / (count * power)
    rate_std = math.sqrt((variance * power + chance * float(((inside @ signal) ** 2).sum())) / count) / power
    strength, claim = rate * math.sqrt(count) / sigma, q * math.sqrt(count) / sigma
    z = (rate - q) / rate_std
    left = canaries.releases - rate * canaries.steps * signal
    energy = float((left**2).sum()) / count
    found = (energy - chance * len(inside)) / length
    gram = inside @ inside.T
    square = length * variance**2 + 2 * variance * chance * len(inside) + chance**2 * float((gram**2).sum())
    # Steps within a release show together: as few independent looks as there are releases.
    spread = math.sqrt(2 * square / releases + len(inside) * chance / count) / length
    z_noise = (found - variance) / spread
    right = f"|z| at most {LARGEST_Z:g}"
    return (
        Check(
            "strength of the canaries",
            f"{strength:.3f}; q sqrt(T)/sigma is {claim:.3f} (z = {z:.1f})",
            right,
            abs(z) <= LARGEST_Z,
        ),
        Check(
            "noise around the canaries",
            f"{math.sqrt(max(found, 0.0) / variance):.3f} times the plan's (z = {z_noise:.1f})",
            right,
            abs(z_noise) <= LARGEST_Z,
        ),
    )


def attack(canaries: Canaries, mechanism: Mechanism, delta: float) -> tuple[float, float]:
    """Return the lower bound on epsilon that guessing proves at 95 % confidence, and the most it could have proved.

    Every canary is scored by its inner product with the sum of all releases. The highest scores are guessed to have
    taken part, as many of the lowest not to; how many guesses are made is fixed by the plan before looking.
    """
    count = len(canaries.releases) * canaries.steps
    # What the attacker expects of a coin flip for every canary, taken off, so that canaries hide each other less.
    centre = mechanism.sampling_rate * count / 2 * canaries.directions.sum(axis=0)
    scores = canaries.directions @ (canaries.releases.sum(axis=0) - centre)
    guesses = _guesses(canaries, mechanism, delta)
    order = np.argsort(scores, kind="stable")
    half = guesses // 2
    right = int(canaries.included[order[-half:]].sum() + (~canaries.included[order[:half]]).sum())
    total = len(scores)
    return (
        lower_bound(total, guesses, right, delta),
        lower_bound(total, guesses, guesses, delta),
    )


def attack_check(bound: float, most: float, claimed: float) -> Check:
    """Check that the proven lower bound does not exceed the claimed epsilon."""
    return Check(
        "attack on the canaries",
        f"epsilon at least {bound:.3f} (could have shown {most:.2g})",
        f"at most {claimed:.3f}",
        bound <= claimed,
    )


def lower_bound(canaries: int, guesses: int, right: int, delta: float, confidence: float = CONFIDENCE) -> float:
    """Return the epsilon that a mechanism must exceed, if so many guesses about its canaries were right.

    Parameters
    ----------
    canaries
        Each was included with probability 1/2, independently.
    guesses, right
        How many were guessed about, and how many guesses were right.
    delta
        Of the (epsilon, delta) that is refuted.
    confidence
        Of the refutation.

    Returns
    -------
    float
        0 when nothing is refuted.

    Notes
    -----
    One run is enough: Steinke, Nasr, Jagielski 2023 (Privacy auditing with one training run), theorem 5.2.
    """
    if p_value(canaries, guesses, right, 0.0, delta) > 1 - confidence:
        return 0.0
    low, high = 0.0, 1.0
    while p_value(canaries, guesses, right, high, delta) <= 1 - confidence:
        low, high = high, 2 * high
    for _ in range(40):
        middle = (low + high) / 2
        if p_value(canaries, guesses, right, middle, delta) <= 1 - confidence:
            low = middle
        else:
            high = middle
    return low


def p_value(canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """Return how likely so many right guesses are at most under (epsilon, delta)-differential privacy."""
    if not 0 <= right <= guesses <= canaries:
        raise ValueError("at most as many guesses as canaries, and right ones as guesses")
    chance = 1 / (1 + math.exp(-epsilon))
    tail = float(stats.binom.sf(right - 1, guesses, chance))
    below = np.cumsum(stats.binom.pmf(np.arange(right - 1, -1, -1), guesses, chance))
    alpha = float(np.max(below / np.arange(1, right + 1), initial=0.0))
    return min(1.0, tail + 2 * canaries * delta * alpha)


def _guesses(canaries: Canaries, mechanism: Mechanism, delta: float) -> int:
    """Return how many guesses promise the best bound if the plan holds: many unsure ones, or few sure ones."""
    total, length = canaries.directions.shape
    q = mechanism.sampling_rate
    claim = q * math.sqrt(len(canaries.releases) * canaries.steps) / mechanism.noise_multiplier
    hidden = 1 + (claim**2 / 4 + q * (1 - q) / (2 * mechanism.noise_multiplier**2)) * total / length
    shift = claim / math.sqrt(hidden)
    best, most = 2, -1.0
    for share in (1, 2, 4, 8, 16, 32):
        guesses = 2 * (total // (2 * share))
        if guesses < 2:
            break
        # The score above which the share of guessed "in" lies, in an even mixture of N(shift, 1) and N(0, 1).
        edges = np.linspace(-6, shift + 6, 4001)
        above = (stats.norm.sf(edges - shift) + stats.norm.sf(edges)) / 2
        edge = float(np.interp(-guesses / (2 * total), -above, edges))
        sure = float(stats.norm.sf(edge - shift) / (stats.norm.sf(edge - shift) + stats.norm.sf(edge)))
        bound = lower_bound(total, guesses, round(guesses * sure), delta)
        if bound > most:
            best, most = guesses, bound
    return best
