"""An encoder: residual blocks for rows of numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, PositiveInt

from pmfed.study.encoders import PluginEncoder

if TYPE_CHECKING:
    from torch import nn


class Residual(PluginEncoder):
    """``kind = "residual"``: ``blocks`` of two linear layers, each added to what came in, with dropout between them."""

    kind: Literal["residual"] = "residual"
    width: PositiveInt = 16
    blocks: PositiveInt = 2
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0

    def misfit(self, shape: tuple[int, ...]) -> str:
        """Return why it cannot take an input of that shape; empty when it can."""
        return "" if len(shape) == 1 else "residual takes rows of numbers, not series or images"

    def network(self, shape: tuple[int, ...], embedding: int) -> nn.Module:
        """Return the network; torch is imported here, so that reading a study stays quick."""
        from pmfed_example.network import ResidualNetwork

        return ResidualNetwork(shape[0], self.width, self.blocks, self.dropout, embedding)
