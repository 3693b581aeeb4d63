"""``[aggregation]``: how sums over sites come about."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pmfed.validate import Frozen


class Aggregation(Frozen):
    """``[aggregation]``: how sums over sites come about without anyone seeing a single site's vector.

    With ``dropouts = 0`` masks between pairs of sites cancel in the sum: one leg a round, and a round in which a site
    fails is repeated without it. Above 0, a round survives so many sites failing in it, for two more legs and
    noise enough for those that remain (Bonawitz et al. 2017).
    """

    dropouts: Annotated[int, Field(ge=0)] = 0
