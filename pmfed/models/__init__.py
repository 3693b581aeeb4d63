"""Torch modules, one file per family; `build` makes the one a study names.

Every model takes ``inputs`` (modality -> tensor, first axis records) and ``present`` (modality -> bool
(B,)), and returns outputs (B, out). No model holds a buffer that learns, so BatchNorm has no place here.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from pmfed.models.fusion import Fusion
from pmfed.models.linear import Linear
from pmfed.models.parts import intercept_mask, stay_mask
from pmfed.models.unet import unet
from pmfed.study import Study
from pmfed.tasks import task_for

__all__ = ["build", "flatten", "intercept_mask", "load", "named", "shared_start"]


def build(study: Study) -> nn.Module:
    """Return the study's model with its public initial weights: the same everywhere.

    The initial weights follow ``model.seed``; they hold no patient's data, so they need no secrecy.
    """
    kind = {"linear": Linear, "fusion": Fusion, "unet": unet}[study.model.kind]
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(study.model.seed)
        return kind(study, task_for(study).bias())


def flatten(model: nn.Module) -> npt.NDArray[np.float32]:
    """Return the trainable parameters as one float32 vector, in ``named_parameters`` order."""
    parts = [parameter.detach().reshape(-1) for parameter in model.parameters() if parameter.requires_grad]
    return torch.cat(parts).cpu().numpy().astype(np.float32, copy=False)


def load(model: nn.Module, vector: npt.NDArray[np.float32]) -> None:
    """Write a flat vector into the trainable parameters."""
    position = 0
    flat = torch.from_numpy(np.ascontiguousarray(vector, dtype=np.float32))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(flat[position : position + parameter.numel()].view_as(parameter))
                position += parameter.numel()
    assert position == len(flat), "the vector must hold exactly the trainable parameters"


def shared_start(study: Study) -> npt.NDArray[np.float32]:
    """Return the initial values of what travels: all trainable parameters but those that stay at the sites."""
    model = build(study)
    return flatten(model)[~stay_mask(study, model)] if study.parts else flatten(model)


def named(
    model: nn.Module, vector: npt.NDArray[np.float32], without: frozenset[str] = frozenset()
) -> dict[str, npt.NDArray[np.float32]]:
    """Return a flat vector as a tensor per trainable parameter, for a model file; ``without`` those it does not hold.

    The tensors are views of the vector.
    """
    tensors, position = {}, 0
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and name not in without:
            tensors[name] = vector[position : position + parameter.numel()].reshape(tuple(parameter.shape))
            position += parameter.numel()
    assert position == len(vector), "the vector must hold exactly these parameters"
    return tensors
