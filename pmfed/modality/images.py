"""Images."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from pmfed.modality.scans import Fit
from pmfed.modality.weights import NO_CENTRE, OWN_SCALE, UNSCALED, Weights, WeightsFile, width
from pmfed.validate import Grown


class Images(Grown):
    """A modality of images: a table that lists files, and the folder they lie in.

    ``size`` is (height, width) in pixels, ``fit`` what becomes of pictures of another. ``bits`` says how many of 16 bits
    pictures use, ``transparent`` what lies below transparent ones. ``mean`` and ``scale`` are public constants on the 0..1
    range. With ``weights`` the input is what that network makes of the picture.
    """

    LATER: ClassVar[frozenset[str]] = frozenset({"bits", "fit", "skip_unreadable", "transparent"})

    kind: Literal["images"] = "images"
    table: str
    folder: str
    file: str = "file"
    size: tuple[PositiveInt, PositiveInt]
    fit: Fit = "exact"
    channels: Literal[1, 3] = 1
    bits: Annotated[int, Field(ge=9, le=16)] | None = None
    transparent: Literal["refuse", "black", "white"] = "refuse"
    skip_unreadable: bool = False
    mean: float = 0.5
    scale: PositiveFloat = 0.25
    weights: Weights | None = None
    centred: bool = False

    @model_validator(mode="after")
    def _fits_weights(self) -> Images:
        if self.weights is not None and (self.mean, self.scale) != UNSCALED:
            raise ValueError(OWN_SCALE)
        if self.centred and self.weights is None:
            raise ValueError(NO_CENTRE)
        return self

    @property
    def sources(self) -> tuple[str, ...]:
        """The sources a site must have."""
        own = (self.weights.source,) if isinstance(self.weights, WeightsFile) else ()
        return (self.table, self.folder, *own)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one record's input."""
        return (width(self.weights),) if self.weights is not None else self.picture

    @property
    def picture(self) -> tuple[int, ...]:
        """Shape of one picture: channels, then ``size``."""
        return (self.channels, *self.size)

    @property
    def scaling(self) -> tuple[float, float]:
        """Mean and scale of decoded pictures: on the way into a network with weights they stay on the 0..1 range."""
        return (0.0, 1.0) if self.weights is not None else (self.mean, self.scale)
