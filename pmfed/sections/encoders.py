"""``[model.encoders.NAME]``: the network that turns one modality's input into an embedding."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from pmfed.validate import Frozen


class Mlp(Frozen):
    """``kind = "mlp"``: linear layers with tanh, for tables, genotypes, events, notes and panels."""

    kind: Literal["mlp"] = "mlp"
    hidden: tuple[PositiveInt, ...] = (32,)

    def misfit(self, shape: tuple[int, ...]) -> str:
        """Return why this encoder cannot take an input of that shape; empty when it can."""
        return "" if len(shape) == 1 else "an mlp takes rows of numbers, not series or images"


class Cnn(Frozen):
    """``kind = "cnn"``: a convolution per entry of ``channels``, each halving every side; for images and volumes."""

    kind: Literal["cnn"] = "cnn"
    channels: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (8, 16)

    def misfit(self, shape: tuple[int, ...]) -> str:
        """Return why this encoder cannot take an input of that shape; empty when it can."""
        if len(shape) < 3:
            return "a cnn takes images or volumes"
        halvings, size = len(self.channels), shape[1:]
        if min(size) < 2**halvings:
            sides = " x ".join(map(str, size))
            return f"{halvings} layers of 'channels', each halving the image, do not fit its {sides} pixels"
        return ""


class Recurrent(Frozen):
    """``kind = "gru"``: a recurrent network over time, for sequences and waveforms."""

    kind: Literal["gru"] = "gru"

    def misfit(self, shape: tuple[int, ...]) -> str:
        """Return why this encoder cannot take an input of that shape; empty when it can."""
        return "" if len(shape) == 2 else "a gru takes sequences or waveforms"


Encoder = Annotated[Mlp | Cnn | Recurrent, Field(discriminator="kind")]
