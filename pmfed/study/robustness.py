"""``[evaluation.robustness]``: how the finished model fares on inputs that are worse than those it was trained on."""

from __future__ import annotations

from pydantic import Field, PositiveFloat, model_validator

from pmfed.validate import Frozen


class Robustness(Frozen):
    """``[evaluation.robustness]``: held-out patients scored again, their inputs altered at the site.

    ``noise`` adds Gaussian noise of so many standard deviations to every number and picture; each modality in ``withheld``
    is taken for missing, one at a time. Each is a release of its own, in the schedule and charged like the scores.
    """

    noise: PositiveFloat | None = None
    withheld: tuple[str, ...] = Field(default=())

    @model_validator(mode="after")
    def _alters_something(self) -> Robustness:
        if self.noise is None and not self.withheld:
            raise ValueError("name 'noise' or 'withheld'; else leave the section out")
        if len(set(self.withheld)) != len(self.withheld):
            raise ValueError("'withheld' names a modality twice")
        return self
