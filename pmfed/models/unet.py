"""A UNet for a class per pixel."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import nn

from pmfed.models.monai import MonaiModel
from pmfed.models.repair import make_private
from pmfed.study import Study


def unet(study: Study, bias: torch.Tensor) -> MonaiModel:
    """Return MONAI's UNet (Ronneberger et al. 2015; Kerfoot et al. 2018) with GroupNorm, for the study's one modality.

    It starts near the public share of each class in every pixel.
    """
    (name,), channels = study.modalities, study.model.channels
    colours, *size = study.modalities[name].shape
    nets: Any = importlib.import_module("monai.networks.nets")
    net = nets.UNet(
        spatial_dims=len(size), in_channels=colours, out_channels=study.outcome.outputs, channels=channels,
        strides=(2,) * (len(channels) - 1), num_res_units=0, norm="batch", act="relu",
    )  # fmt: skip
    private = make_private(net)
    *_, last = (part for part in private.modules() if isinstance(part, nn.modules.conv._ConvNd))
    assert last.bias is not None
    with torch.no_grad():
        last.weight.mul_(0.1)
        last.bias.copy_(bias)
    return MonaiModel(private, name)
