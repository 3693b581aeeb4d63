"""The last layer: from what is known of a patient to the numbers the task asks for."""

from __future__ import annotations

import math

import torch
from torch import nn

from pmfed.study.outcome import Outcome


class Proportional(nn.Module):
    """One risk per patient, and a bias of its own for every output: odds are proportional over intervals or grades.

    What a linear layer does with one row of weights for all its outputs. A weight per interval would be many times as
    many numbers to learn from the same few events, and as many to add noise to.
    """

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        reach = 1 / math.sqrt(width)  # as torch starts its linear layers
        self.weight = nn.Parameter(torch.empty(1, width).uniform_(-reach, reach))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return outputs (B, outputs) from inputs (B, width)."""
        return nn.functional.linear(inputs, self.weight) + self.bias


def head(width: int, outcome: Outcome) -> nn.Linear | Proportional:
    """Return the layer that turns ``width`` numbers into the outputs of an outcome."""
    return Proportional(width, outcome.outputs) if outcome.one_risk else nn.Linear(width, outcome.outputs)
