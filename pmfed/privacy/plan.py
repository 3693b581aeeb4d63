"""PrivacyPlan: the mechanisms of all queries of one run, and what they come to together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from pmfed.errors import StudyError
from pmfed.privacy import accounting
from pmfed.privacy.accounting import REPORT_GRID, Release
from pmfed.privacy.mechanism import AGAINST, GRID_STEPS, Against, Mechanism, Role, Unit

__all__ = ["AGAINST", "GRID_STEPS", "Against", "Mechanism", "PrivacyPlan", "Role"]

Counts = Mapping[str, int]
"""Query -> how many answers of it are meant; all of those that are not named."""


@dataclass(frozen=True)
class PrivacyPlan:
    """How one run protects its patients: one mechanism for every query of its schedule.

    Parameters
    ----------
    mechanisms
        In the order of the schedule; each query once.
    delta
        Probability mass the promise may miss.

    Guarantee
    ---------
    A run that answers each query as its mechanism says, at most ``times`` times, is (``epsilon()``, ``delta``)-
    differentially private for the patients of a role. The promise covers what stays at a site as if it were published:
    a mechanism of one site's own is composed with the rest, whoever looks. Against others see
    ``epsilon(against=...)``.
    """

    mechanisms: tuple[Mechanism, ...]
    delta: float

    def __post_init__(self) -> None:
        if not 0 < self.delta < 1:
            raise StudyError(f"a delta of {self.delta:g} is not between 0 and 1.")
        names = [one.query for one in self.mechanisms]
        if not names or len(set(names)) < len(names):
            raise StudyError("a plan without queries, or with one of them twice, promises nothing.")

    @classmethod
    def solve(cls, blank: Sequence[Mechanism], scaled: Sequence[str], epsilon: float, delta: float) -> PrivacyPlan:
        """Find the least noise with which a schedule keeps its promise.

        Parameters
        ----------
        blank
            The mechanisms; the noise of the ``scaled`` ones is not looked at.
        scaled
            The queries that share one noise multiplier, found here; the others keep theirs.
        epsilon, delta
            The total for the patients of every role that a scaled query asks about.

        Raises
        ------
        StudyError
            The queries with noise of their own alone spend the epsilon.
        """
        plan = cls(tuple(replace(one, noise_multiplier=1.0) if one.query in scaled else one for one in blank), delta)
        role: Role = next((one.role for one in plan.mechanisms if one.query in scaled), "train")
        alone = plan.epsilon(dict.fromkeys(scaled, 0), role=role)
        if alone >= epsilon:
            raise StudyError(f"what is asked besides alone spends epsilon {alone:.3g} of {epsilon:g}.")
        if not any(one.times for one in plan.mechanisms if one.query in scaled):
            return plan
        noise = accounting.noise_for(lambda value: plan._scaled(scaled, value).releases(role=role), epsilon, delta)
        return plan._scaled(scaled, noise)

    def _scaled(self, names: Sequence[str], noise: float) -> PrivacyPlan:
        return replace(
            self,
            mechanisms=tuple(
                replace(one, noise_multiplier=noise) if one.query in names else one for one in self.mechanisms
            ),
        )

    def __getitem__(self, query: str) -> Mechanism:
        """Return the mechanism of a query; KeyError when the plan has none."""
        for one in self.mechanisms:
            if one.query == query:
                return one
        raise KeyError(query)

    def __contains__(self, query: object) -> bool:
        return any(one.query == query for one in self.mechanisms)

    def of(self, role: Role) -> tuple[Mechanism, ...]:
        """Return the mechanisms that the patients of a role are part of."""
        return tuple(one for one in self.mechanisms if role == "all" or one.role in (role, "all"))

    @property
    def roles(self) -> tuple[Role, ...]:
        """The roles that something is asked about, in the order of the schedule."""
        return tuple(dict.fromkeys(one.role for one in self.mechanisms))

    @property
    def unit(self) -> Unit:
        """What the whole run protects: the weakest of its mechanisms."""
        return "record" if any(one.unit == "record" for one in self.mechanisms) else "patient"

    @property
    def sites(self) -> int:
        """K, the enrolled sites."""
        return max(one.sites for one in self.mechanisms)

    @property
    def colluders(self) -> int:
        """t, how many other sites may work with the coordinator, or drop out."""
        return max(one.colluders for one in self.mechanisms)

    @property
    def main(self) -> Mechanism:
        """The mechanism that is applied most often by all sites together: what people mean by noise, rate and steps."""
        common = [one for one in self.mechanisms if one.role != "held-out" and one.sites == self.sites]
        return max(reversed(common), key=lambda one: one.times)

    @property
    def private(self) -> bool:
        """Whether anything is promised at all to those who are trained on."""
        return all(one.private for one in self.mechanisms if one.role != "held-out")

    def releases(
        self, counts: Counts | None = None, against: Against | int = "colluders", role: Role = "train"
    ) -> tuple[Release, ...]:
        """Return what is released about the patients of a role, as seen by ``against``.

        Parameters
        ----------
        counts
            How many answers were given; of queries it does not name, all.
        against
            Who looks, see `Mechanism.release`.
        role
            Whose patients.
        """
        counts = counts or {}
        found = [one.release(counts.get(one.query), against) for one in self.of(role)]
        return tuple(found)

    def epsilon(
        self, counts: Counts | None = None, against: Against | int = "colluders", grid: float = REPORT_GRID,
        role: Role = "train",
    ) -> float:  # fmt: skip
        """Return epsilon at ``delta`` of `releases`."""
        return accounting.epsilon(self.releases(counts, against, role), self.delta, grid)

    def curve(self, query: str, times: Sequence[int], against: Against | int = "colluders") -> tuple[float, ...]:
        """Return epsilon after each of the ascending ``times`` a query was answered, quickly (grid 1e-3): for displays.

        Of all other queries of its role every answer counts from the beginning.
        """
        asked = self[query]
        if any(not 0 <= count <= asked.times for count in times):
            raise StudyError(f"some steps are not within the {asked.times} of the plan.")
        first = [one.release(against=against) for one in self.of(asked.role) if one.query != query]
        return accounting.curve(first, asked.release(against=against), times, self.delta)

    def without_noise(self, *, clipped: bool = False) -> PrivacyPlan:
        """Return this plan without noise where patients are trained on, nor clip unless ``clipped``; its epsilon is infinite."""
        return replace(
            self,
            mechanisms=tuple(
                one
                if one.role == "held-out"
                else replace(one, noise_multiplier=0.0, bound=one.bound if clipped else math.inf)
                for one in self.mechanisms
            ),
        )

    def with_sites(self, sites: int) -> PrivacyPlan:
        """Return this plan for another number of enrolled sites; what a site does for itself stays its own."""
        return replace(
            self,
            mechanisms=tuple(one if one.sites == 1 else replace(one, sites=sites) for one in self.mechanisms),
        )

    def as_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold; an infinite bound is None."""
        told = [{**asdict(one), "bound": one.bound if math.isfinite(one.bound) else None} for one in self.mechanisms]
        return {"mechanisms": told, "delta": self.delta}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> PrivacyPlan:
        """Read a plan back from ``as_dict``; StudyError when keys are missing, unknown or of the wrong kind."""
        if set(data) != {"mechanisms", "delta"} or not isinstance(data["mechanisms"], list):
            raise StudyError("not a privacy plan: it has 'mechanisms' and 'delta'.")
        _must_be("delta", data["delta"], (int, float))
        return cls(tuple(_mechanism(one) for one in data["mechanisms"]), float(data["delta"]))


_TYPES: dict[str, tuple[type, ...]] = {
    "query": (str,), "role": (str,), "unit": (str,), "sampling_rate": (int, float), "noise_multiplier": (int, float),
    "bound": (int, float), "times": (int,), "sites": (int,), "colluders": (int,), "shared": (bool,), "local": (bool,),
}  # fmt: skip


def _mechanism(data: Any) -> Mechanism:
    names = {field.name for field in fields(Mechanism)}
    if not isinstance(data, Mapping) or set(data) != names:
        wrong = ", ".join(sorted(set(data) ^ names)) if isinstance(data, Mapping) else "everything"
        raise StudyError(f"not a privacy plan: unknown or missing {wrong}.")
    values = {**data, "bound": math.inf if data["bound"] is None else data["bound"]}
    for name, types in _TYPES.items():
        _must_be(name, values[name], types)
        if float in types:
            values[name] = float(values[name])
    return Mechanism(**values)


def _must_be(name: str, value: Any, types: tuple[type, ...]) -> None:
    if type(value) not in types:
        raise StudyError(f"not a privacy plan: '{name}' is not {' or '.join(kind.__name__ for kind in types)}.")
