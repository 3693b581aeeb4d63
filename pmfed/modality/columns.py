"""Columns of a table: how a study names and bounds every number, category and genetic variant."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Protocol

from pydantic import Field, PositiveFloat, field_validator, model_validator

from pmfed.modality.inputs import Input, Learned, allele_inputs, indicator_input
from pmfed.validate import Frozen, Grown

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,47}$")]


Censored = Literal["bound", "missing", "refuse"]
"""What a limit of the laboratory (``<10``) counts as: the limit itself, nothing, or a reason to stop."""


@dataclass(frozen=True)
class Countable:
    """A feature that a table of patients can be made of: a number between public bounds, or a category.

    Attributes
    ----------
    key, unit
        The study's name for it; of its number, "" where there is none.
    column
        Its first input.
    number
        Its bounds; None where it is a category.
    values
        The categories, one input each.
    scaled
        Whether the study gives mean and scale of its own, so that its inputs do not show where the bounds are.
    """

    key: str
    column: int
    unit: str = ""
    number: Numeric | None = None
    values: tuple[str, ...] = ()
    scaled: bool = False


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

    def countable(self, key: str, column: int) -> Countable:
        """Return how patients are counted by it, its inputs beginning at ``column``."""
        return Countable(key, column, number=self, scaled=self.mean is not None)

    def inputs(
        self, key: str, learned: Learned, unit: str | None = None, stand_in: Literal["mean", "never"] = "mean"
    ) -> Iterator[Input]:
        """Yield those inputs: the value, and whether it is missing where the study asks for that."""
        mean, scale = learned.get(key, (self.mean, self.scale))
        yield Input(
            name=key, feature=key, says="value", unit=unit, minimum=self.minimum, maximum=self.maximum,
            transform=self.transform, mean=mean, scale=scale, learned=key in learned, stand_in=stand_in,
        )  # fmt: skip
        yield from indicator_input(key, self.indicator)


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

    def countable(self, key: str, column: int) -> Countable:
        """Return how patients are counted by it, its inputs beginning at ``column``."""
        return Countable(key, column, values=(*self.values, *(("other",) if self.other else ())))

    def inputs(self, key: str, learned: Learned) -> Iterator[Input]:
        """Yield those inputs: whether it is each of the values, or another one."""
        for value in (*self.values, *([None] * self.other)):
            name = f"{key}={'other' if value is None else value}"
            yield Input(name=name, feature=key, says="category", category=value, stand_in="zero")
        yield from indicator_input(key, self.indicator)


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

    def inputs(self, key: str, learned: Learned) -> Iterator[Input]:
        """Yield those inputs: how often each allele is there."""
        yield from allele_inputs(key, self.names(key)[: max(1, len(self.alleles))], self.frequency)
        yield from indicator_input(key, self.indicator)


Feature = Annotated[Numeric | Categorical, Field(discriminator="type")]


class MakesInputs(Protocol):
    """What a study says of one feature, which makes one input or several."""

    def names(self, key: str) -> tuple[str, ...]:
        """Return their names, in order."""

    def inputs(self, key: str, learned: Learned) -> Iterator[Input]:
        """Yield what they are, in order."""


def names_of(features: Mapping[str, MakesInputs]) -> tuple[str, ...]:
    """Return the names of the inputs of some features, by the name of the feature."""
    return tuple(name for key, feature in sorted(features.items()) for name in feature.names(key))


def inputs_of(features: Mapping[str, MakesInputs], learned: Learned) -> Iterator[Input]:
    """Yield the inputs of some features, by the name of the feature."""
    for key, feature in sorted(features.items()):
        yield from feature.inputs(key, learned)
