"""Columns of a table: how a study names and bounds every number, category and genetic variant."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveFloat, field_validator, model_validator

from pmfed.validate import Frozen, Grown

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,47}$")]


Censored = Literal["bound", "missing", "refuse"]
"""What a limit of the laboratory (``<10``) counts as: the limit itself, nothing, or a reason to stop."""


class Numeric(Grown):
    """A number. ``minimum`` and ``maximum`` are the possible values; what lies ``outside`` is an error, or is brought to
    the bound (``"clamp"``), or counts as missing; it is counted either way.

    With ``mean`` and ``scale`` (public constants) the input is ``(value - mean) / scale``. Without them the
    study must ask for federated statistics. A missing value becomes the mean; ``indicator`` adds an input
    that says so.
    """

    LATER: ClassVar[frozenset[str]] = frozenset({"outside"})

    type: Literal["numeric"] = "numeric"
    column: str | None = None
    minimum: float
    maximum: float
    outside: Literal["error", "clamp", "missing"] = "error"
    mean: float | None = None
    scale: PositiveFloat | None = None
    transform: Literal["none", "log1p"] = "none"
    indicator: bool = False

    @model_validator(mode="after")
    def _fits(self) -> Numeric:
        if self.minimum >= self.maximum:
            raise ValueError("'minimum' must be below 'maximum'")
        if (self.mean is None) != (self.scale is None):
            raise ValueError("give both 'mean' and 'scale', or neither")
        if self.transform == "log1p" and self.minimum <= -1:
            raise ValueError("transform 'log1p' needs 'minimum' above -1")
        return self

    def names(self, key: str) -> tuple[str, ...]:
        """Names of the inputs this feature makes."""
        return (key, f"{key} missing") if self.indicator else (key,)


class Categorical(Frozen):
    """A category out of a vocabulary fixed in the study: one input per value.

    A missing value gives zeros everywhere. A value outside the vocabulary is an error, unless
    ``other = true`` adds an input for all of them together.
    """

    type: Literal["categorical"] = "categorical"
    column: str | None = None
    values: Annotated[tuple[str, ...], Field(min_length=1)]
    other: bool = False
    indicator: bool = False

    @field_validator("values")
    @classmethod
    def _once(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(values)) != len(values):
            raise ValueError("a value is listed twice")
        return values

    def names(self, key: str) -> tuple[str, ...]:
        """Names of the inputs this feature makes."""
        extra = [f"{key}=other"] * self.other + [f"{key} missing"] * self.indicator
        return (*(f"{key}={value}" for value in self.values), *extra)


class Variant(Frozen):
    """A genetic variant: dosages 0, 1, 2, or a call such as ``A/G`` or ``*1/*3`` with counted alleles.

    Without ``alleles`` the column holds dosages. With them, one input per listed allele counts how often the
    call holds it. ``frequency`` is the public frequency of the dosage allele or of each listed one; twice
    it is the centre and the value of a missing call; ``indicator`` adds an input that says the call is missing.
    """

    column: str | None = None
    alleles: tuple[str, ...] = ()
    known: tuple[str, ...] = ()
    frequency: tuple[Annotated[float, Field(ge=0, le=1)], ...] = (0.25,)
    indicator: bool = False

    @model_validator(mode="after")
    def _fits(self) -> Variant:
        if len(self.frequency) != max(1, len(self.alleles)):
            raise ValueError("'frequency' needs one value per allele in 'alleles'")
        if self.known and not set(self.alleles) <= set(self.known):
            raise ValueError("'known' must hold every allele of 'alleles'")
        return self

    def names(self, key: str) -> tuple[str, ...]:
        """Names of the inputs this variant makes."""
        counts = tuple(f"{key} {allele}" for allele in self.alleles) or (key,)
        return (*counts, f"{key} missing") if self.indicator else counts


Feature = Annotated[Numeric | Categorical, Field(discriminator="type")]
