"""Encoders per modality, late or intermediate fusion, learned embeddings for what is missing."""

from __future__ import annotations

import torch
from torch import nn

from pmfed.models.encoders import encoder
from pmfed.models.head import head
from pmfed.study import Study


class Fusion(nn.Module):
    """Each modality is encoded on its own, and a linear head makes the output.

    With late fusion the embeddings lie side by side in front of the head: what a modality adds to the output does not
    depend on the others. With intermediate fusion every number of every embedding passes a gate that looks at all of
    them, and the modalities' embeddings are added (gated multimodal unit; Arevalo et al. 2017): modalities may
    strengthen or silence each other.

    A patient (or a whole hospital) without a modality gets that modality's learned "missing" embedding in its
    place, so one model serves every hospital and no one imputes an image.
    """

    def __init__(self, study: Study, bias: torch.Tensor) -> None:
        super().__init__()
        spec = study.model
        self.modalities = sorted(study.modalities)
        self.encoders = nn.ModuleDict()
        self.missing = nn.ParameterDict()
        for name, modality in sorted(study.modalities.items()):
            self.encoders[_key(name)] = encoder(spec.encoder(name, modality), modality, spec.embedding)
            self.missing[_key(name)] = nn.Parameter(torch.zeros(spec.embedding))
        together = spec.embedding * len(self.encoders)
        self.gate = nn.Linear(together, together) if spec.fusion == "intermediate" else None
        self.head = head(together if self.gate is None else spec.embedding, study.outcome)
        with torch.no_grad():
            self.head.weight.mul_(0.1)
            self.head.bias.copy_(bias)

    def forward(self, inputs: dict[str, torch.Tensor], present: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return outputs (B, out)."""
        parts = []
        for name in self.modalities:
            seen = present[name][:, None]
            parts.append(torch.where(seen, self.encoders[_key(name)](inputs[name]), self.missing[_key(name)]))
        joined = torch.cat(parts, dim=1)
        if self.gate is not None:
            joined = (joined * self.gate(joined).sigmoid()).unflatten(1, (len(parts), -1)).sum(dim=1)
        outputs: torch.Tensor = self.head(joined)
        return outputs


def _key(name: str) -> str:
    """Return the name of a modality as torch's dictionaries can hold it: not one of their own attributes."""
    return f"modality {name}" if hasattr(nn.ModuleDict, name) or hasattr(nn.ParameterDict, name) else name
