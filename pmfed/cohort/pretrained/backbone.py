"""A picture into numbers, by a network whose weights are public and frozen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pmfed.cohort.pretrained.files import check_fit, read_file, read_published, require
from pmfed.modality.weights import WIDTHS, Layer, Net, View, Weights, WeightsFile, parts

Floats = NDArray[np.float32]

SIDES: dict[Net, int] = {"efficientnet-lite0": 224, "efficientnet-lite1": 240, "efficientnet-lite2": 260}
NEAR: dict[View, float] = {"square": 1.0, "centre": 0.75, "close": 0.5}  # of the side of the largest square
MIDDLE, SPREAD = 0.5, 0.5  # these networks were trained on pixels from -1 to 1


class Backbone:
    """A frozen network, its norms in eval mode: one record's features depend on no other record.

    Nothing of it is trained, so nothing of it is paid for; what it makes of a picture stays at the site like the
    picture itself.
    """

    def __init__(
        self,
        net: Net,
        tensors: Mapping[str, NDArray[Any]],
        layers: Sequence[Layer] = ("last",),
        views: Sequence[View] = ("whole",),
    ) -> None:
        self._net = require("efficientnet_lite_pytorch").EfficientNet.from_name(net)
        wanted = {name: tuple(tensor.shape) for name, tensor in self._net.state_dict().items()}
        check_fit(dict(tensors), wanted, f"weights for '{net}'")
        self._net.load_state_dict({name: torch.from_numpy(values) for name, values in tensors.items()})
        self._net.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # a third faster on CPUs
        self._side = SIDES[net]
        self._layers, self._views = tuple(layers), tuple(views)
        wide = [block._block_args.output_filters for block in self._net._blocks]
        self._ends: dict[int, Layer] = {  # the last block of that many channels
            len(wide) - 1 - wide[::-1].index(WIDTHS[net][layer]): layer for layer in self._layers if layer != "last"
        }

    def __call__(self, picture: Floats) -> Floats:
        """Return the features of a picture.

        Parameters
        ----------
        picture : (C, H, W)
            Pixels from 0 to 1; a grey one counts as three equal colours. Each view of it is brought to the network's size.

        Returns
        -------
        (F,) float32
            Per layer the mean over picture and views, brought to L2 norm 1 (0 if that mean is 0); all side by side, divided
            by the root of their number, so that their norm is at most 1 too.
        """
        with torch.inference_mode():
            whole = torch.from_numpy(np.ascontiguousarray(picture))[None]
            pixels = torch.cat([self._resized(seen_as(view, whole)) for view in self._views]).expand(-1, 3, -1, -1)
            centred = ((pixels - MIDDLE) / SPREAD).contiguous(memory_format=torch.channels_last)
            pooled = self._pooled(centred)
            means = [pooled[layer].mean(dim=0, keepdim=True) for layer in self._layers]
            joined = torch.cat([torch.nn.functional.normalize(mean) for mean in means], dim=1)
            features: Floats = (joined / math.sqrt(len(self._layers)))[0].numpy()
        return features

    def _resized(self, picture: torch.Tensor) -> torch.Tensor:
        side = (self._side, self._side)
        return torch.nn.functional.interpolate(picture, side, mode="bilinear", antialias=True)

    def _pooled(self, pixels: torch.Tensor) -> dict[Layer, torch.Tensor]:
        """Return the means of every layer over the picture: the network's own ``extract_features``, looked at on the way."""
        net, found = self._net, dict[Layer, torch.Tensor]()
        seen = net._swish(net._bn0(net._conv_stem(pixels)))
        for place, block in enumerate(net._blocks):
            seen = block(seen)
            if place in self._ends:
                found[self._ends[place]] = seen.mean(dim=(2, 3))
        if "last" in self._layers:
            found["last"] = net._swish(net._bn1(net._conv_head(seen))).mean(dim=(2, 3))
        return found


def seen_as(view: View, pictures: torch.Tensor) -> torch.Tensor:
    """Return pictures (N, C, H, W) as a view shows them, before they are brought to the network's size."""
    if view == "mirrored":
        return pictures.flip(3)
    if view == "turned":
        return pictures.rot90(1, (2, 3))
    if view == "whole":
        return pictures
    height, width = pictures.shape[2:]
    side = max(1, round(NEAR[view] * min(height, width)))
    top, left = (height - side) // 2, (width - side) // 2
    return pictures[:, :, top : top + side, left : left + side]


def backbone(weights: Weights, sources: Mapping[str, Path | str]) -> Backbone:
    """Return the network a study names, with its weights checked.

    Parameters
    ----------
    weights
        Of the modality.
    sources
        The site's; a file with weights is one of them.

    Raises
    ------
    DataError
        A package is not installed, or the weights are not the ones that are meant.
    """
    if isinstance(weights, WeightsFile):
        return Backbone(weights.net, read_file(weights, Path(sources[weights.source])), weights.layers, weights.views)
    found = parts(weights)
    return _published(found.net, found.layers, found.views)


@lru_cache(maxsize=3)
def _published(net: Net, layers: tuple[Layer, ...], views: tuple[View, ...]) -> Backbone:
    return Backbone(net, read_published(net), layers, views)
