"""Losses of one record whose gradients hold to float32, alone, in a batch and under ``torch.func.vmap``.

A slope computed as ``p - y`` loses its digits where a model is sure and right, and `torch.func.vmap` differentiates
``binary_cross_entropy_with_logits`` by another formula than autograd does: .05 % off at a logit of -10, zero at -17.
Separable data gets there. Here no slope is a difference of numbers that are nearly equal.
"""

from __future__ import annotations

import torch
from torch.nn.functional import logsigmoid


def binary_entropy(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy of each logit with a truth of 0 or 1 (or between), of the same shape."""
    return -(truth * logsigmoid(logits) + (1 - truth) * logsigmoid(-logits))


def log_shares(outputs: torch.Tensor) -> torch.Tensor:
    """Return the logarithm of the softmax over dimension 1, (B, classes, ...).

    The likeliest class stands apart: its share is one less the others', which is what a plain softmax rounds away.
    """
    top = outputs.argmax(dim=1, keepdim=True)
    likeliest = torch.arange(outputs.shape[1], device=outputs.device).view(1, -1, *[1] * (outputs.ndim - 2)) == top
    # Its distance to itself is filled in, or a slope of 1 and one of -1 would round the small one away.
    behind = (outputs - outputs.gather(1, top)).masked_fill(likeliest, 0.0)
    others = behind.masked_fill(likeliest, -torch.inf).logsumexp(dim=1, keepdim=True)
    return behind + logsigmoid(-others)


def cross_entropy(outputs: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy of each record, (B,), from outputs (B, classes) and classes (B,)."""
    return -log_shares(outputs).gather(1, truth[:, None])[:, 0]
