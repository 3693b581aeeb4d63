"""Columns of a table: numbers and categories, or genetic variants."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from pmfed.modality.columns import Censored, Countable, Feature, Name, Numeric, Variant, inputs_of, names_of
from pmfed.modality.inputs import Input, Learned
from pmfed.modality.spec import Column, Modality


class TableColumns(Modality):
    """Inputs that are columns of one table, by the name of the feature, each with the inputs it makes."""

    table: str

    @property
    @abstractmethod
    def by_column(self) -> Mapping[str, Column]: ...

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.table,)

    @property
    def joined(self) -> str:
        return self.table

    @property
    def names(self) -> tuple[str, ...]:
        return names_of(self.by_column)

    def inputs(self, learned: Learned) -> Iterator[Input]:
        return inputs_of(self.by_column, learned)


class Table(TableColumns):
    """A modality of table columns. ``censored`` says what a cell that holds only a limit (``<10``) counts as."""

    LATER: ClassVar[frozenset[str]] = frozenset({"censored"})

    kind: Literal["table"] = "table"
    censored: Censored = "bound"
    features: Annotated[dict[Name, Feature], Field(min_length=1)]

    @property
    def by_column(self) -> Mapping[str, Feature]:
        return self.features

    @property
    def limits(self) -> Censored:
        return self.censored

    @property
    def numbers(self) -> tuple[tuple[str, Numeric, int], ...]:
        return tuple((one.key, one.number, one.column) for one in self.countable if one.number is not None)

    @property
    def countable(self) -> tuple[Countable, ...]:
        found, column = [], 0
        for key, feature in sorted(self.features.items()):
            found.append(feature.countable(key, column))
            column += len(feature.names(key))
        return tuple(found)


class Genotypes(TableColumns):
    """A modality of genetic variants, one row per patient."""

    kind: Literal["genotypes"] = "genotypes"
    variants: Annotated[dict[Name, Variant], Field(min_length=1)]

    @property
    def by_column(self) -> Mapping[str, Variant]:
        return self.variants

    @property
    def one_row(self) -> bool:
        return True
