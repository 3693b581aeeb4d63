"""Public weights: a network that others trained on public pictures, used as it is in front of what a study trains."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pmfed.validate import Frozen

Net = Literal["efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2"]

WIDTH = 1280  # numbers these networks make of a picture

UNSCALED = (0.5, 0.25)  # mean and scale of a modality that says nothing of them
NO_CENTRE = "'centred' is for the features of a network; it needs 'weights'"
OWN_SCALE = "leave out 'mean' and 'scale': the network of 'weights' has its own"


class WeightsFile(Frozen):
    """Weights in a file that lies at every site: safetensors, never a pickle.

    ``source`` is its name in ``[data]``; a file whose SHA-256 is not ``sha256`` is not used. ``net`` says what the
    weights fit.
    """

    source: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    net: Net


Weights = Net | WeightsFile
"""The name of a network whose ImageNet weights a package holds, or a file with weights for one."""


def told(weights: Weights) -> str:
    """Return for people which weights these are."""
    if isinstance(weights, WeightsFile):
        return f"{weights.net}, weights of SHA-256 {weights.sha256[:12]}"
    return f"{weights}, weights of ImageNet"
