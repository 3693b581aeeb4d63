"""Waveforms in files that a table lists."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveFloat, model_validator

from pmfed.modality.columns import Name
from pmfed.modality.inputs import Input, Learned
from pmfed.modality.spec import Modality
from pmfed.validate import Grown


class SignalChannel(Grown):
    """One channel of a waveform; ``mean`` and ``scale`` are public constants in ``unit`` (UCUM).

    Values are converted to ``unit`` where the file tells its own, and taken as they are where it tells none. Samples
    outside ``minimum`` to ``maximum`` (in ``unit``) count as missing; a file of which most are outside is an error.
    """

    LATER: ClassVar[frozenset[str]] = frozenset({"maximum", "minimum"})

    column: str | None = None
    unit: str | None = None
    minimum: float | None = None
    maximum: float | None = None
    mean: float = 0.0
    scale: PositiveFloat = 1.0

    @model_validator(mode="after")
    def _fits(self) -> SignalChannel:
        if self.minimum is not None and self.maximum is not None and not self.minimum < self.maximum:
            raise ValueError("'minimum' must be below 'maximum'")
        return self


class Signals(Modality):
    """A modality of waveforms: a table that lists files, and the folder they lie in.

    The first ``seconds`` of each are taken, at ``rate`` samples a second. ``when`` names the column that says when a
    waveform was recorded; what was not over before the index date is not used. With ``skip_unreadable`` files that
    cannot be used are left out and counted.
    """

    LATER: ClassVar[frozenset[str]] = frozenset({"skip_unreadable"})

    kind: Literal["signal"] = "signal"
    table: str
    folder: str
    file: str = "file"
    when: str | None = None
    rate: PositiveFloat
    seconds: PositiveFloat
    skip_unreadable: bool = False
    channels: Annotated[dict[Name, SignalChannel], Field(min_length=1)]

    @model_validator(mode="after")
    def _fits(self) -> Signals:
        if self.length < 1:
            raise ValueError("'seconds' at 'rate' is not even one sample")
        return self

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.table, self.folder)

    @property
    def length(self) -> int:
        """How many samples there are of each channel."""
        return round(self.rate * self.seconds)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the channels, in order."""
        return tuple(sorted(self.channels))

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.length, len(self.names))

    @property
    def joined(self) -> str:
        return self.table

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.file, *((self.when,) if self.when else ()))

    def inputs(self, learned: Learned) -> Iterator[Input]:
        for key, spec in sorted(self.channels.items()):
            yield Input(
                name=key, feature=key, says="value", unit=spec.unit, mean=spec.mean, scale=spec.scale, stand_in="mean"
            )
