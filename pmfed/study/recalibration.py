"""``[recalibration]``: the last thing learned, how the model's probabilities are to be stretched and shifted."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pmfed.study.outcome import Outcome
from pmfed.validate import Frozen


class RecalibrationSpec(Frozen):
    """``[recalibration]``: slope and intercept of the finished model's outputs, from one noised sum over training patients.

    ``share`` is the share of the study's epsilon that this sum has by itself. ``part`` is the share of the training
    patients that is set aside for it where the model is a network, which may know the patients it learned from by heart: a
    hash of their ids decides. A linear model is recalibrated on all its training patients.
    """

    share: Annotated[float, Field(gt=0, lt=1)] = 0.2
    part: Annotated[float, Field(gt=0, lt=1)] = 0.15

    def misfit(self, outcome: Outcome, personal: bool) -> str:
        """Return why a study with this outcome, or with models of the sites' own, cannot have it; empty when it can."""
        if not outcome.recalibrated:
            return f"a {outcome.task} outcome is predicted without probabilities that could be recalibrated; leave this section out"
        if personal:
            return "a site's own model is not the one it would be fitted to; leave out this section, or [personal]"
        return ""
