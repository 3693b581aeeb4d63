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

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.overrides import TorchFunctionMode

from pmfed.privacy import layers, recurrent
from pmfed.privacy.pages import ROUNDING, Dense, Entry, Patients, Positions, Product, keep_dense

MEMORY = 96 << 20
"""Bytes that activations and noted gradients of one chunk may take."""

Batch = tuple[Mapping[str, Tensor], Mapping[str, Tensor], Tensor]

RULES: dict[Any, Callable[..., Any]] = {
    F.linear: layers.linear,
    F.embedding: layers.embedding,
    F.layer_norm: layers.layer_norm,
    F.group_norm: layers.group_norm,
    F.instance_norm: layers.instance_norm,
    torch.conv1d: layers.convolution(1),
    torch.conv2d: layers.convolution(2),
    torch.conv3d: layers.convolution(3),
    torch.conv_transpose1d: layers.transposed(1),
    torch.conv_transpose2d: layers.transposed(2),
    torch.conv_transpose3d: layers.transposed(3),
    torch.gru: recurrent.gru,
    torch.lstm: recurrent.lstm,
}

_LOOKS = frozenset({"size", "dim", "ndimension", "numel", "nelement", "stride", "is_contiguous", "__len__", "get_device"})


class Unsupported(Exception):  # noqa: N818 - not an error: vmap takes over
    """Book-keeping cannot run this model; the message says why."""


class _Shared(Exception):  # noqa: N818
    """A parameter turned out to be used in two places."""


class Page:
    """One backward pass over some patients: what was noted of each parameter."""

    def __init__(self, patients: Patients, tracked: dict[int, int], parameters: Sequence[Tensor], shared: set[int]) -> None:
        self.patients, self.records = patients, patients.records
        self.entries: list[Entry] = []
        self.leaves: dict[int, Tensor] = {}
        self.anchor = torch.zeros((), device=patients.device, requires_grad=True)  # gives every layer a backward
        self.marker: Tensor | None = None
        self._tracked, self._parameters, self._shared = tracked, parameters, shared
        self._used: set[int] = set()

    def find(self, tensor: Tensor | None) -> int | None:
        """Return which trainable parameter this is, None for any other tensor."""
        return None if tensor is None else self._tracked.get(id(tensor))

    def claim(self, found: set[int]) -> bool:
        """Say whether a rule may take these parameters: not when something else uses them, too."""
        if found & (self._used - self._shared):
            self._shared |= found & self._used
            raise _Shared
        self._used |= found
        return not found & self._shared

    def enter(self, run: Callable[..., Any], *tensors: Tensor) -> Any:
        """Leave vmap: run on plain tensors, records first."""
        return _Enter.apply(run, self.marker, *tensors)

    def leaf(self, index: int) -> Tensor:
        """Return a parameter as a tensor of its own per record."""
        if index not in self.leaves:
            parameter = self._parameters[index]
            self.leaves[index] = parameter.expand(self.records, *parameter.shape).requires_grad_()
        found: Tensor = _Enter.apply(lambda: self.leaves[index], self.marker)
        return found

    def dense(self, index: int | None, gradients: Callable[[], Tensor]) -> None:
        """Note gradients (R, *parameter) of a trainable parameter."""
        if index is not None:
            self.entries.append(Dense(index, self.patients.mean(gradients())))

    def product(
        self,
        index: int,
        kept: tuple[Tensor, Tensor],
        positions: Positions,
        weighted: Callable[[Tensor], Tensor],
        gradients: Callable[[], Tensor],
        sizes: tuple[int, int, int, int] | None = None,
    ) -> None:
        """Note a weight that multiplies at (positions, groups, ins, outs): as gradients, or what they follow from."""
        a, g = kept
        length, groups, ins, outs = sizes or (a.shape[2], 1, a.shape[3], g.shape[3])
        if keep_dense(length, groups, ins, outs, self.records / self.patients.size):
            self.dense(index, gradients)
        else:
            size = a.element_size() * groups * length * (ins + outs)
            self.entries.append(Product(index, self.patients, kept, positions, weighted, size))

    def norms(self) -> Tensor:
        """Return an upper bound of every patient's gradient norm, float64: exact up to float32 rounding."""
        squares = terms = torch.zeros(self.patients.size, dtype=torch.float64, device=self.patients.device)
        for entry in self.entries:
            square, term = entry.norms()
            squares, terms = squares + square, terms + term
        return squares.sqrt() + ROUNDING * terms

    def stacked(self) -> list[Tensor] | None:
        """Return a gradient per patient and parameter, (patients, *parameter), when all of them are there."""
        if not all(isinstance(entry, Dense) for entry in self.entries):
            return None
        found: dict[int, Tensor] = {e.index: e.gradients for e in self.entries if isinstance(e, Dense)}
        return [
            found[k].view(-1, *p.shape) if k in found else p.new_zeros((self.patients.size, *p.shape))
            for k, p in enumerate(self._parameters)
        ]

    def total(self, weights: Tensor) -> list[Tensor]:
        """Return the weighted sum of the patients' gradients, one tensor per parameter."""
        found = {entry.index: entry.total(weights) for entry in self.entries}
        return [found[k].view_as(p) if k in found else torch.zeros_like(p) for k, p in enumerate(self._parameters)]


class _Enter(torch.autograd.Function):
    """From inside vmap to the tensors of all records, and back."""

    @staticmethod
    def forward(run: Any, marker: Tensor, *tensors: Tensor) -> Any:
        raise AssertionError("a rule runs under vmap only")

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Nothing: what runs inside has a backward of its own."""

    @staticmethod
    def vmap(info: Any, in_dims: Any, run: Any, marker: Tensor, *tensors: Tensor) -> Any:
        size = info.batch_size
        plain = [
            t.expand(size, *t.shape) if axis is None else t.movedim(axis, 0)
            for t, axis in zip(tensors, in_dims[2:], strict=True)
        ]
        found = run(*plain)
        return found, tuple(0 for _ in found) if isinstance(found, tuple) else 0


class _Watch(TorchFunctionMode):
    """Sees every torch call of a forward pass, and sends those on trainable parameters to their rule."""

    def __init__(self, page: Page) -> None:
        super().__init__()
        self.page = page

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        found = {index for t in _tensors((*args, *kwargs.values())) if (index := self.page.find(t)) is not None}
        if not found:
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name in _LOOKS:
            return func(*args, **kwargs)
        if name == "__get__":
            value = func(*args, **kwargs)
            if not isinstance(value, Tensor):
                return value  # a shape, a type, a device
        if func in RULES and self.page.claim(found):
            value = RULES[func](self.page, *args, **kwargs)
            if value is not None:
                return value
        elif func not in RULES:
            self.page.claim(found)
        if func in (torch.gru, torch.lstm):
            raise Unsupported("a recurrent layer of packed sequences or with projections")
        return func(*self._copied(args), **{k: self._copied(v) for k, v in kwargs.items()})

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
        ``(outputs (1, ...), targets (1,)) -> ()``: of one record.
    """

    def __init__(
        self, model: nn.Module, shell: nn.Module, parameters: Mapping[str, nn.Parameter], loss: Callable[..., Tensor]
    ) -> None:
        self.model, self.shell, self.parameters, self.loss = model, shell, parameters, loss
        self.chunk: int | None = None
        """Records that fit into ``MEMORY``, known after ``probe``."""
        self._shared: set[int] = set()

    def probe(self, record: Batch) -> Page:
        """Run one record, to see that the model can be run and what a record takes; sets ``chunk``."""
        own = {t.untyped_storage().data_ptr() for t in (*self.model.parameters(), *self.model.buffers())}
        kept: dict[int, int] = {}

        def count(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            page = self.page(record, np.array([0]), np.array([1]))
        size = sum(kept.values()) + sum(entry.bytes() for entry in page.entries)
        self.chunk = max(1, MEMORY // max(1, size))
        return page

    def page(self, batch: Batch, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> Page:
        """Run forward and backward over whole patients.

        Parameters
        ----------
        batch
            The patients' records.
        starts, ends
            (patients,), where each patient's records lie.

        Raises
        ------
        Unsupported
            The model cannot be run this way.
        """
        while True:
            try:
                return self._page(batch, starts, ends)
            except _Shared:  # now known, and there are only so many parameters
                continue

    def _page(self, batch: Batch, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> Page:
        detached = {name: p.detach() for name, p in self.parameters.items()}
        state = {name: t.detach() for name, t in self.model.named_parameters() if name not in detached}
        state.update(self.model.named_buffers())
        state.update(detached)
        tensors = list(detached.values())
        patients = Patients(starts, ends, tensors[0].device)
        page = Page(patients, {id(t): k for k, t in enumerate(tensors)}, tensors, self._shared)

        def single(inputs: Mapping[str, Tensor], present: Mapping[str, Tensor], target: Tensor) -> Tensor:
            page.marker = target
            one = ({k: v[None] for k, v in inputs.items()}, {k: v[None] for k, v in present.items()})
            with _Watch(page):
                outputs = functional_call(self.shell, state, one)
            page.marker = None
            return self.loss(outputs, target[None])

        inputs, present, targets = batch
        with torch.enable_grad():
            losses = vmap(single, randomness="different")(dict(inputs), dict(present), targets)
            if losses.requires_grad:
                losses.sum().backward()
        for index, leaf in page.leaves.items():
            if leaf.grad is not None:
                page.dense(index, lambda leaf=leaf: leaf.grad)  # type: ignore[misc]
        return page


def _tensors(values: Any) -> list[Tensor]:
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (tuple, list)):
            found += _tensors(value)
    return found
