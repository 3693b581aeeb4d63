"""Exact clipped gradient sums, patient by patient, and the noise on top.

Two strategies give the same sums: book-keeping (``bookkeeping.py``; one backward, norms from what each layer saw)
and per-record gradients from ``torch.func`` (chunked vmap), the reference. A model that is one linear layer takes
an outer product. The records of a patient are averaged; where there is a gradient per patient, Opacus' optimizer
clips it and adds it up; the noise is ours, because Opacus' secure mode needs a package that cannot be installed
any more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn
from torch.func import grad, vmap

from pmfed.errors import DataError, StudyError
from pmfed.privacy.batches import Batch, BatchPatients, Tensors, room, rows, spread, whole
from pmfed.privacy.engine.bookkeeping import BookKeeper, Unsupported
from pmfed.privacy.engine.shortcut import LinearModel, by_outer_product, check, is_linear, one_each
from pmfed.privacy.functional import Shell
from pmfed.privacy.mechanism import Mechanism
from pmfed.privacy.noise import Source
from pmfed.privacy.precision import Precision

Strategy = Literal["auto", "bookkeeping", "vmap"]
Loss = Callable[[Tensor, Tensor], Tensor]
"""(outputs (B, out), targets (B, ...)) -> one loss per record, (B,)."""

MEMORY = 32 << 20
"""Bytes that per-record gradients and activations of one chunk may take; small chunks stay in the cache."""

_SLACK = 1e-5  # float32 rounds: clip a little below C, so that no patient weighs more than C


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
        self.std: float | NDArray[np.float64] = 0.0
        self.released: NDArray[np.float64] | None = None

    def total(self) -> NDArray[np.float64]:
        """Return what was accumulated, flat, from whatever device; written in place, for a large model's sake."""
        found = np.empty(sum(p.numel() for p in self.parameters))
        start = 0
        for p in self.parameters:
            part: Tensor = p.summed_grad.reshape(-1)  # type: ignore[attr-defined]
            torch.from_numpy(found[start : start + p.numel()]).copy_(part)
            start += p.numel()
        return found

    def add_noise(self) -> None:
        """Add fresh noise to what was accumulated, once; the result is ``released``."""
        total = self.total()
        if isinstance(self.std, np.ndarray):
            assert self.source is not None
            total = total + self.source.gaussian(len(total), 1.0) * self.std
        elif self.std > 0:
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
    mechanism
        Gives bound (the clip), unit and noise.
    strategy
        "auto" keeps books where the model can be run so, which is known after the first batch; else vmap.
    stays
        Which numbers of the sum never leave the site, (parameters,) bool: they get the mechanism's ``local_std``.
    precision
        "bfloat16": where books are kept, linear layers and convolutions round what they multiply, forward and backward.
        All else is float32; so is everything where no books are kept (vmap, a linear model).

    Guarantee
    ---------
    Adding or removing one patient (record, if that is the unit) changes ``clipped_sum`` by at most the
    bound in L2 norm, up to the rounding of a float32 sum, whatever the patient's records hold: their gradients
    are averaged and the average is clipped (Abadi et al. 2016). A gradient that is not finite counts as zero.
    An empty batch gives zeros, so ``release`` then gives pure noise. ``release`` adds the mechanism's ``noise_std``, and
    to what stays at the site its ``local_std``. There is one clip, over all parameters together.

    Raises
    ------
    StudyError
        A batch norm is in training mode or a buffer changed (both mix patients outside the clip), nothing is
        trainable, the loss is not one number per record, or book-keeping was asked for and cannot run the model.
    """

    def __init__(
        self, model: nn.Module, loss: Loss, mechanism: Mechanism, strategy: Strategy = "auto",
        stays: NDArray[np.bool_] | None = None, precision: Precision = "float32",
    ) -> None:  # fmt: skip
        self.model, self.loss, self.mechanism, self.precision = model, loss, mechanism, precision
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        if not named:
            raise StudyError("the model has no trainable parameters.")
        self._names = [name for name, _ in named]
        self._parameters = [p for _, p in named]
        self._norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._NormBase)]
        self._shell = Shell(model)
        self._pairs = list(zip(self._shell.module.modules(), model.modules(), strict=True))
        self._clipper = _Clipper(self._parameters, mechanism.bound)
        self._per_record = vmap(grad(self._single), in_dims=(None, None, 0, 0, 0), randomness="different")
        shortcut = strategy == "auto" and isinstance(model, LinearModel) and is_linear(model, self._parameters)
        self._linear: LinearModel | None = model if shortcut else None  # type: ignore[assignment]
        self._keeper: BookKeeper | None = None
        if strategy != "vmap" and not shortcut:
            self._keeper = BookKeeper(model, self._shell, dict(named), self._of_one, precision)
        self._strategy = strategy
        self._stays = stays if stays is not None and stays.any() else None
        if self._stays is not None and (not mechanism.local or self._stays.shape != (self.size,)):
            raise StudyError(
                "the mechanism does not account for parameters that stay at the site, or they are not these."
            )
        self._passes = 0
        self._chunk: int | None = None  # records per pass
        self._most: int | None = None  # records whose gradients fit into memory
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
            (R, ...), whatever the loss takes.
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
        share = self.mechanism.noise_std(sites)  # first: a refusal computes nothing
        self._clipper.std = share
        if self._stays is not None and self.mechanism.private:
            self._clipper.std = np.where(self._stays, self.mechanism.local_std, share)
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
        if self.mechanism.unit == "record" or records == 0:
            starts = np.arange(records)
        else:
            starts = np.append(0, np.flatnonzero(owner[1:] != owner[:-1]) + 1)
        batch = (inputs, present, targets)
        dropped = self._fitted(batch, starts, records, screen=False)
        vector = self._clipper.total()
        if not np.isfinite(vector).all():
            dropped = self._fitted(batch, starts, records, screen=True)
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

    def _fitted(self, batch: Batch, starts: NDArray[np.int64], records: int, *, screen: bool) -> int:
        """Add up; where the device's memory does not do, begin anew with half as many records at a time.

        Anew, because a pass that failed may have added some parameters' gradients already: going on would count
        patients twice. The sum is the same whatever the chunk.
        """
        while True:
            try:
                return self._add_up(batch, starts, records, screen=screen)
            except torch.OutOfMemoryError:
                if self._chunk == 1:
                    self._clipper.clear()
                    raise StudyError(
                        f"the memory of {self._parameters[0].device} does not do for a single record.",
                        "Use a smaller network or smaller inputs, or another device in site.toml.",
                    ) from None
            # Out here the traceback is gone, and with it the tensors of the failed pass.
            self._clipper.clear()
            self._chunk = max(1, min(self._chunk or records, records) // 2)
            torch.cuda.empty_cache()

    def _add_up(self, batch: Batch, starts: NDArray[np.int64], records: int, *, screen: bool) -> int:
        """Fill ``summed_grad``; with ``screen`` leave out patients whose gradient is not finite, and count them."""
        self._clipper.clear()
        dropped, ends = 0, np.append(starts[1:], records)
        if records == 0:
            for p in self._parameters:
                p.summed_grad = torch.zeros_like(p)  # type: ignore[attr-defined]
            return dropped
        self._settle(batch, starts, ends)
        assert self._chunk is not None
        for first, last in whole(starts, records, self._chunk):
            low, high = int(starts[first]), int(ends[last - 1])
            some, begin, end = rows(batch, low, high), starts[first:last] - low, ends[first:last] - low
            if self._keeper is not None and high - low <= self._chunk:
                page = self._keeper.page(some, begin, end)
                gradients = page.stacked()
                if gradients is None:
                    totals, left_out = self._keeper.clipped(page, some, begin, end, self._clipper.max_grad_norm)
                    dropped += left_out
                    for p, total in zip(self._parameters, totals, strict=True):
                        p.summed_grad = total if p.summed_grad is None else p.summed_grad + total  # type: ignore[attr-defined]
                    continue
            else:
                gradients = self._units(some, begin, end)
            if screen:
                norms = torch.stack([g.flatten(1).norm(dim=1) for g in gradients])
                bad = ~norms.norm(dim=0).isfinite()
                dropped += int(bad.sum())
                gradients = [g.masked_fill(spread(bad, g.ndim), 0.0) for g in gradients]
            for p, g in zip(self._parameters, gradients, strict=True):
                p.grad_sample = g  # type: ignore[attr-defined]
            self._clipper.clip_and_accumulate()
        return dropped

    def _settle(self, batch: Batch, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> None:
        """Settle strategy and chunk at the first batch; see at steps 1, 2, 4, 8, ... that the books agree."""
        if self._keeper is not None:
            self._passes += 1
            try:
                if self._keeper.chunk is None:
                    self._keeper.probe(rows(batch, 0, 1))
                if self._passes & (self._passes - 1) == 0:
                    self._keeper.check(batch, starts, ends, min(2, self._chunk or 2))
            except torch.OutOfMemoryError:
                raise
            except (Unsupported, RuntimeError) as error:
                if self._strategy == "bookkeeping" or self._passes > 1:
                    raise StudyError(
                        f"book-keeping cannot run this model: {error}.", "Use the strategy 'vmap'."
                    ) from error
                self._keeper = None  # where vmap cannot either, it says so itself
        if self._chunk is None:
            self._chunk = self._keeper.chunk if self._keeper is not None else self._slice(batch)

    def _slice(self, batch: Batch) -> int:
        """Return how many records' gradients fit into memory."""
        if self._most is None:
            self._most = max(1, room(MEMORY, batch[2].device) // self._bytes_per_record(rows(batch, 0, 1)))
        return self._most if self._chunk is None else min(self._most, self._chunk)

    def _units(self, batch: Batch, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> list[Tensor]:
        """Return one gradient per patient, (patients, *parameter) each, records averaged."""
        records = len(batch[2])
        if records == len(starts):
            return self._records(batch)
        patients = BatchPatients(starts, ends, self._parameters[0].device)
        total = [p.new_zeros((len(starts), *p.shape)) for p in self._parameters]
        step = self._slice(batch)  # one slice, but for one patient with very many records
        for low in range(0, records, step):
            high = min(low + step, records)
            here, share = patients.place[low:high], patients.share[low:high]
            for sums, g in zip(total, self._records(rows(batch, low, high)), strict=True):
                sums.index_add_(0, here, g * spread(share.to(g.dtype), g.ndim))
        return total

    def _records(self, batch: Batch) -> list[Tensor]:
        """Return one gradient per record, (records, *parameter) each."""
        if self._linear is None:
            return self._by_vmap(batch)
        found = by_outer_product(self._linear, self._names, self.loss, batch)
        if len(batch[2]) > 1:
            # The shortcut trusts that records do not mix in loss and design. Look at steps 1, 2, 4, 8, ...
            self._passes += 1
            if self._passes & (self._passes - 1) == 0:
                check(self._linear, found, self._by_vmap(batch), self.loss, batch)
        return found

    def _by_vmap(self, batch: Batch) -> list[Tensor]:
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
        one = ({k: v[None] for k, v in inputs.items()}, {k: v[None] for k, v in present.items()})
        return self._of_one(self._shell({**parameters, **constants}, *one), target[None])

    def _of_one(self, outputs: Tensor, target: Tensor) -> Tensor:
        return one_each(self.loss(outputs, target), 1).sum()

    def _bytes_per_record(self, batch: Batch) -> int:
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
            self._shell(state, inputs, present)
        return max(1, 2 * weights + max(0, kept - weights))

    def _refuse_batchnorm(self) -> None:
        for module in self._norms:
            mixes = isinstance(module, nn.modules.batchnorm._BatchNorm)
            if module.training and (mixes or module.track_running_stats):
                raise StudyError(
                    f"{type(module).__name__} in training mode mixes patients and remembers them.",
                    "Replace it by GroupNorm, or put it into eval mode with public statistics.",
                )
