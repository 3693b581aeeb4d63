"""Clipped gradient sums with one backward pass: norms from what each layer saw, then one product per layer.

Every record runs as a batch of one under ``vmap``, so nothing in the model or the loss can mix patients. The
weights stay shared: where a layer with a rule uses one, its inputs and output gradients are noted on a ``Page`` and
the gradient per record is never made, unless it is the cheaper thing to keep. Where anything else uses a trainable
parameter (a bare ``nn.Parameter``, an unknown layer, a parameter used twice), that parameter gets a copy per record
without memory of its own, and vmap and autograd give the gradient per record: exact for every model vmap can run.

Why the clip is ours here: Opacus' optimizer clips what lies in ``p.grad_sample``, a gradient per patient, and here
there is none. Its factor, ``min(1, C / (norm + 1e-6))``, is applied to the same norms; when all of a page is dense,
``grad_sample`` is filled and Opacus clips. The tests compare both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import vmap
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from pmfed.privacy.batches import Batch, BatchPatients, room, rows, spread
from pmfed.privacy.engine import layers, recurrent
from pmfed.privacy.engine.backward import Page, Shared
from pmfed.privacy.functional import Shell
from pmfed.privacy.precision import Precision

MEMORY = 32 << 20
"""Bytes that activations and noted gradients of one chunk may take: more leaves the cache."""

FEW = 32
"""Records that a chunk holds all the same while they fit into 24 times that: many small calls cost more."""

SAME = 0.05
"""What gradients may differ by and count as the same: the kink of one ReLU near zero moves a deep net by 0.002."""

FAINT = 1e-12
"""A gradient shorter than this is not compared: float32 has no digits left for the square of its length."""

RULES: dict[Any, Callable[..., Any]] = {
    functional.linear: layers.linear,
    functional.embedding: layers.embedding,
    functional.layer_norm: layers.layer_norm,
    functional.group_norm: layers.group_norm,
    functional.instance_norm: layers.instance_norm,
    torch.conv1d: layers.convolution(1),
    torch.conv2d: layers.convolution(2),
    torch.conv3d: layers.convolution(3),
    torch.conv_transpose1d: layers.transposed(1),
    torch.conv_transpose2d: layers.transposed(2),
    torch.conv_transpose3d: layers.transposed(3),
    torch.gru: recurrent.gru,
    torch.lstm: recurrent.lstm,
}

_LOOKS = frozenset(
    {"size", "dim", "ndimension", "numel", "nelement", "stride", "is_contiguous", "__len__", "get_device"}
)


class Unsupported(Exception):  # noqa: N818 - not an error: vmap takes over
    """Book-keeping cannot run this model; the message says why."""


class _Watch(TorchFunctionMode):
    """Sees every torch call of a forward pass, and sends those on trainable parameters to their rule."""

    def __init__(self, page: Page) -> None:
        super().__init__()
        self.page = page

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        found = {index for t in _tensors((*args, *kwargs.values())) if (index := self.page.find(t)) is not None}
        if not found and func not in (torch.gru, torch.lstm):  # these have no batching rule of torch's own
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name in _LOOKS:
            return func(*args, **kwargs)
        if name == "__get__":
            value = func(*args, **kwargs)
            if not isinstance(value, Tensor):
                return value  # a shape, a type, a device
        if self.page.claim(found) and func in RULES and self._fits(func, args, kwargs):
            value = RULES[func](self.page, *args, **kwargs)
            if value is not None:
                return value
        if func in (torch.gru, torch.lstm):
            raise Unsupported("a recurrent layer of packed sequences or with projections")
        return func(*self._copied(args), **{k: self._copied(v) for k, v in kwargs.items()})

    def _fits(self, func: Any, args: Any, kwargs: Any) -> bool:
        """Whether the layer's data is no parameter and its weights are the model's own, not computed from them."""
        count = 2 if func in (torch.gru, torch.lstm) else 1
        if len(args) < count or any(self.page.find(t) is not None for t in _tensors(args[:count])):
            return False
        return all(id(t) in self.page.own for t in _tensors((*args[count:], *kwargs.values())))

    def _copied(self, value: Any) -> Any:
        if isinstance(value, (tuple, list)):
            return type(value)(self._copied(v) for v in value)
        index = self.page.find(value) if isinstance(value, Tensor) else None
        return value if index is None else self.page.leaf(index)


class BookKeeper:
    """Book-keeping for one model and loss.

    Parameters
    ----------
    model
        Whose tensors are used.
    shell
        Its copy on the meta device, to be called with them.
    parameters
        The trainable ones by name, in order.
    loss
        ``(outputs (1, ...), targets (1, ...)) -> ()``: of one record.
    precision
        What layers with a rule round the operands of their products to.
    """

    def __init__(
        self, model: nn.Module, shell: Shell, parameters: Mapping[str, nn.Parameter],
        loss: Callable[..., Tensor], precision: Precision = "float32",
    ) -> None:  # fmt: skip
        self.model, self.shell, self.parameters, self.loss = model, shell, parameters, loss
        self.precision: Precision = precision
        self.chunk: int | None = None
        """Records that fit into ``MEMORY``, known after ``probe``."""
        self._shared: set[int] = set()

    def probe(self, record: Batch) -> Page:
        """Run one record, to see that the model can be run and what a record takes; sets ``chunk``."""
        own = {t.untyped_storage().data_ptr() for t in (*self.model.parameters(), *self.model.buffers())}
        kept: dict[int, int] = {}

        def count(tensor: Tensor) -> Tensor:
            place = tensor.untyped_storage().data_ptr()
            if place not in own:
                kept[place] = max(kept.get(place, 0), tensor.numel() * tensor.element_size())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            page = self.page(record, np.array([0]), np.array([1]))
        size = sum(kept.values()) + sum(entry.bytes() for entry in page.entries)
        memory = room(MEMORY, record[2].device)
        self.chunk = max(1, memory // max(1, size), min(FEW, 24 * memory // max(1, size)))
        return page

    def clipped(
        self, page: Page, batch: Batch, starts: NDArray[np.int64], ends: NDArray[np.int64], clip: float
    ) -> tuple[list[Tensor], int]:
        """Return the sum of the page's clipped gradients, and how many patients' were not finite and left out."""
        dropped = 0
        while not (good := (norms := page.norms()).isfinite()).all():
            # Once more without them: in a product a NaN spreads even at weight zero.
            keep = good.cpu().numpy()
            dropped += int((~keep).sum())
            if not keep.any():
                return [torch.zeros_like(p) for p in self.parameters.values()], dropped
            place = torch.from_numpy(np.repeat(keep, ends - starts)).to(good.device)
            inputs, present, targets = batch
            batch = (
                {name: t[place] for name, t in inputs.items()},
                {name: t[place] for name, t in present.items()},
                targets[place],
            )
            ends = np.cumsum((ends - starts)[keep])
            starts = np.append(0, ends[:-1])
            page = self.page(batch, starts, ends)
        return page.total((clip / (norms + 1e-6)).clamp(max=1.0)), dropped

    def check(self, batch: Batch, starts: NDArray[np.int64], ends: NDArray[np.int64], most: int = 2) -> None:
        """Compare with plain autograd, record by record, on two records: code that hides from Python shows here.

        Both in float32: rounding would hide a small error.
        """
        last = max(1, int(np.searchsorted(ends, most, side="right")))
        high = min(int(ends[last - 1]), most)
        some, starts, ends = rows(batch, 0, high), starts[:last], np.minimum(ends[:last], high)
        device = batch[2].device
        state = _random_state(device)
        page = self.page(some, starts, ends, "float32")
        if not torch.equal(state, _random_state(device)):
            return  # dropout: no two passes are the same
        exact = [page.patients.mean(g) for g in self._one_by_one(some)]
        with torch.no_grad():
            norms = torch.stack([g.flatten(1).norm(dim=1) for g in exact]).norm(dim=0).double()
            found = page.norms()
            if not (norms.isfinite() & found.isfinite()).all():
                return
            told = norms > FAINT
            weights = torch.where(told, 1 / norms, 0.0)
            totals = page.total(weights)
            truth = [torch.sum(g * spread(weights.to(g.dtype), g.ndim), 0) for g in exact]
            error = sum(float((a - b).double().square().sum()) for a, b in zip(totals, truth, strict=True)) ** 0.5
            missing = any(bool(b.any()) and not a.any() for a, b in zip(totals, truth, strict=True))
            if missing or error > SAME * len(norms) or (told & (found < (1 - SAME) * norms)).any():
                raise Unsupported("its gradients are not those of every record alone: some code hides from Python")

    def _one_by_one(self, batch: Batch) -> list[Tensor]:
        """Return gradients (records, *parameter) by plain autograd."""
        own = {name: p.detach().requires_grad_() for name, p in self.parameters.items()}
        state = {**self._constants(), **own}
        found = []
        with torch.enable_grad():
            for k in range(len(batch[2])):
                inputs, present, target = rows(batch, k, k + 1)
                losses = self.loss(self.shell(state, inputs, present), target)
                found.append(torch.autograd.grad(losses, list(own.values()), materialize_grads=True))
        return [torch.stack(parts) for parts in zip(*found, strict=True)]

    def _constants(self) -> dict[str, Tensor]:
        found = {name: t.detach() for name, t in self.model.named_parameters() if name not in self.parameters}
        return {**found, **dict(self.model.named_buffers())}

    def page(
        self, batch: Batch, starts: NDArray[np.int64], ends: NDArray[np.int64], precision: Precision | None = None
    ) -> Page:
        """Run forward and backward over whole patients.

        Parameters
        ----------
        batch
            The patients' records.
        starts, ends
            (patients,), where each patient's records lie.
        precision
            The book-keeper's own unless given.

        Raises
        ------
        Unsupported
            The model cannot be run this way.
        """
        while True:
            try:
                return self._page(batch, starts, ends, precision or self.precision)
            except Shared:  # now known, and there are only so many parameters
                continue

    def _page(
        self, batch: Batch, starts: NDArray[np.int64], ends: NDArray[np.int64], precision: Precision
    ) -> Page:  # fmt: skip
        detached = {name: p.detach() for name, p in self.parameters.items()}
        constants = self._constants()
        tensors = list(detached.values())
        patients = BatchPatients(starts, ends, tensors[0].device)
        page = Page(patients, tensors, constants.values(), self._shared, precision)

        def single(inputs: Mapping[str, Tensor], present: Mapping[str, Tensor], target: Tensor) -> Tensor:
            page.marker = target
            one = ({k: v[None] for k, v in inputs.items()}, {k: v[None] for k, v in present.items()})
            with _Watch(page):
                outputs = self.shell({**constants, **detached}, *one)
            page.marker = None
            return self.loss(outputs, target[None])

        inputs, present, targets = batch
        with torch.enable_grad():
            losses = vmap(single, randomness="different")(dict(inputs), dict(present), targets)
            if losses.requires_grad:
                torch.autograd.backward(losses.sum())
        page.close()
        return page


def _random_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _tensors(values: Any) -> list[Tensor]:
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (tuple, list)):
            found += _tensors(value)
    return found
