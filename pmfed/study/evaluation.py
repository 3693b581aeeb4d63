"""``[evaluation]``: who is held out, and how their scores leave."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from pmfed.study.robustness import Robustness
from pmfed.validate import Grown


class Evaluation(Grown):
    """``[evaluation]``: who is held out, and how their scores leave the sites.

    ``split_column`` names a column of the cohort table with the values ``train`` and ``test``; without it a
    hash of the patient id keyed by ``split_key`` decides. ``release = "exact"`` publishes exact sums of scores (for
    simulations and for sites whose policy allows it); ``"private"`` adds noise and charges the ledger of the
    held-out patients. ``metric`` is the headline (default: the first of the task); with ``average = "sites"`` it is
    the plain mean of the sites' own figures instead of that of all patients together.
    ``subgroups`` names inputs, ``MODALITY.FEATURE``: figures are told for each value of a category, and for each band of a
    number between the public edges that are given. It is a release of its own, as each part of ``robustness`` is.
    """

    LATER: ClassVar[frozenset[str]] = frozenset({"subgroups", "robustness"})

    metric: str | None = None
    average: Literal["patients", "sites"] = "patients"

    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    split_key: str = "pmfed"
    split_column: str | None = None
    every: PositiveInt = 10
    release: Literal["exact", "private"] = "exact"
    release_noise: PositiveFloat = 4.0
    per_site: bool = False
    subgroups: dict[str, tuple[float, ...]] = Field(default_factory=dict)
    robustness: Robustness | None = None

    @model_validator(mode="after")
    def _fits_release(self) -> Evaluation:
        if self.average == "sites" and not self.per_site:
            raise ValueError("average 'sites' needs 'per_site = true'")
        if self.per_site and self.release == "private":
            raise ValueError("'per_site = true' publishes exact figures of each site; it needs release 'exact'")
        return self
