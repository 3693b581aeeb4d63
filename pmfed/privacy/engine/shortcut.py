"""A model that is one linear layer: its gradient per record is an outer product."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.func import grad, vmap

from pmfed.errors import StudyError
from pmfed.privacy.batches import Batch, Tensors

SAME = 1e-3
"""Share of a record's gradient that two ways to find it may differ by: where a model is sure, a slope moves by the share
that its output moves by."""

FLOAT32 = 1e-6
"""Eight roundings of a float32."""

FAINT = 1e-12
"""Shorter slopes are not compared: float32 is running out of digits."""


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
    with torch.no_grad():
        design = model.design(*batch[:2])
    slope = _slopes(loss, model.linear(design).detach(), batch[2])
    found = {"weight": slope[:, :, None] * design[:, None, :], "bias": slope}
    return [found[name.rpartition(".")[2]] for name in names]


def check(
    model: LinearModel, found: list[Tensor], exact: list[Tensor], loss: Callable[[Tensor, Tensor], Tensor], batch: Batch
) -> None:
    """Refuse outer products that are not the gradients found with every record alone.

    Once for the loss on the very same outputs, where nothing rounds apart, and once from end to end. Each record is
    held to its own gradient as found alone, and to what float32 rounds in it: neither another record nor the mistake
    itself can widen what is let pass.
    """
    with torch.no_grad():
        outputs = model.linear(model.design(*batch[:2]))
    one = vmap(grad(lambda output, target: one_each(loss(output[None], target[None]), 1).sum()))
    same([_slopes(loss, outputs, batch[2])], [one(outputs, batch[2])], torch.full((len(outputs),), FAINT).to(outputs))
    same(found, exact, _rounding(model, batch))


def _slopes(loss: Callable[[Tensor, Tensor], Tensor], outputs: Tensor, targets: Tensor) -> Tensor:
    with torch.enable_grad():
        outputs = outputs.detach().requires_grad_()
        (slope,) = torch.autograd.grad(one_each(loss(outputs, targets), len(targets)).sum(), outputs)
    return slope


def one_each(losses: Tensor, records: int) -> Tensor:
    """Refuse a loss of another shape: (B, 1) against (B,) would broadcast to (B, B) and undo the clip."""
    if losses.shape != (records,):
        raise StudyError(
            f"the loss gives shape {tuple(losses.shape)} for {records} record(s), not one number per record.",
            "Return a tensor of one dimension; turn off the loss's own reduction.",
        )
    return losses


def _rounding(model: LinearModel, batch: Batch) -> Tensor:
    """Return what float32 may move each record's gradient by, (B,), in a task whose slope moves as its output does.

    An output is a sum of products, each rounded: it is known to about the size of that sum without its signs.
    """
    layer = model.linear
    with torch.no_grad():
        design = model.design(*batch[:2])
        size = design.abs() @ layer.weight.abs().T + (0.0 if layer.bias is None else layer.bias.abs())
        return FLOAT32 * (1 + size.sum(dim=1)) * (1 + design.square().sum(dim=1)).sqrt()


def same(found: list[Tensor], exact: list[Tensor], rounded: Tensor) -> None:
    """Refuse gradients that differ by more than ``SAME`` of each record's own and what rounding does, (B,)."""
    alone, apart = (torch.cat([g.flatten(1) for g in part], dim=1).double() for part in (exact, found))
    finite = alone.isfinite().all(dim=1)
    error, size = (apart - alone).norm(dim=1), alone.norm(dim=1)
    wrong = torch.where(finite, ~(error <= SAME * size + rounded), apart.isfinite().all(dim=1))
    if wrong.any():
        raise StudyError(
            "the gradient of a patient depends on the other patients of the batch, or 'design' is not what "
            "the model computes.",
            "Use a loss that looks at each record alone: no weights or means over the batch.",
        )
