"""What every kind of modality answers for itself, so that nothing else asks which kind it is.

A kind is a class below `Modality`: its fields are what a study may say of it. It must name its sources and its inputs; all
other answers have a default that fits a row of numbers without public scales.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from pmfed.modality.columns import Categorical, Censored, Countable, Numeric, Variant
from pmfed.modality.inputs import Input, Learned
from pmfed.modality.weights import Weights
from pmfed.validate import Grown

Bools = NDArray[np.bool_]
Column = Numeric | Categorical | Variant
"""What a study says of a column of a table."""

ONE_OF_PICTURES = "modalities: a segmentation has exactly one, of kind 'images', 'nifti' or 'dicom'"


class Modality(Grown):
    """A modality: what a model may see of a patient, and what a study says of it."""

    kind: str

    @property
    @abstractmethod
    def sources(self) -> tuple[str, ...]:
        """The sources a site must have."""

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Names of the inputs, in order, along the last axis; none of pictures."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one record's input: (F,), (T, F), (C, H, W) or (C, D, H, W)."""
        return (len(self.names),)

    @property
    def numbers(self) -> tuple[tuple[str, Numeric, int], ...]:
        """Name, description and column of every number, where inputs lie in one row."""
        return ()

    @property
    def encoder(self) -> Literal["mlp", "gru", "cnn"]:
        """The encoder it has where the study names none: by the shape of its inputs."""
        return "mlp" if len(self.shape) == 1 else "gru" if len(self.shape) == 2 else "cnn"

    @property
    def joined(self) -> str | None:
        """The table whose rows are its records, joined to the cohort's; None where it is read patient by patient."""
        return None

    @property
    def by_column(self) -> Mapping[str, Column]:
        """What the study says of each column of `joined` that is an input by itself."""
        return {}

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of `joined` that are read."""
        return tuple(spec.column or key for key, spec in sorted(self.by_column.items()))

    @property
    def limits(self) -> Censored:
        """What a cell that holds only a limit (``<10``) counts as."""
        return "refuse"

    @property
    def one_row(self) -> bool:
        """Whether a patient may have one row of `joined` only."""
        return False

    @property
    def network(self) -> Weights | None:
        """The public, frozen network in front of it: what that makes of a picture is the input."""
        return None

    @property
    def recentred(self) -> bool:
        """Whether the mean of its inputs over all patients is learned and taken away before training."""
        return False

    @property
    def scaling(self) -> tuple[float, float] | tuple[None, None]:
        """Mean and scale of pictures between 0 and 1; of other modalities every input has its own."""
        return None, None

    @property
    def observed(self) -> slice | None:
        """Which inputs of a step say whether a channel was observed in it, the last input being when it was; None of others."""
        return None

    @property
    def countable(self) -> tuple[Countable, ...]:
        """What of it patients can be counted by, in the order of the inputs."""
        return ()

    @property
    def beside_masks(self) -> tuple[str, ...]:
        """The columns of the cohort's table in which its files stand beside their masks, and which it does not join."""
        return ()

    def no_masks(self, name: str, table: str, record: str | None) -> str:
        """Return why masks cannot be learned from it, key first; empty when they can.

        Parameters
        ----------
        name
            Of the modality.
        table, record
            The cohort's table, and its column that tells a patient's records apart.
        """
        return ONE_OF_PICTURES

    def inputs(self, learned: Learned) -> Iterator[Input]:
        """Yield what a model is given, as `names` orders it; ``learned`` are means and scales that the sites released."""
        numbers = {column: (key, number) for key, number, column in self.numbers}
        names, column = self.names, 0
        while column < len(names):
            found = [Input(name=names[column], feature=names[column], says="value", stand_in="zero")]
            if column in numbers:
                key, number = numbers[column]
                found = list(number.inputs(key, learned))
            yield from found
            column += len(found)

    def telling(self) -> Self:
        """Return it with an input that says so for every feature that can be missing; itself where none can."""
        changed: dict[str, Any] = {}
        for key in type(self).model_fields:
            value = getattr(self, key)
            if isinstance(value, dict):
                told = {name: _telling(one) for name, one in value.items()}
                if any(told[name] is not value[name] for name in value):
                    changed[key] = told
            elif (one := _telling(value)) is not value:
                changed[key] = one
        return self.model_copy(update=changed) if changed else self

    def gaps(self, values: NDArray[np.float32]) -> tuple[NDArray[np.float32], dict[str, Bools]]:
        """Return its own inputs out of those that `telling` has, and which features are missing in which records."""
        own, more = self.names, self.telling().names
        if not any(name.endswith(" missing") for name in more):
            return values, {}
        kept = [place for place, name in enumerate(more) if name in own]
        assert [more[place] for place in kept] == list(own)
        flags = {name.removesuffix(" missing"): place for place, name in enumerate(more) if name.endswith(" missing")}
        return values[:, kept], {key: values[:, place] > 0.5 for key, place in flags.items()}


def _telling(spec: object) -> object:
    if not isinstance(spec, BaseModel) or "indicator" not in type(spec).model_fields:
        return spec
    if getattr(spec, "indicator", True) or not getattr(spec, "measured", True):
        return spec
    return spec.model_copy(update={"indicator": True})
