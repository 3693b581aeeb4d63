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
    axes
        2 for pictures, 3 for volumes.
    """

    def __init__(self, colours: int, channels: tuple[int, ...], embedding: int, axes: int = 2) -> None:
        super().__init__()
        convolution, pool = (nn.Conv2d, nn.AvgPool2d) if axes == 2 else (nn.Conv3d, nn.AvgPool3d)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise((colours, *channels)):
            groups = next(size for size in (4, 2, 1) if after % size == 0)
            layers += [
                convolution(before, after, 3, padding=1),
                nn.GroupNorm(groups, after),
                nn.ReLU(),
                pool(2),
            ]
        self.features = nn.Sequential(*layers)
        self.embed = nn.Linear(channels[-1], embedding)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return embeddings (B, embedding) of images (B, C, H, W) or volumes (B, C, D, H, W)."""
        return torch.tanh(self.embed(self.features(images).flatten(2).mean(dim=2)))
