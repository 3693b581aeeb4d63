"""What modalities of pictures and volumes have in common."""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal

from pydantic import PositiveFloat, model_validator

from pmfed.modality.spec import Modality
from pmfed.modality.weights import NO_CENTRE, OWN_SCALE, UNSCALED, Weights, width

Fit = Literal["exact", "stretch", "crop", "pad"]


class Pictures(Modality):
    """Pictures or volumes; with ``weights`` the input is what that network makes of a picture."""

    folder: str
    fit: Fit = "exact"
    mean: float = 0.5
    scale: PositiveFloat = 0.25
    skip_unreadable: bool = False
    weights: Weights | None = None
    centred: bool = False

    @model_validator(mode="after")
    def _fits_weights(self) -> Pictures:
        if self.weights is not None and (self.mean, self.scale) != UNSCALED:
            raise ValueError(OWN_SCALE)
        if self.centred and self.weights is None:
            raise ValueError(NO_CENTRE)
        return self

    @property
    @abstractmethod
    def picture(self) -> tuple[int, ...]:
        """Shape of one picture or volume: channels, then ``size``."""

    @property
    def names(self) -> tuple[str, ...]:
        return ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one record's input: the picture's, or that of what the network with weights makes of it."""
        return (width(self.weights),) if self.weights is not None else self.picture

    @property
    def scaling(self) -> tuple[float, float]:
        """Mean and scale of decoded pictures: on the way into a network with weights they stay on the 0..1 range."""
        return (0.0, 1.0) if self.weights is not None else (self.mean, self.scale)

    @property
    def network(self) -> Weights | None:
        return self.weights

    @property
    def recentred(self) -> bool:
        return self.centred


def beside(name: str, table: str) -> str:
    """Return why pictures listed in another table than the cohort's have no masks."""
    return f"modalities.{name}.table: the images are listed in the cohort's table, '{table}', beside their masks"
