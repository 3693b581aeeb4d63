"""A model that is one linear layer: its gradient per record is an outer product."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from pmfed.errors import StudyError
from pmfed.privacy.batches import Batch, Tensors


@runtime_checkable
class LinearModel(Protocol):
    """A model that is one linear layer: ``forward(inputs, present) == linear(design(inputs, present))``."""

    linear: nn.Linear

    def design(self, inputs: Tensors, present: Tensors) -> Tensor:
        """Return the layer's input, (B, in_features), a function of each record alone."""


def is_linear(model: LinearModel, trainable: Sequence[nn.Parameter]) -> bool:
    """Whether the linear layer holds everything that is trainable."""
    own = list(model.linear.parameters())
    return (
        type(model.linear) is nn.Linear
        and len(own) == len(trainable)
        and all(any(p is q for q in own) for p in trainable)
    )


def by_outer_product(
    model: LinearModel,
    names: Sequence[str],
    loss: Callable[[Tensor, Tensor], Tensor],
    batch: Batch,
) -> list[Tensor]:
    """Return per-record gradients of the linear layer's parameters: output gradient times input."""
    inputs, present, targets = batch
    with torch.no_grad():
        design = model.design(inputs, present)
        outputs = model.linear(design)
    with torch.enable_grad():
        outputs.requires_grad_()
        losses = one_each(loss(outputs, targets), len(targets))
        (slope,) = torch.autograd.grad(losses.sum(), outputs)
    found = {"weight": slope[:, :, None] * design[:, None, :], "bias": slope}
    return [found[name.rpartition(".")[2]] for name in names]


def one_each(losses: Tensor, records: int) -> Tensor:
    """Refuse a loss of another shape: (B, 1) against (B,) would broadcast to (B, B) and undo the clip."""
    if losses.shape != (records,):
        raise StudyError(
            f"the loss gives shape {tuple(losses.shape)} for {records} record(s), not one number per record.",
            "Return a tensor of one dimension; turn off the loss's own reduction.",
        )
    return losses


def same(found: list[Tensor], exact: list[Tensor]) -> None:
    """Refuse gradients that are not the ones found with every record alone."""
    for a, b in zip(found, exact, strict=True):
        finite = b.isfinite() & a.isfinite()
        size = float(torch.where(finite, b, torch.zeros_like(b)).abs().max())
        if not torch.allclose(a, b, rtol=1e-3, atol=1e-5 * size + 1e-12, equal_nan=True):
            raise StudyError(
                "the gradient of a patient depends on the other patients of the batch, or 'design' is not what "
                "the model computes.",
                "Use a loss that looks at each record alone: no weights or means over the batch.",
            )
