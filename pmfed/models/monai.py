"""A MONAI network in the place of a study's model."""

from __future__ import annotations

import torch
from torch import nn

from pmfed.errors import StudyError


class MonaiModel(nn.Module):
    """One network on one modality of images.

    Parameters
    ----------
    net
        Images (B, C, ...) in; (B, out) out, or (B, classes, ...) of a segmentation. Of several outputs (ViT) the
        first counts. Pass it through ``make_private`` first.
    modality
        Name of the images among the inputs. A record without them gets zeros and teaches the network nothing.
    """

    def __init__(self, net: nn.Module, modality: str) -> None:
        super().__init__()
        self.net = net
        self.modality = modality

    def forward(self, inputs: dict[str, torch.Tensor], present: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the network's outputs, one row per record."""
        images = inputs[self.modality]
        found = self.net(images)
        outputs = row_each(found[0] if isinstance(found, tuple | list) else found, len(images))
        seen = present[self.modality].view(-1, *[1] * (outputs.ndim - 1))
        return torch.where(seen, outputs, torch.zeros_like(outputs))


def row_each(outputs: object, records: int) -> torch.Tensor:
    """Return outputs that are one tensor with a row per record; refuse others."""
    if isinstance(outputs, torch.Tensor) and outputs.ndim > 1 and len(outputs) == records:
        return outputs
    what = f"of shape {tuple(outputs.shape)}" if isinstance(outputs, torch.Tensor) else f"a {type(outputs).__name__}"
    raise StudyError(
        f"the network's outputs for {records} record(s) must be one tensor with a row per record, not {what}.",
        "Wrap the network so that it returns that.",
    )
