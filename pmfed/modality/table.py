"""Columns of a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from pmfed.modality.columns import Categorical, Censored, Feature, Name, Numeric
from pmfed.modality.inputs import Input, Learned, indicator_input, number_inputs
from pmfed.modality.spec import Countable, Modality


class Table(Modality):
    """A modality of table columns. ``censored`` says what a cell that holds only a limit (``<10``) counts as."""

    LATER: ClassVar[frozenset[str]] = frozenset({"censored"})

    kind: Literal["table"] = "table"
    table: str
    censored: Censored = "bound"
    features: Annotated[dict[Name, Feature], Field(min_length=1)]

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.table,)

    @property
    def joined(self) -> str:
        return self.table

    @property
    def by_column(self) -> Mapping[str, Numeric | Categorical]:
        return self.features

    @property
    def limits(self) -> Censored:
        return self.censored

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the inputs, in order: features by name, each with the inputs it makes."""
        return tuple(name for key in sorted(self.features) for name in self.features[key].names(key))

    @property
    def numbers(self) -> tuple[tuple[str, Numeric, int], ...]:
        return tuple((one.key, one.number, one.column) for one in self.countable if one.number is not None)

    @property
    def countable(self) -> tuple[Countable, ...]:
        found, column = [], 0
        for key, feature in sorted(self.features.items()):
            if isinstance(feature, Numeric):
                found.append(Countable(key, column, number=feature, scaled=feature.mean is not None))
            else:
                found.append(Countable(key, column, values=(*feature.values, *(("other",) if feature.other else ()))))
            column += len(feature.names(key))
        return tuple(found)

    def inputs(self, learned: Learned) -> Iterator[Input]:
        for key, spec in sorted(self.features.items()):
            if isinstance(spec, Numeric):
                yield from number_inputs(key, spec, learned)
                continue
            for value in (*spec.values, *([None] * spec.other)):
                name = f"{key}={'other' if value is None else value}"
                yield Input(name=name, feature=key, says="category", category=value, stand_in="zero")
            yield from indicator_input(key, spec.indicator)
