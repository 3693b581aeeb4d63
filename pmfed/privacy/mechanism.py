"""Mechanism: how one query of a run is protected. The code that adds noise and the code that accounts both read it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from pmfed.errors import PolicyError, StudyError
from pmfed.privacy.accounting import Release

Role = Literal["train", "held-out", "all"]
"""Whose patients a query sums over, and is charged to."""

Unit = Literal["patient", "record"]

Against = Literal["public", "colluders", "others"]
"""Who looks: the coordinator with ``colluders`` sites, the public with the result only, all other sites."""

AGAINST: tuple[Against, ...] = get_args(Against)

GRID_STEPS = 4096
"""A bound is at least this many units of the fixed-point grid."""

SAMPLED_GAUSSIAN = "sampled-gaussian"
"""Its name in the ledger: patients drawn each for itself at a rate, Gaussian noise on the sum."""


@dataclass(frozen=True)
class Mechanism:
    """A sampled Gaussian mechanism as one run applies it to one query, some times.

    Parameters
    ----------
    query
        The query's name; ledger, receipt and messages know it by this word.
    role
        Whose patients are drawn.
    unit
        What is protected: all records of a patient together, or (weaker) each record.
    sampling_rate
        Probability with which each unit takes part in one answer.
    noise_multiplier
        sigma, the noise in units of the bound that remains when ``colluders`` other sites know their own share.
    bound
        C, the most one unit can change the sum (L2 norm).
    times
        How often the run may be given an answer.
    sites
        K, the enrolled sites.
    colluders
        t, how many other sites may work together with the coordinator, or drop out after the noise was
        shared out: their noise does not count.
    shared
        Whether the sites share the noise out; else every site adds the whole.
    local
        Whether a part of every answer stays at the site (see `local_std`).

    Guarantee
    ---------
    A run that adds ``noise_std(K')`` for the K' <= K sites of each answer, on sums in which a unit weighs at most
    ``bound`` and takes part with probability ``sampling_rate``, is ``times`` times a Poisson-sampled Gaussian
    mechanism for add/remove of one unit: the noise of the K' - t other sites adds up to sigma * C (Dwork et al.
    2006; Kairouz, Liu, Steinke 2021). With ``local`` an answer is one vector (g, h) in which a unit weighs at most C
    altogether: g gets noise of a in all, h of b. Divided by a and by b the vector has noise of 1, and a unit moves it by
    (|g|^2/a^2 + |h|^2/b^2)^(1/2) <= C / min(a, b): a Gaussian mechanism whose noise is the smaller of the two.
    """

    query: str
    role: Role
    unit: Unit
    sampling_rate: float
    noise_multiplier: float
    bound: float
    times: int
    sites: int
    colluders: int
    shared: bool = True
    local: bool = False

    def __post_init__(self) -> None:
        if self.unit not in get_args(Unit):
            raise StudyError(f"unit '{self.unit}' is neither 'patient' nor 'record'.")
        if self.role not in get_args(Role):
            raise StudyError(f"role '{self.role}' is none of train, held-out, all.")
        if not self.bound > 0:
            raise StudyError(f"{self.query}: a bound of {self.bound:g} is not above 0.")
        if self.noise_multiplier > 0 and not math.isfinite(self.bound):
            raise StudyError("noise without a finite clip promises nothing.")
        if self.times < 0:
            raise StudyError(f"{self.query}: {self.times} times: the number is below 0.")
        if self.local and not self.shared:
            raise StudyError("parts that stay at the site are trained by fedsgd only.")
        if self.sites < 1 or self.colluders < 0:
            raise StudyError(f"{self.sites} sites with {self.colluders} colluders cannot be.")
        if self.colluders >= self.sites:
            raise StudyError(
                f"privacy.colluders (with aggregation.dropouts) is {self.colluders}, but only {self.sites} site(s) take "
                "part: nobody's noise would be left.",
                f"Set them to at most {self.sites - 1} together"
                + (", or enrol more sites." if self.sites > 1 else " for a single site, or enrol more sites."),
            )
        Release(self.sampling_rate, self.noise_multiplier, self.times)  # validates rate and multiplier

    @property
    def private(self) -> bool:
        """Whether anything is promised at all."""
        return self.noise_multiplier > 0 and math.isfinite(self.bound)

    def release(self, times: int | None = None, against: Against | int = "colluders") -> Release:
        """Return what ``times`` answers (all when not given) show to ``against``, as the accounting takes it.

        Who knows the shares of s sites sees the noise of the K - s others, sigma sqrt((K-s)/(K-t)): the public knows none,
        all others together K - 1; a number is any s. Against a part that stays at a site there is sigma at most. Noise
        that is not shared out is whole, whoever looks.
        """
        times = self.times if times is None else times
        if not 0 <= times <= self.times:
            raise StudyError(f"{times} steps are not within the {self.times} of the plan.")
        noise = self.noise_multiplier * self._scale(against) if self.private else 0.0
        return Release(self.sampling_rate, noise, times)

    def _scale(self, against: Against | int) -> float:
        if not isinstance(against, int) and against not in AGAINST:
            raise ValueError(f"against '{against}' is not one of {', '.join(AGAINST)}")
        if not self.shared:
            return 1.0
        known = {"public": 0, "colluders": self.colluders, "others": self.sites - 1}
        shares = min(against, self.sites - 1) if isinstance(against, int) else known[against]
        scale = math.sqrt((self.sites - shares) / (self.sites - self.colluders))
        return min(scale, 1.0) if self.local else scale

    @property
    def local_std(self) -> float:
        """Standard deviation of the noise in what stays at a site of the same answer: sigma C, for nobody else adds any."""
        return self.noise_multiplier * self.bound if self.private else 0.0

    def noise_std(self, sites: int | None = None) -> float:
        """Return the standard deviation of the noise ONE site adds to its bounded sum.

        Parameters
        ----------
        sites
            K', the sites that take part in this attempt; all enrolled ones when not given.

        Returns
        -------
        float
            ``sigma C / sqrt(K' - t)`` where the noise is shared out, else ``sigma C``; 0 without noise.

        Raises
        ------
        PolicyError
            More sites than enrolled, or so few that the colluders' noise would be needed.
        """
        if not self.private:
            return 0.0
        sites = self.sites if sites is None else sites
        left = sites - self.colluders
        if sites > self.sites:
            raise PolicyError(
                f"{sites} sites in a step, but only {self.sites} enrolled. Nothing was released.",
            )
        if left < 1:
            raise PolicyError(
                f"{sites} site(s) in a step are too few against {self.colluders} colluder(s): nobody's noise would "
                "be left. Nothing was released.",
                f"Wait until at least {self.colluders + 1} sites take part.",
            )
        std = self.noise_multiplier * self.bound
        if self.shared:
            std /= math.sqrt(left)
        if std < 2 * self.bound / GRID_STEPS:
            raise PolicyError(
                f"a site's noise of {std:.3g} is below 2 units of the grid ({2 * self.bound / GRID_STEPS:.3g}): "
                "rounding would no longer be harmless. Nothing was released.",
                "Lower privacy.epsilon.",
            )
        return std

    def sum_std(self, sites: int | None = None) -> float:
        """Return the standard deviation of the noise in the sum over ``sites`` sites (all when not given)."""
        sites = self.sites if sites is None else sites
        return self.noise_std(sites) * math.sqrt(sites)
