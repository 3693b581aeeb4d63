"""Genetic variants in columns of a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

from pydantic import Field

from pmfed.modality.columns import Name, Variant
from pmfed.modality.inputs import Input, Learned, allele_inputs, indicator_input
from pmfed.modality.spec import Modality


class Genotypes(Modality):
    """A modality of genetic variants, one row per patient."""

    kind: Literal["genotypes"] = "genotypes"
    table: str
    variants: Annotated[dict[Name, Variant], Field(min_length=1)]

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.table,)

    @property
    def joined(self) -> str:
        return self.table

    @property
    def by_column(self) -> Mapping[str, Variant]:
        return self.variants

    @property
    def one_row(self) -> bool:
        return True

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the inputs, in order: variants by name, each with the inputs it makes."""
        return tuple(name for key in sorted(self.variants) for name in self.variants[key].names(key))

    def inputs(self, learned: Learned) -> Iterator[Input]:
        for key, spec in sorted(self.variants.items()):
            counts = spec.names(key)[: max(1, len(spec.alleles))]
            yield from allele_inputs(key, counts, spec.frequency)
            yield from indicator_input(key, spec.indicator)
