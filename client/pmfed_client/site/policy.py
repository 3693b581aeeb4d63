"""What a hospital allows. Every limit is checked in its own process, before anything is computed."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt, model_validator

from pmfed import plugins
from pmfed.errors import BudgetError, ClosedError, PolicyError
from pmfed.methods import schedule
from pmfed.modality import KINDS, known_kinds
from pmfed.plugins import ADMITTED
from pmfed.privacy.accounting import epsilon
from pmfed.privacy.plan import PrivacyPlan
from pmfed.study import Study
from pmfed.validate import Frozen
from pmfed_client.site.hours import span, within, zone


def _kind(name: str) -> str:
    if name not in known_kinds() and plugins.find("readers", name) is None:
        raise ValueError(f"'{name}' is no kind of modality; there are {', '.join(known_kinds())}")
    return name


def _hours(spelled: str) -> str:
    span(spelled)
    return spelled


def _zone(name: str) -> str:
    zone(name)
    return name


class Policy(Frozen):
    """``[policy]`` of site.toml.

    Parameters
    ----------
    min_patients
        Fewest training patients with which this site takes part.
    epsilon, delta
        Total budget of every patient, over all runs and studies, for ever; the ledger enforces it.
    study_epsilon
        Most that all runs of any one study together may cost a patient, at the same delta; the ledger enforces it. None: no
        limit beside the total.
    idle_days
        Days after which a run that asked for nothing is over at this site, and what it reserved is free again.
    modalities
        Kinds of modalities that studies may use. None: all that ``[data]`` has sources for.
    hours, time_zone
        Times of the day, like ``20:00-06:00``, in which this site computes, and the zone they are told in. None: always.
    exact_metrics
        Whether sums of scores of held-out patients may leave without noise (simulations).
    per_site_metrics
        Whether figures of this site alone may be published.
    record_unit
        Whether a study may protect single records only, a weaker promise than the patient's.
    plugins
        The installed packages whose plug-ins studies may use, each by distribution, version and SHA-256 of its RECORD
        (`pmfed.plugins`). Empty: none.

    Guarantee
    ---------
    Fails closed: a site without ``[policy]`` (``Policy.closed()``) admits nothing, and what is not allowed here
    in so many words is refused.
    """

    min_patients: PositiveInt = 20
    epsilon: PositiveFloat
    delta: Annotated[float, Field(gt=0, lt=1)]
    study_epsilon: PositiveFloat | None = None
    idle_days: PositiveFloat = 3.0
    modalities: tuple[Annotated[str, AfterValidator(_kind)], ...] | None = None
    hours: Annotated[str, AfterValidator(_hours)] | None = None
    time_zone: Annotated[str, AfterValidator(_zone)] | None = None
    exact_metrics: bool = False
    per_site_metrics: bool = False
    record_unit: bool = False
    plugins: tuple[Annotated[str, Field(pattern=ADMITTED)], ...] = ()

    @model_validator(mode="after")
    def _stated(self) -> Policy:
        if (self.hours is None) != (self.time_zone is None):
            raise ValueError("hours and time_zone go together: say which clock the hours are read from")
        return self

    @classmethod
    def closed(cls) -> Policy:
        """Return the policy of a site that has stated none: no budget, nothing admitted."""
        return cls.model_construct(epsilon=0.0, delta=0.0)

    @property
    def budget(self) -> tuple[float, float]:
        """(epsilon, delta), as the ledger takes it."""
        return self.epsilon, self.delta

    def open_at(self, moment: datetime) -> None:
        """Return when this site computes at a moment (with its time zone); ClosedError outside ``hours``."""
        if self.hours is not None and not within(self.hours, self.time_zone or "", moment):
            raise ClosedError(
                f"this hospital computes from {self.hours.replace('-', ' to ')} ({self.time_zone}) only. "
                "Nothing was released.",
                "Run the study in these hours, or change [policy] hours of the site.",
            )

    def admit(self, study: Study, plan: PrivacyPlan, cohort_patients: int, held_out: int) -> None:
        """Return when this site may take part in a run, as far as the past does not matter; else raise.

        Parameters
        ----------
        study, plan
            What is asked, and the mechanism it will be run with.
        cohort_patients, held_out
            Training and held-out patients of this site.

        Raises
        ------
        PolicyError
            A limit of this policy forbids the study; the message holds the numbers.
        BudgetError
            The plan alone is beyond the budget of a site that has spent nothing.

        Guarantee
        ---------
        What was spent before is the ledger's business: ``Ledger.reserve`` must admit the run as well.
        """
        if self.epsilon <= 0 or not 0 < self.delta < 1:
            self._refuse("this site has stated no policy", "Write [policy] epsilon and delta into its site.toml.")
        self.admit_plugins(study)
        if cohort_patients < self.min_patients:
            self._refuse(
                f"{cohort_patients} training patients are fewer than the {self.min_patients} of [policy] min_patients",
                "The fewer patients, the more each one shows; this site cannot take part in this study.",
            )
        if not plan.private:
            self._refuse("the study's plan adds no noise: it protects nobody", "Only simulations train without noise.")
        own = {one.kind for one in study.plug_ins if one.group == "readers"}  # each admitted by its package
        unwanted = {one.kind for one in study.modalities.values()} - set(
            {*KINDS, *own} if self.modalities is None else self.modalities
        )
        if unwanted:
            self._refuse(
                f"the study uses {', '.join(sorted(unwanted))}, which [policy] modalities does not name",
                "Leave these modalities out of the study, or name them in [policy] modalities.",
            )
        if plan.unit == "record" and not self.record_unit:
            self._refuse(
                "the study protects single records, this site protects patients",
                "Set privacy.unit = 'patient' in the study, or record_unit = true in [policy].",
            )
        exact = [query for query in schedule(study) if query.exact]
        largest = max(cohort_patients, 0 if exact else held_out)
        for owner, delta in (("the study's", max(study.privacy.delta, plan.delta)), ("[policy]'s own", self.delta)):
            if delta * largest >= 1:
                self._refuse(
                    f"{owner} delta of {delta:g} is not below 1/{largest}, one over the patients of this site: the "
                    "promise would allow publishing a whole patient",
                    f"Use {largest**-1.1:.1g} or less.",
                )
        if exact and held_out and not self.exact_metrics:
            self._refuse(
                f"the study publishes exact sums of scores of {held_out} held-out patients",
                "Set evaluation.release = 'private' in the study, or exact_metrics = true in [policy].",
            )
        if any(query.by_site for query in schedule(study)) and not self.per_site_metrics:
            self._refuse(
                "the study publishes figures of this site alone",
                "Set evaluation.per_site = false in the study, or per_site_metrics = true in [policy].",
            )
        asked = epsilon(plan.releases(), self.delta)
        for allowed, key, what in (
            (self.epsilon, "epsilon", "in total"),
            (self.study_epsilon, "study_epsilon", "for one study"),
        ):
            if allowed is not None and asked > allowed:
                raise BudgetError(
                    f"the study asks for epsilon {asked:.4f} at delta {self.delta:g}, and this site allows "
                    f"{allowed:.4f} {what}. Nothing was released.",
                    f"Lower privacy.epsilon of the study, or raise [policy] {key} in the hospital's site.toml.",
                )

    def admit_plugins(self, study: Study) -> None:
        """Return when every plug-in that a study was read with is one that this site lists; else raise PolicyError."""
        for plugin in study.plug_ins:
            plugins.check_admitted(plugin, self.plugins)

    def _refuse(self, problem: str, remedy: str) -> None:
        raise PolicyError(f"{problem}. Nothing was released.", remedy)
