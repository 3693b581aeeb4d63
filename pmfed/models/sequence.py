"""Recurrent networks for series: events before the index date, waveforms."""

from __future__ import annotations

import torch
from torch import nn


class Recurrent(nn.Module):
    """A GRU (Cho et al. 2014) over time and an embedding of its last state.

    Parameters
    ----------
    channels
        Numbers per step: values, whether they were observed, and the time since.
    embedding
        Length of the embedding, and width of the state.
    """

    def __init__(self, channels: int, embedding: int) -> None:
        super().__init__()
        self.gru = nn.GRU(channels, embedding, batch_first=True)
        self.embed = nn.Linear(embedding, embedding)

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        """Return embeddings (B, embedding) of series (B, T, F)."""
        return torch.tanh(self.embed(self.gru(series)[0][:, -1]))
