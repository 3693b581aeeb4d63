"""PrivacyPlan: the one object that both the noise and the accounting read, so that they cannot drift."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

from pmfed.errors import PolicyError, StudyError
from pmfed.privacy import accounting
from pmfed.privacy.accounting import REPORT_GRID, Release
from pmfed.study import Study

Against = Literal["public", "colluders", "others"]
"""Who looks: the coordinator with ``colluders`` sites, the public with the model only, all other sites."""

AGAINST: tuple[Against, ...] = get_args(Against)

GRID_STEPS = 4096
"""One clip is this many units of the fixed-point grid."""


@dataclass(frozen=True)
class PrivacyPlan:
    """How one run protects its patients: what is clipped, how much noise is added, how often.

    Parameters
    ----------
    unit
        What is protected: all records of a patient together, or (weaker) each record.
    algorithm
        ``"fedsgd"``: each step is one sum over sites, which share the noise out. ``"fedavg"``: every local step
        of every site has the whole noise.
    sampling_rate
        Probability with which each patient takes part in a step.
    noise_multiplier
        sigma, the noise in units of the clip that remains when ``colluders`` other sites know their own share.
    clip
        C, the most one patient can change the sum of gradients (L2 norm).
    steps
        Noisy steps over the run.
    sites
        K, the enrolled sites.
    colluders
        t, how many other sites may work together with the coordinator, or drop out after the noise was
        shared out: their noise does not count.
    delta
        Probability mass the promise may miss.
    statistics_noise
        Noise multiplier against ``colluders`` of the release of means and scales; None when there is none.
    local
        Whether some parameters stay at the site and are trained by the same steps (see `local_std`).
    personal_noise
        Noise multiplier of each step a site takes for a model of its own; None when it takes none.
    personal_steps
        How many such steps each site takes over the run.

    Guarantee
    ---------
    A run that adds ``noise_std(K')`` for the K' <= K sites of each step, on sums in which a patient weighs at
    most ``clip`` and takes part with probability ``sampling_rate``, is (``epsilon()``, ``delta``)-differentially
    private for add/remove of one patient: the noise of the K' - t other sites adds up to sigma * C
    (Dwork et al. 2006; Kairouz, Liu, Steinke 2021). Against others see ``epsilon(against=...)``.

    The promise covers what stays at a site as if it were published. A personal step is a Poisson-sampled Gaussian
    mechanism on this site's patients alone, with the whole noise (see `alone`), whoever looks; it is composed with
    the rest, in full from the beginning. A step with ``local`` parts releases one vector (g, h) in which a
    patient weighs at most C altogether: g gets noise of a in all, h of b, each coordinate for itself. Divided by a and by b,
    the vector has noise of 1, and a patient moves it by (|g|^2/a^2 + |h|^2/b^2)^(1/2) <= C / min(a, b): it is a
    Gaussian mechanism whose noise is the smaller of the two.
    """

    unit: Literal["patient", "record"]
    algorithm: Literal["fedsgd", "fedavg"]
    sampling_rate: float
    noise_multiplier: float
    clip: float
    steps: int
    sites: int
    colluders: int
    delta: float
    statistics_noise: float | None = None
    local: bool = False
    personal_noise: float | None = None
    personal_steps: int = 0

    def __post_init__(self) -> None:
        if self.unit not in ("patient", "record"):
            raise StudyError(f"unit '{self.unit}' is neither 'patient' nor 'record'.")
        if self.algorithm not in ("fedsgd", "fedavg"):
            raise StudyError(f"algorithm '{self.algorithm}' is neither 'fedsgd' nor 'fedavg'.")
        if not self.clip > 0:
            raise StudyError(f"a clip of {self.clip:g} is not above 0.")
        if self.noise_multiplier > 0 and not math.isfinite(self.clip):
            raise StudyError("noise without a finite clip promises nothing.")
        if min(self.steps, self.personal_steps) < 0:
            raise StudyError(f"{min(self.steps, self.personal_steps)} steps: the number is below 0.")
        if self.local and self.algorithm == "fedavg":
            raise StudyError("parts that stay at the site are trained by fedsgd only.")
        if (self.personal_noise is None) != (self.personal_steps == 0):
            raise StudyError("personal steps need a noise multiplier, and it needs steps.")
        if not 0 < self.delta < 1:
            raise StudyError(f"a delta of {self.delta:g} is not between 0 and 1.")
        if self.sites < 1 or self.colluders < 0:
            raise StudyError(f"{self.sites} sites with {self.colluders} colluders cannot be.")
        if self.colluders >= self.sites:
            raise StudyError(
                f"privacy.colluders (with aggregation.dropouts) is {self.colluders}, but only {self.sites} site(s) take "
                "part: nobody's noise would be left.",
                f"Set them to at most {self.sites - 1} together"
                + (", or enrol more sites." if self.sites > 1 else " for a single site, or enrol more sites."),
            )
        self.releases()  # validates rates and multipliers

    @classmethod
    def solve(cls, study: Study, sites: int, *, rounds: int | None = None) -> PrivacyPlan:
        """Find the least noise that keeps a study's promise.

        Parameters
        ----------
        study
            The study; its epsilon is the total of the run, the release of statistics included.
        sites
            Sites that enrol.
        rounds
            Rounds to run, if not those of the study.

        Raises
        ------
        StudyError
            There are not more sites than colluders, or the statistics alone spend the epsilon.
        """
        privacy = study.privacy
        rounds = study.training.rounds if rounds is None else rounds
        blank = cls(
            unit=privacy.unit,
            algorithm=study.training.algorithm,
            sampling_rate=privacy.sampling_rate,
            noise_multiplier=1.0,
            clip=privacy.clip,
            steps=rounds * study.training.local_steps,
            sites=sites,
            colluders=privacy.colluders + study.aggregation.dropouts,
            delta=privacy.delta,
            statistics_noise=privacy.statistics_noise if study.needs_statistics else None,
            local=study.parts is not None,
            **_personal(study),
        )
        alone = blank.epsilon(0)
        if alone >= privacy.epsilon:
            if blank.personal_noise is not None:
                raise StudyError(
                    f"personal.share: all but the common model's steps spend epsilon {alone:.3g} of {privacy.epsilon:g}.",
                    "Lower personal.share, or raise privacy.statistics_noise.",
                )
            raise StudyError(
                f"privacy.statistics_noise: means and scales alone spend epsilon {alone:.3g} of {privacy.epsilon:g}.",
                "Raise privacy.statistics_noise, or give every numeric feature a public 'mean' and 'scale'.",
            )
        if blank.steps == 0:
            return blank
        noise = accounting.noise_for(
            lambda multiplier: replace(blank, noise_multiplier=multiplier).releases(),
            privacy.epsilon,
            privacy.delta,
        )
        return replace(blank, noise_multiplier=noise)

    @property
    def private(self) -> bool:
        """Whether anything is promised at all."""
        return self.noise_multiplier > 0 and math.isfinite(self.clip)

    @property
    def grid_unit(self) -> float:
        """Unit of the fixed-point grid gradients are rounded to: C/4096 (1/4096 when nothing is clipped)."""
        return (self.clip if math.isfinite(self.clip) else 1.0) / GRID_STEPS

    def noise_std(self, sites: int | None = None) -> float:
        """Return the standard deviation of the noise ONE site adds to its sum of clipped gradients.

        Parameters
        ----------
        sites
            K', the sites that take part in this attempt; all enrolled ones when not given.

        Returns
        -------
        float
            ``sigma C / sqrt(K' - t)`` for fedsgd, ``sigma C`` for fedavg, 0 for a plan without noise.

        Raises
        ------
        PolicyError
            More sites than enrolled, or so few that the colluders' noise would be needed.
        """
        return self.share(self.noise_multiplier, self.clip, sites) if self.private else 0.0

    @property
    def local_std(self) -> float:
        """Standard deviation of the noise in what stays at a site of the same step: sigma C, for nobody else adds any."""
        return self.noise_multiplier * self.clip if self.private else 0.0

    def alone(self) -> PrivacyPlan:
        """Return the plan of the steps a site takes for a model of its own: nobody else's noise counts there."""
        if self.personal_noise is None:
            raise StudyError("this plan holds no personal steps.")
        return replace(
            self, algorithm="fedsgd", noise_multiplier=self.personal_noise if self.private else 0.0,
            steps=self.personal_steps, sites=1, colluders=0, statistics_noise=None, personal_noise=None, personal_steps=0,
        )  # fmt: skip

    def statistics_std(self, sites: int | None = None) -> float:
        """Return the standard deviation of the noise one site adds to its sum of statistics rows (norm <= 1).

        Shared out as in ``noise_std``. Raises StudyError when the study releases no statistics.
        """
        if self.statistics_noise is None:
            raise StudyError("this plan holds no release of statistics.")
        return self.share(self.statistics_noise, 1.0, sites) if self.private else 0.0

    def releases(self, steps: int | None = None, against: Against = "colluders") -> tuple[Release, ...]:
        """Return what is released after ``steps`` steps (all when not given), as seen by ``against``.

        Against the public the noise of all K sites counts, sigma sqrt(K/(K-t)), unless parts that stay at a site
        have sigma only; against all others only a site's own share, sigma/sqrt(K-t). With fedavg every site's noise
        is whole, whoever looks. Personal steps count in full from the beginning.
        """
        steps = self.steps if steps is None else steps
        if not 0 <= steps <= self.steps:
            raise StudyError(f"{steps} steps are not within the {self.steps} of the plan.")
        scale = self._scale(against)
        found = [Release(self.sampling_rate, self.noise_multiplier * scale, steps)]
        if self.personal_noise is not None:
            found.insert(0, Release(self.sampling_rate, self.personal_noise * self.private, self.personal_steps))
        if self.statistics_noise is not None:
            noise = self.statistics_noise if self.private else 0.0
            found.insert(0, Release(1.0, noise * scale, 1))
        return tuple(found)

    def epsilon(self, steps: int | None = None, against: Against = "colluders", grid: float = REPORT_GRID) -> float:
        """Return epsilon at ``delta`` after ``steps`` steps (all when not given), as seen by ``against``."""
        return accounting.epsilon(self.releases(steps, against), self.delta, grid)

    def curve(self, steps: Sequence[int], against: Against = "colluders") -> tuple[float, ...]:
        """Return epsilon after each of the ascending ``steps``, quickly (grid 1e-3): for displays and plots."""
        *first, step = self.releases(None, against)
        if any(not 0 <= count <= self.steps for count in steps):
            raise StudyError(f"some steps are not within the {self.steps} of the plan.")
        return accounting.curve(first, step, steps, self.delta)

    def without_noise(self) -> PrivacyPlan:
        """Return this plan with neither noise nor clip, for comparisons; its epsilon is infinite."""
        return replace(self, noise_multiplier=0.0, clip=math.inf)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold; an infinite clip is None."""
        return {**asdict(self), "clip": self.clip if math.isfinite(self.clip) else None}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> PrivacyPlan:
        """Read a plan back from ``as_dict``; StudyError when keys are missing, unknown or of the wrong kind."""
        names = {field.name for field in fields(cls)}
        if set(data) != names:
            wrong = ", ".join(sorted(set(data) ^ names))
            raise StudyError(f"not a privacy plan: unknown or missing {wrong}.")
        values = {**data, "clip": math.inf if data["clip"] is None else data["clip"]}
        for name in ("steps", "sites", "colluders", "personal_steps"):
            if type(values[name]) is not int:
                raise StudyError(f"not a privacy plan: '{name}' is not a whole number.")
        if type(values["local"]) is not bool:
            raise StudyError("not a privacy plan: 'local' is neither true nor false.")
        for name in ("sampling_rate", "noise_multiplier", "clip", "delta", "statistics_noise", "personal_noise"):
            if values[name] is not None:
                if type(values[name]) not in (int, float):
                    raise StudyError(f"not a privacy plan: '{name}' is not a number.")
                values[name] = float(values[name])
        if any(values[name] is None for name in names - {"statistics_noise", "personal_noise"}):
            raise StudyError("not a privacy plan: a value is missing.")
        return cls(**values)

    def _scale(self, against: Against) -> float:
        if self.algorithm == "fedavg":
            return 1.0
        left = self.sites - self.colluders
        match against:
            case "colluders":
                return 1.0
            case "public":
                return 1.0 if self.local else math.sqrt(self.sites / left)
            case "others":
                return 1 / math.sqrt(left)
        raise ValueError(f"against '{against}' is not one of colluders, public, others")

    def share(self, multiplier: float, sensitivity: float, sites: int | None = None) -> float:
        """Return one site's share of noise, as a standard deviation, for sums of the given L2 sensitivity.

        Raises PolicyError as `noise_std` does.
        """
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
        std = multiplier * sensitivity
        if self.algorithm == "fedsgd":
            std /= math.sqrt(left)
        if std < 2 * sensitivity / GRID_STEPS:
            raise PolicyError(
                f"a site's noise of {std:.3g} is below 2 units of the grid ({2 * sensitivity / GRID_STEPS:.3g}): "
                "rounding would no longer be harmless. Nothing was released.",
                "Lower privacy.epsilon.",
            )
        return std


def _personal(study: Study) -> dict[str, Any]:
    """Return noise and number of the steps a site takes for a model of its own: the least noise within their share."""
    if study.tuned is None:
        return {}
    rate, steps = study.privacy.sampling_rate, study.tuned.over(study.training.rounds)
    noise = accounting.noise_for(
        lambda multiplier: (Release(rate, multiplier, steps),),
        study.tuned.share * study.privacy.epsilon,
        study.privacy.delta,
    )
    return {"personal_noise": noise, "personal_steps": steps}
