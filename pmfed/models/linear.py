"""A linear model on all inputs together."""

from __future__ import annotations

import math

import torch
from torch import nn

from pmfed.models.head import head
from pmfed.study import Study


class Linear(nn.Module):
    """Weights on every input; an absent modality adds nothing.

    Starts at zero weights with the bias at the public baseline, the best guess before any data.
    """

    def __init__(self, study: Study, bias: torch.Tensor) -> None:
        super().__init__()
        self.modalities = sorted(study.modalities)
        width = sum(math.prod(modality.shape) for modality in study.modalities.values())
        self.linear = head(width, study.outcome)
        with torch.no_grad():
            self.linear.weight.zero_()
            self.linear.bias.copy_(bias)

    def design(self, inputs: dict[str, torch.Tensor], present: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return all inputs side by side, shape (B, width), zeros where a modality is absent."""
        parts = [inputs[name].flatten(1) * present[name][:, None] for name in self.modalities]
        return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]

    def forward(self, inputs: dict[str, torch.Tensor], present: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return outputs (B, out)."""
        outputs: torch.Tensor = self.linear(self.design(inputs, present))
        return outputs
