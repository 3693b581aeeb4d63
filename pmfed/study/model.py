"""``[model]``: the network."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from pmfed.modality import Modality, Name
from pmfed.study.encoders import Cnn, Encoder, Mlp, Recurrent
from pmfed.validate import Frozen


class ModelSpec(Frozen):
    """``[model]``: a linear model; encoders per modality with late or intermediate fusion; a UNet, for masks.

    ``encoders`` chooses a modality's encoder; the others get one by their kind, of ``hidden`` or ``channels``.
    """

    kind: Literal["linear", "fusion", "unet"] = "linear"
    hidden: tuple[PositiveInt, ...] = (32,)
    embedding: PositiveInt = 16
    channels: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (8, 16)
    encoders: dict[Name, Encoder] = Field(default_factory=dict)
    fusion: Literal["late", "intermediate"] = "late"
    seed: int = 0

    def encoder(self, name: str, modality: Modality) -> Encoder:
        """Return the encoder of a modality: the chosen one, or that of its kind."""
        if name in self.encoders:
            return self.encoders[name]
        own: dict[str, Encoder] = {
            "mlp": Mlp(hidden=self.hidden),
            "gru": Recurrent(),
            "cnn": Cnn(channels=self.channels),
        }
        return own[modality.encoder]
