"""Convolutional networks for images. GroupNorm only: BatchNorm mixes patients and cannot be private."""

from __future__ import annotations

import importlib
import itertools
from typing import Any

import torch
from torch import nn

from pmfed.models.repair import make_private


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


class MonaiEncoder(nn.Module):
    """A network of MONAI, made private, with an embedding in the place of its classes.

    Parameters
    ----------
    kind
        "resnet10", "resnet18" (He et al. 2016), "densenet121" (Huang et al. 2017) or "efficientnet-b0" (Tan and Le
        2019), without weights of its own: those of ``model.seed``.
    colours
        Channels of the image.
    embedding
        Length of the embedding.
    axes
        2 for pictures, 3 for volumes.
    """

    def __init__(self, kind: str, colours: int, embedding: int, axes: int) -> None:
        super().__init__()
        # Takes seconds, which only studies with such a network should pay.
        nets: Any = importlib.import_module("monai.networks.nets")
        if kind == "densenet121":
            net = nets.DenseNet121(spatial_dims=axes, in_channels=colours, out_channels=embedding)
        elif kind == "efficientnet-b0":
            net = nets.EfficientNetBN(kind, pretrained=False, spatial_dims=axes, in_channels=colours)
            net._fc = nn.Linear(net._fc.in_features, embedding)  # MONAI's start would saturate the tanh
            net._dropout = nn.Identity()  # privacy makes noise enough
            for part in net.modules():
                if hasattr(part, "drop_connect_rate"):
                    part.drop_connect_rate = 0.0
        else:
            net = getattr(nets, kind)(spatial_dims=axes, n_input_channels=colours, num_classes=embedding)
        self.net = make_private(net)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return embeddings (B, embedding) of images (B, C, H, W) or volumes (B, C, D, H, W)."""
        return torch.tanh(self.net(images))
