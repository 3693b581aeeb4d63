"""One number that a model is given, as ``model.json`` tells it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, model_validator

from pmfed.validate import Frozen

Learned = Mapping[str, tuple[float, float]]
"""Feature -> mean and scale that the sites released, in the feature's units, after its transform."""


class Input(Frozen):
    """One number that the model is given.

    ``feature`` is the study's key for what it comes from. ``says`` is what the number is: a ``value``, whether a value
    is one ``category`` (``category``, or any other one where that is absent), how often an ``allele`` is there,
    ``copies`` of a region, a ``word``, whether the feature is ``missing``, whether it was ``observed`` in this step,
    the ``gap`` since it last was, or the ``time`` of the step.

    Of a value ``minimum`` and ``maximum`` are the public bounds in ``unit``; absent, there are none, and the study
    states no unit. The input is ``(transform(value) - mean) / scale``; absent ``mean`` and ``scale`` mean 0 and 1.
    ``learned`` says that both come from the sites, not from the study. ``stand_in`` is what a missing value is taken
    to be: the ``mean`` (the input is 0), ``zero``, or ``never`` missing.
    """

    name: Annotated[str, Field(min_length=1)]
    feature: str
    says: Literal["value", "category", "allele", "copies", "word", "missing", "observed", "gap", "time"]
    category: str | None = None
    unit: str | None = None
    minimum: float | None = None
    maximum: float | None = None
    transform: Literal["none", "log1p"] = "none"
    mean: float | None = None
    scale: PositiveFloat | None = None
    learned: bool = False
    stand_in: Literal["mean", "zero", "never"] = "never"

    @model_validator(mode="after")
    def _fits(self) -> Input:
        if (self.mean is None) != (self.scale is None):
            raise ValueError("'mean' and 'scale' come together")
        return self


def indicator_input(key: str, there: bool) -> Iterator[Input]:
    """Yield the input that says whether a feature is missing, where it is ``there``."""
    if there:
        yield Input(name=f"{key} missing", feature=key, says="missing")


def allele_inputs(key: str, names: Iterable[str], frequencies: Iterable[float]) -> Iterator[Input]:
    """Yield the inputs of counted alleles with their public frequencies."""
    for name, frequency in zip(names, frequencies, strict=True):
        spread = math.sqrt(2 * frequency * (1 - frequency)) or 1.0  # as the readers do: nothing to scale by
        yield Input(
            name=name, feature=key, says="allele", minimum=0, maximum=2, mean=2 * frequency, scale=spread,
            stand_in="mean",
        )  # fmt: skip
