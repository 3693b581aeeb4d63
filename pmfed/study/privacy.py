"""``[privacy]``: the promise."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat

from pmfed.validate import Fraction, Frozen


class Privacy(Frozen):
    """``[privacy]``: the promise. ``epsilon`` is the total of the run against ``colluders`` other sites.

    ``statistics_noise`` is the noise multiplier of the one release of federated means and scales that a study
    with unscaled numeric features makes; it is part of the total.
    """

    unit: Literal["patient", "record"] = "patient"
    epsilon: PositiveFloat
    delta: Annotated[float, Field(gt=0, lt=1)]
    clip: PositiveFloat = 1.0
    sampling_rate: Fraction = 0.2
    colluders: Annotated[int, Field(ge=0)] = 1
    statistics_noise: PositiveFloat = 8.0
