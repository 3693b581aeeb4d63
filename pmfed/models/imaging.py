"""Convolutional networks for images. GroupNorm only: BatchNorm mixes patients and cannot be private."""

from __future__ import annotations

import itertools

import torch
from torch import nn


class SmallCNN(nn.Module):
    """Convolution, GroupNorm, ReLU and pooling per entry of ``channels``; then mean and an embedding.

    Parameters
    ----------
    colours
        Channels of the image.
    channels
        Channels after each convolution.
    embedding
        Length of the embedding.
    """

    def __init__(self, colours: int, channels: tuple[int, ...], embedding: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise((colours, *channels)):
            groups = next(size for size in (4, 2, 1) if after % size == 0)
            layers += [
                nn.Conv2d(before, after, 3, padding=1),
                nn.GroupNorm(groups, after),
                nn.ReLU(),
                nn.AvgPool2d(2),
            ]
        self.features = nn.Sequential(*layers)
        self.embed = nn.Linear(channels[-1], embedding)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return embeddings (B, embedding) of images (B, C, H, W)."""
        return torch.tanh(self.embed(self.features(images).mean(dim=(2, 3))))
