"""A straight line through a model's outputs, and the posterior mean of one under a public prior."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SHIFTS = np.linspace(-3, 3, 121)
STRETCHES = np.linspace(-np.log(4), np.log(4), 61)
"""Where the posterior is looked at: shifts of a logit, and logarithms of its slope."""

PRIOR_SHIFT = ((0.7, 0.1), (0.2, 0.4), (0.1, 1.2))
PRIOR_STRETCH = ((0.7, 0.08), (0.25, 0.3), (0.05, 0.7))
"""Public, as (weight, standard deviation) of normal distributions around no change.

Most models are nearly right; some, whose gradients were cut, are far off. A narrow peak with heavy tails leaves the former
alone and mends the latter (docs/privacy.md tells the figures it was chosen by).
"""


@dataclass(frozen=True)
class Line:
    """Each output becomes ``intercept + slope * output``; an intercept per output."""

    intercept: tuple[float, ...]
    slope: float

    @classmethod
    def none(cls, outputs: int) -> Line:
        """Return the line that changes nothing."""
        return cls((0.0,) * outputs, 1.0)

    @classmethod
    def of(cls, vector: NDArray[np.float64]) -> Line:
        """Return the line that a vector tells: intercepts, then the slope."""
        return cls(tuple(float(one) for one in vector[:-1]), float(vector[-1]))

    @property
    def vector(self) -> Floats:
        """Intercepts, then the slope."""
        return np.array([*self.intercept, self.slope], dtype=np.float64)

    def __call__(self, outputs: Floats) -> Floats:
        """Return outputs (records, outputs, ...), changed."""
        intercept = np.array(self.intercept).reshape(1, -1, *[1] * (outputs.ndim - 2))
        return np.asarray(intercept + self.slope * outputs, dtype=np.float64)


def prior() -> Floats:
    """Return the logarithm of the prior of every shift and stretch, (shifts, stretches)."""
    return _log_mixture(SHIFTS, PRIOR_SHIFT)[:, None] + _log_mixture(STRETCHES, PRIOR_STRETCH)


def posterior_mean(log_likelihood: Floats) -> tuple[float, float]:
    """Return the mean shift, and the slope whose logarithm is the mean stretch, from (shifts, stretches).

    Nothing is optimised, so nothing can diverge: where the noise drowns everything the prior's mean is left, no change.
    """
    log = log_likelihood + prior()
    weight = np.exp(log - log.max())
    weight /= weight.sum()
    return float((weight * SHIFTS[:, None]).sum()), float(np.exp((weight * STRETCHES).sum()))


def _log_mixture(at: Floats, parts: tuple[tuple[float, float], ...]) -> Floats:
    return np.asarray(np.log(sum(share / sd * np.exp(-0.5 * (at / sd) ** 2) for share, sd in parts)), dtype=np.float64)
