"""``[model.encoders.NAME]``: the network that turns one modality's input into an embedding."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, PositiveInt, SerializeAsAny, WrapValidator, model_validator

from pmfed import plugins
from pmfed.validate import Frozen

if TYPE_CHECKING:
    import torch


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
    """``kind = "gru"`` or ``"lstm"``: a recurrent network over time, for sequences and waveforms.

    ``patch`` steps are read together as one, which makes a long waveform short.
    """

    kind: Literal["gru", "lstm"] = "gru"
    patch: PositiveInt = 1

    def misfit(self, shape: tuple[int, ...]) -> str:
        """Return why this encoder cannot take an input of that shape; empty when it can."""
        return _patches(self.kind, self.patch, shape)


class Transformer(Frozen):
    """``kind = "transformer"``: attention over time, for sequences and waveforms; ``patch`` steps are one token."""

    kind: Literal["transformer"] = "transformer"
    patch: PositiveInt = 1
    width: PositiveInt = 32
    heads: PositiveInt = 4
    layers: PositiveInt = 1

    @model_validator(mode="after")
    def _fits(self) -> Transformer:
        if self.width % (2 * self.heads):
            raise ValueError("'width' is not a multiple of twice 'heads'")
        return self

    def misfit(self, shape: tuple[int, ...]) -> str:
        """Return why this encoder cannot take an input of that shape; empty when it can."""
        return _patches(self.kind, self.patch, shape)


def _patches(kind: str, patch: int, shape: tuple[int, ...]) -> str:
    if len(shape) != 2:
        return f"a {kind} takes sequences or waveforms"
    return f"its {shape[0]} steps do not fall into patches of {patch}" if shape[0] % patch else ""


class Monai(Frozen):
    """``kind = "resnet18"`` and so on: a network of MONAI with GroupNorm in place of BatchNorm; for images and volumes."""

    kind: Literal["resnet10", "resnet18", "densenet121", "efficientnet-b0"]

    def misfit(self, shape: tuple[int, ...]) -> str:
        """Return why this encoder cannot take an input of that shape; empty when it can."""
        if len(shape) < 3:
            return f"a {self.kind} takes images or volumes"
        least = 16 if self.kind.startswith("resnet") else 32  # it halves every side four or five times
        if min(shape[1:]) < least:
            return f"a {self.kind} needs {least} pixels or more on every side, not {' x '.join(map(str, shape[1:]))}"
        return ""


class PluginEncoder(Frozen):
    """A network of an installed package (`pmfed.plugins`). Its fields are the keys of ``[model.encoders.NAME]``; ``kind`` is the entry point's name."""

    kind: str

    def misfit(self, shape: tuple[int, ...]) -> str:
        """Return why this encoder cannot take an input of that shape; empty when it can."""
        return ""

    @abstractmethod
    def network(self, shape: tuple[int, ...], embedding: int) -> torch.nn.Module:
        """Return a network from inputs (B, *shape) to embeddings (B, embedding), with weights drawn by torch's own functions.

        It is tried out before it is used (`pmfed.models.plugin`).
        """


_Own = Annotated[Mlp | Cnn | Recurrent | Transformer | Monai, Field(discriminator="kind")]
KINDS = ("mlp", "cnn", "gru", "lstm", "transformer", "resnet10", "resnet18", "densenet121", "efficientnet-b0")
"""What ``kind`` may be wherever pmfed is installed."""


Encoder = Annotated[SerializeAsAny[_Own], WrapValidator(plugins.reader_of("encoders", PluginEncoder))]
"""An encoder in a study: of pmfed, or of a plug-in that was loaded for it."""
