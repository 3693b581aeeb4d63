"""Exact clipped gradient sums, patient by patient, and the noise on top.

Per-record gradients come from ``torch.func`` (chunked vmap), or from an outer product where the model is one
linear layer; the records of a patient are averaged; Opacus' optimizer clips that one vector and adds it up;
the noise is ours, because Opacus' secure mode needs a package that cannot be installed any more.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from pmfed.errors import DataError, StudyError
from pmfed.privacy.noise import Source
from pmfed.privacy.plan import PrivacyPlan

Tensors = Mapping[str, Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]
"""(outputs (B, out), targets (B,)) -> one loss per record, (B,)."""

MEMORY = 32 << 20
"""Bytes that per-record gradients and activations of one chunk may take; small chunks stay in the cache."""

_SLACK = 1e-5  # float32 rounds: clip a little below C, so that no patient weighs more than C


@runtime_checkable
class LinearModel(Protocol):
    """A model that is one linear layer: ``forward(inputs, present) == linear(design(inputs, present))``."""

    linear: nn.Linear

    def design(self, inputs: Tensors, present: Tensors) -> Tensor:
        """Return the layer's input, (B, in_features), a function of each record alone."""


@dataclass(frozen=True)
class GradientSum:
    """A sum of clipped per-patient gradients over all trainable parameters, in ``named_parameters`` order.

    ``contributors`` and ``dropped`` count patients (records when the unit is the record). They are true
    counts: they stay at the site.
    """

    vector: NDArray[np.float64] = field(repr=False)
    contributors: int
    dropped: int


class _Clipper(DPOptimizer):  # type: ignore[misc]
    """Opacus' optimizer: clips and accumulates ``p.grad_sample``; the noise comes from a ``Source``."""

    def __init__(self, parameters: list[nn.Parameter], clip: float) -> None:
        super().__init__(
            torch.optim.SGD(parameters, lr=1.0),
            noise_multiplier=0.0,  # of Opacus' own noise, which is never drawn
            max_grad_norm=clip * (1 - _SLACK),
            expected_batch_size=None,
            loss_reduction="sum",
        )
        self.parameters = parameters
        self.source: Source | None = None
        self.std = 0.0
        self.released: NDArray[np.float64] | None = None

    def total(self) -> NDArray[np.float64]:
        """Return what was accumulated, flat."""
        parts: list[Tensor] = [p.summed_grad.reshape(-1) for p in self.parameters]  # type: ignore[attr-defined]
        return torch.cat(parts).to("cpu", torch.float64).numpy()

    def add_noise(self) -> None:
        """Add fresh noise to what was accumulated, once; the result is ``released``."""
        total = self.total()
        if self.std > 0:
            assert self.source is not None
            total = total + self.source.gaussian(len(total), self.std)
        self.released = total
        self.clear()  # a sum is released once

    def clear(self) -> None:
        """Forget gradients and sums; what ``zero_grad`` does, without torch's profiling around it."""
        for p in self.parameters:
            p.grad_sample = p.summed_grad = None  # type: ignore[attr-defined]


class PrivateStep:
    """The private gradient of one model under one plan, made once and called every step.

    Parameters
    ----------
    model
        ``forward(inputs: dict[str, Tensor], present: dict[str, Tensor]) -> (B, out)``. A model that satisfies
        ``LinearModel`` and has no other trainable parameters takes a shortcut.
    loss
        ``(outputs, targets) -> (B,)``, one loss per record that depends on no other record.
    plan
        Gives clip, unit and noise.

    Guarantee
    ---------
    Adding or removing one patient (record, if that is the unit) changes ``clipped_sum`` by at most the plan's
    clip in L2 norm, up to the rounding of a float32 sum, whatever the patient's records hold: their gradients
    are averaged and the average is clipped (Abadi et al. 2016). A gradient that is not finite counts as zero.
    An empty batch gives zeros, so ``release`` then gives pure noise. ``release`` adds the plan's ``noise_std``.

    Raises
    ------
    StudyError
        A batch norm is in training mode or a buffer changed (both mix patients outside the clip), nothing is
        trainable, or the loss is not one number per record.
    """

    def __init__(self, model: nn.Module, loss: Loss, plan: PrivacyPlan) -> None:
        self.model, self.loss, self.plan = model, loss, plan
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        if not named:
            raise StudyError("the model has no trainable parameters.")
        self._names = [name for name, _ in named]
        self._parameters = [p for _, p in named]
        self._norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._NormBase)]
        # torch 2.13's functional_call corrupts a module with aliased submodules: call it on a shell without data.
        self._shell = copy.deepcopy(model).to("meta")
        self._pairs = list(zip(self._shell.modules(), model.modules(), strict=True))
        self._clipper = _Clipper(self._parameters, plan.clip)
        self._per_record = vmap(grad(self._single), in_dims=(None, None, 0, 0, 0), randomness="different")
        self._linear = model if isinstance(model, LinearModel) and self._is_linear(model) else None
        self._shortcuts = 0
        self._chunk: int | None = None
        self._refuse_batchnorm()

    @property
    def size(self) -> int:
        """How many trainable parameters there are."""
        return sum(p.numel() for p in self._parameters)

    def clipped_sum(self, inputs: Tensors, present: Tensors, targets: Tensor, owner: NDArray[np.int64]) -> GradientSum:
        """Return the sum of the patients' clipped gradients, WITHOUT noise: it must not leave the site.

        Parameters
        ----------
        inputs, present
            Per modality the records' tensors, (R, ...) float32, and whether the record has it, (R,) bool.
        targets
            (R,), whatever the loss takes.
        owner
            (R,), the patient of each record, ascending.
        """
        found = self._accumulate(inputs, present, targets, owner)
        self._clipper.clear()
        return found

    def release(
        self,
        inputs: Tensors,
        present: Tensors,
        targets: Tensor,
        owner: NDArray[np.int64],
        source: Source,
        sites: int | None = None,
    ) -> GradientSum:
        """Return ``clipped_sum`` plus this site's noise when ``sites`` sites take part (all when not given)."""
        self._clipper.std = self.plan.noise_std(sites)  # first: a refusal computes nothing
        self._clipper.source = source
        found = self._accumulate(inputs, present, targets, owner)
        self._clipper.add_noise()
        noisy, self._clipper.released = self._clipper.released, None
        assert noisy is not None
        return GradientSum(noisy, found.contributors, found.dropped)

    @torch.no_grad()
    def descend(self, vector: NDArray[np.float64], rate: float) -> None:
        """Move the model's trainable parameters by ``-rate * vector``."""
        if vector.shape != (self.size,):
            raise ValueError("the vector does not fit the model")
        start = 0
        for p in self._parameters:
            part = torch.from_numpy(vector[start : start + p.numel()])
            p.sub_((rate * part).to(p.device, p.dtype).view_as(p))
            start += p.numel()

    def _accumulate(self, inputs: Tensors, present: Tensors, targets: Tensor, owner: NDArray[np.int64]) -> GradientSum:
        records = len(owner)
        for name, tensor in (("targets", targets), *inputs.items(), *present.items()):
            if len(tensor) != records:
                raise DataError(f"{name}: {len(tensor)} rows for {records} records.")
        if records and (owner[1:] < owner[:-1]).any():
            # A patient in two places would be clipped twice and weigh twice the clip.
            raise DataError("the records of a patient are not side by side: 'owner' must ascend.")
        self._refuse_batchnorm()
        buffers = [(b, b._version) for b in self.model.buffers()]
        for shell, real in self._pairs:
            shell.training = real.training
        if self.plan.unit == "record" or records == 0:
            starts = np.arange(records)
        else:
            starts = np.append(0, np.flatnonzero(owner[1:] != owner[:-1]) + 1)
        batch = (inputs, present, targets)
        dropped = self._add_up(batch, starts, records, screen=False)
        vector = self._clipper.total()
        if not np.isfinite(vector).all():
            dropped = self._add_up(batch, starts, records, screen=True)
            vector = self._clipper.total()
            if not np.isfinite(vector).all():
                raise StudyError("the sum of gradients overflows.", "Set a finite privacy.clip.")
        after = list(self.model.buffers())
        if len(after) != len(buffers) or any(
            b is not c or b._version != version for (b, version), c in zip(buffers, after, strict=True)
        ):
            raise StudyError(
                "the model changed one of its buffers while a gradient was computed: that would carry patients' data "
                "past the clip.",
                "Use layers without running statistics (GroupNorm, LayerNorm).",
            )
        return GradientSum(vector, len(starts) - dropped, dropped)

    def _add_up(
        self, batch: tuple[Tensors, Tensors, Tensor], starts: NDArray[np.int64], records: int, *, screen: bool
    ) -> int:
        """Fill ``summed_grad``; with ``screen`` leave out patients whose gradient is not finite, and count them."""
        self._clipper.clear()
        dropped = 0
        if records == 0:
            for p in self._parameters:
                p.summed_grad = torch.zeros_like(p)  # type: ignore[attr-defined]
            return dropped
        if self._chunk is None:
            self._chunk = max(1, MEMORY // self._bytes_per_record(_rows(batch, 0, 1)))
        ends = np.append(starts[1:], records)
        for first, last in _whole(starts, records, self._chunk):
            gradients = self._units(batch, starts[first:last], ends[first:last])
            if screen:
                norms = torch.stack([g.flatten(1).norm(dim=1) for g in gradients])
                bad = ~norms.norm(dim=0).isfinite()
                dropped += int(bad.sum())
                gradients = [g.masked_fill(bad.view(-1, *[1] * (g.ndim - 1)), 0.0) for g in gradients]
            for p, g in zip(self._parameters, gradients, strict=True):
                p.grad_sample = g  # type: ignore[attr-defined]
            self._clipper.clip_and_accumulate()
        return dropped

    def _units(
        self, batch: tuple[Tensors, Tensors, Tensor], starts: NDArray[np.int64], ends: NDArray[np.int64]
    ) -> list[Tensor]:
        """Return one gradient per patient, (patients, *parameter) each, records averaged."""
        low, high = int(starts[0]), int(ends[-1])
        assert self._chunk is not None
        if high - low == len(starts):
            return self._records(_rows(batch, low, high))
        counts = ends - starts
        device = self._parameters[0].device
        place = torch.from_numpy(np.repeat(np.arange(len(starts)), counts)).to(device)
        weight = torch.from_numpy((1.0 / counts).repeat(counts).astype(np.float32)).to(device)
        total = [p.new_zeros((len(starts), *p.shape)) for p in self._parameters]
        for start in range(low, high, self._chunk):  # more than once only for one patient with very many records
            stop = min(start + self._chunk, high)
            here, share = place[start - low : stop - low], weight[start - low : stop - low]
            for sums, g in zip(total, self._records(_rows(batch, start, stop)), strict=True):
                sums.index_add_(0, here, g * share.to(g.dtype).view(-1, *[1] * (g.ndim - 1)))
        return total

    def _records(self, batch: tuple[Tensors, Tensors, Tensor]) -> list[Tensor]:
        """Return one gradient per record, (records, *parameter) each."""
        if self._linear is None:
            return self._by_vmap(batch)
        found = self._by_outer_product(self._linear, batch)
        if len(batch[2]) > 1:
            # The shortcut trusts that records do not mix in loss and design. Look at steps 1, 2, 4, 8, ...
            self._shortcuts += 1
            if self._shortcuts & (self._shortcuts - 1) == 0:
                self._compare(found, self._by_vmap(batch))
        return found

    def _by_vmap(self, batch: tuple[Tensors, Tensors, Tensor]) -> list[Tensor]:
        parameters = {n: p.detach() for n, p in zip(self._names, self._parameters, strict=True)}
        constants = {n: p.detach() for n, p in self.model.named_parameters() if not p.requires_grad}
        constants.update(self.model.named_buffers())
        inputs, present, targets = batch
        gradients = self._per_record(parameters, constants, dict(inputs), dict(present), targets)
        return [gradients[name] for name in self._names]

    def _single(
        self, parameters: Tensors, constants: Tensors, inputs: Tensors, present: Tensors, target: Tensor
    ) -> Tensor:
        """Return the loss of one record; a batch of one cannot mix patients."""
        shell = {**parameters, **constants}
        one = ({k: v[None] for k, v in inputs.items()}, {k: v[None] for k, v in present.items()})
        return _one_each(self.loss(functional_call(self._shell, shell, one), target[None]), 1).sum()

    def _by_outer_product(self, model: LinearModel, batch: tuple[Tensors, Tensors, Tensor]) -> list[Tensor]:
        """Return per-record gradients of a linear layer: output gradient times input."""
        inputs, present, targets = batch
        with torch.no_grad():
            design = model.design(inputs, present)
            outputs = model.linear(design)
        with torch.enable_grad():
            outputs.requires_grad_()
            losses = _one_each(self.loss(outputs, targets), len(targets))
            (slope,) = torch.autograd.grad(losses.sum(), outputs)
        found = {"weight": slope[:, :, None] * design[:, None, :], "bias": slope}
        return [found[name.rpartition(".")[2]] for name in self._names]

    def _compare(self, found: list[Tensor], exact: list[Tensor]) -> None:
        for a, b in zip(found, exact, strict=True):
            finite = b.isfinite() & a.isfinite()
            size = float(torch.where(finite, b, torch.zeros_like(b)).abs().max())
            if not torch.allclose(a, b, rtol=1e-3, atol=1e-5 * size + 1e-12, equal_nan=True):
                raise StudyError(
                    "the gradient of a patient depends on the other patients of the batch, or 'design' is not what "
                    "the model computes.",
                    "Use a loss that looks at each record alone: no weights or means over the batch.",
                )

    def _is_linear(self, model: LinearModel) -> bool:
        own = list(model.linear.parameters())
        return (
            type(model.linear) is nn.Linear
            and len(own) == len(self._parameters)
            and all(any(p is q for q in own) for p in self._parameters)
        )

    def _bytes_per_record(self, batch: tuple[Tensors, Tensors, Tensor]) -> int:
        """Estimate what one record takes: its gradient (twice, for the clip) and what backward keeps."""
        kept = 0

        def count(tensor: Tensor) -> Tensor:
            nonlocal kept
            kept += tensor.numel() * tensor.element_size()
            return tensor

        inputs, present, _ = batch
        weights = sum(p.numel() * p.element_size() for p in self._parameters)
        state = {n: t.detach() for n, t in (*self.model.named_parameters(), *self.model.named_buffers())}
        state.update({n: state[n].requires_grad_() for n in self._names})
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            functional_call(self._shell, state, (dict(inputs), dict(present)))
        return max(1, 2 * weights + max(0, kept - weights))

    def _refuse_batchnorm(self) -> None:
        for module in self._norms:
            mixes = isinstance(module, nn.modules.batchnorm._BatchNorm)
            if module.training and (mixes or module.track_running_stats):
                raise StudyError(
                    f"{type(module).__name__} in training mode mixes patients and remembers them.",
                    "Replace it by GroupNorm, or put it into eval mode with public statistics.",
                )


def _one_each(losses: Tensor, records: int) -> Tensor:
    """Refuse a loss of another shape: (B, 1) against (B,) would broadcast to (B, B) and undo the clip."""
    if losses.shape != (records,):
        raise StudyError(
            f"the loss gives shape {tuple(losses.shape)} for {records} record(s), not one number per record.",
            "Return a tensor of one dimension; turn off the loss's own reduction.",
        )
    return losses


def _rows(batch: tuple[Tensors, Tensors, Tensor], start: int, stop: int) -> tuple[Tensors, Tensors, Tensor]:
    inputs, present, targets = batch
    if start == 0 and stop == len(targets):
        return batch
    return (
        {name: tensor[start:stop] for name, tensor in inputs.items()},
        {name: tensor[start:stop] for name, tensor in present.items()},
        targets[start:stop],
    )


def _whole(starts: NDArray[np.int64], records: int, size: int) -> Iterator[tuple[int, int]]:
    """Cut into runs of whole patients of at most ``size`` records together (or of one patient)."""
    if records <= size:
        yield 0, len(starts)
        return
    edges = np.append(starts, records)
    first = 0
    while first < len(starts):
        last = int(np.searchsorted(edges, edges[first] + size, side="right")) - 1
        last = max(last, first + 1)
        yield first, last
        first = last
