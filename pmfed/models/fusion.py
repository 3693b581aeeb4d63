"""Encoders per modality, late fusion, learned embeddings for what is missing."""

from __future__ import annotations

import itertools

import torch
from torch import nn

from pmfed.modality import Images, Modality
from pmfed.models.imaging import SmallCNN
from pmfed.study import Study


class Fusion(nn.Module):
    """Each modality is encoded on its own; the embeddings lie side by side in front of a linear head.

    A patient (or a whole hospital) without a modality gets that modality's learned "missing" embedding in its
    place, so one model serves every hospital and no one imputes an image.
    """

    def __init__(self, study: Study, bias: torch.Tensor) -> None:
        super().__init__()
        spec = study.model
        self.encoders = nn.ModuleDict()
        self.missing = nn.ParameterDict()
        for name, modality in sorted(study.modalities.items()):
            self.encoders[name] = _encoder(modality, spec.hidden, spec.channels, spec.embedding)
            self.missing[name] = nn.Parameter(torch.zeros(spec.embedding))
        self.head = nn.Linear(spec.embedding * len(self.encoders), study.outcome.outputs)
        with torch.no_grad():
            self.head.weight.mul_(0.1)
            self.head.bias.copy_(bias)

    def forward(self, inputs: dict[str, torch.Tensor], present: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return outputs (B, out)."""
        parts = []
        for name, encoder in self.encoders.items():
            seen = present[name][:, None]
            parts.append(torch.where(seen, encoder(inputs[name]), self.missing[name]))
        outputs: torch.Tensor = self.head(torch.cat(parts, dim=1))
        return outputs


def _encoder(modality: Modality, hidden: tuple[int, ...], channels: tuple[int, ...], embedding: int) -> nn.Module:
    if isinstance(modality, Images):
        return SmallCNN(modality.channels, channels, embedding)
    widths = (len(modality.names), *hidden, embedding)
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.Tanh()]
    return nn.Sequential(*layers)
