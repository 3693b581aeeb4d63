"""The torch network of the encoder ``residual``."""

from __future__ import annotations

from torch import Tensor, nn


class ResidualNetwork(nn.Module):
    """Residual blocks between two linear layers. LayerNorm looks at each record alone; BatchNorm would mix patients."""

    def __init__(self, inputs: int, width: int, blocks: int, dropout: float, embedding: int) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width), nn.Linear(width, width), nn.Tanh(), nn.Dropout(dropout), nn.Linear(width, width)
            )
            for _ in range(blocks)
        )
        self.last = nn.Linear(width, embedding)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return embeddings (B, embedding) of inputs (B, F)."""
        state = self.first(inputs)
        for block in self.blocks:
            state = state + block(state)
        embedded: Tensor = self.last(state).tanh()
        return embedded
