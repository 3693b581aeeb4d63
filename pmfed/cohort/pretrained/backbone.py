"""A picture into numbers, by a network whose weights are public and frozen."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pmfed.cohort.pretrained.files import check_fit, read_file, read_published, require
from pmfed.modality.weights import WIDTH, Net, Weights, WeightsFile

Floats = NDArray[np.float32]

SIDES: dict[Net, int] = {"efficientnet-lite0": 224, "efficientnet-lite1": 240, "efficientnet-lite2": 260}
MIDDLE, SPREAD = 0.5, 0.5  # these networks were trained on pixels from -1 to 1


class Backbone:
    """A frozen network, its norms in eval mode: one record's features depend on no other record.

    Nothing of it is trained, so nothing of it is paid for; what it makes of a picture stays at the site like the
    picture itself.
    """

    def __init__(self, net: Net, tensors: Mapping[str, NDArray[Any]]) -> None:
        self._net = require("efficientnet_lite_pytorch").EfficientNet.from_name(net)
        wanted = {name: tuple(tensor.shape) for name, tensor in self._net.state_dict().items()}
        check_fit(dict(tensors), wanted, f"weights for '{net}'")
        self._net.load_state_dict({name: torch.from_numpy(values) for name, values in tensors.items()})
        self._net.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # a third faster on CPUs
        self._side = SIDES[net]

    def __call__(self, picture: Floats) -> Floats:
        """Return the features of a picture.

        Parameters
        ----------
        picture : (C, H, W)
            Pixels from 0 to 1; a grey one counts as three equal colours. It is stretched to the network's size.

        Returns
        -------
        (1280,) float32
            The mean over the picture of the last layer before the classes, of L2 norm 1 (0 if that mean is 0).
        """
        with torch.inference_mode():
            pixels = torch.from_numpy(np.ascontiguousarray(picture))[None]
            side = (self._side, self._side)
            pixels = torch.nn.functional.interpolate(pixels, side, mode="bilinear", antialias=True).expand(
                -1, 3, -1, -1
            )
            centred = ((pixels - MIDDLE) / SPREAD).contiguous(memory_format=torch.channels_last)
            pooled = self._net.extract_features(centred).mean(dim=(2, 3))
            features: Floats = torch.nn.functional.normalize(pooled)[0].numpy()
        assert features.shape == (WIDTH,)
        return features


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
        return Backbone(weights.net, read_file(weights, Path(sources[weights.source])))
    return _published(weights)


@lru_cache(maxsize=3)
def _published(net: Net) -> Backbone:
    return Backbone(net, read_published(net))
