"""Genetic variants."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pmfed.modality.table import Name
from pmfed.validate import Frozen


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


class Genotypes(Frozen):
    """A modality of genetic variants, one row per patient."""

    kind: Literal["genotypes"] = "genotypes"
    table: str
    variants: Annotated[dict[Name, Variant], Field(min_length=1)]

    @property
    def sources(self) -> tuple[str, ...]:
        """The sources a site must have."""
        return (self.table,)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the inputs, in order: variants by name, each with the inputs it makes."""
        return tuple(name for key in sorted(self.variants) for name in self.variants[key].names(key))
