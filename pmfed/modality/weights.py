"""Public weights: a network that others trained on public pictures, used as it is in front of what a study trains."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from pmfed.validate import Frozen

Net = Literal["efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2"]

Layer = Literal["middle", "late", "last"]
"""Where features are taken: before the network's last halving of the picture, after its last block, or at its end."""

WIDTHS: dict[Net, dict[Layer, int]] = {
    "efficientnet-lite0": {"middle": 112, "late": 320, "last": 1280},
    "efficientnet-lite1": {"middle": 112, "late": 320, "last": 1280},
    "efficientnet-lite2": {"middle": 120, "late": 352, "last": 1280},
}
"""How many numbers each of them makes of a picture."""

View = Literal["whole", "square", "centre", "close", "mirrored", "turned"]
"""How the network looks at a picture: all of it, stretched to the network's square; the largest square in its middle, so that
nothing is stretched; of that square the middle three quarters, or half; all of it, left for right; all of it, by a quarter turn."""

UNSCALED = (0.5, 0.25)  # mean and scale of a modality that says nothing of them
NO_CENTRE = "'centred' is for the features of a network; it needs 'weights'"
OWN_SCALE = "leave out 'mean' and 'scale': the network of 'weights' has its own"


Layers = Annotated[tuple[Layer, ...], Field(min_length=1)]
Views = Annotated[tuple[View, ...], Field(min_length=1)]


class Layered(Frozen):
    """A network and the layers its features are taken from: side by side, each as long as the others.

    Features are the means over ``views``: as many passes through the network, and no more numbers.
    """

    net: Net
    layers: Layers
    views: Views = ("whole",)

    @field_validator("layers", "views")
    @classmethod
    def _each_once(cls, told: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(told)) != len(told):
            raise ValueError("the same stands twice")
        return told


class WeightsFile(Layered):
    """Weights in a file that lies at every site: safetensors, never a pickle.

    ``source`` is its name in ``[data]``; a file whose SHA-256 is not ``sha256`` is not used. ``net`` says what the
    weights fit, ``layers`` where features are taken from it, ``views`` how it looks at a picture.
    """

    source: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    layers: Layers = ("last",)


Weights = Net | WeightsFile | Layered
"""The name of a network whose ImageNet weights a package holds, alone or with layers, or a file with weights for one."""


def parts(weights: Weights) -> Layered:
    """Return the network and its layers."""
    return Layered(net=weights, layers=("last",)) if isinstance(weights, str) else weights


def width(weights: Weights) -> int:
    """Return how many numbers become of a picture."""
    found = parts(weights)
    return sum(WIDTHS[found.net][layer] for layer in found.layers)


def source_of(weights: Weights | None) -> tuple[str, ...]:
    """Return the source that is the file with the weights, if the study names one."""
    return (weights.source,) if isinstance(weights, WeightsFile) else ()


def told(weights: Weights) -> str:
    """Return for people which weights these are."""
    if isinstance(weights, WeightsFile):
        return f"{weights.net}, weights of SHA-256 {weights.sha256[:12]}"
    return f"{parts(weights).net}, weights of ImageNet"
