"""What one backward pass leaves behind: per layer enough to weigh patients without a gradient for each of them.

A layer that multiplies, ``y_t = W a_t`` at positions t, has the record gradient ``sum_t g_t a_t^T``. Its norm
follows from ``a`` and ``g`` alone, and the clipped sum over patients is one product of ``a`` with weighted ``g``
(Goodfellow 2015; Li et al. 2022; Bu et al. 2023). Where a gradient per record costs no more than that, it is
kept (``Dense``); where not, ``a`` and ``g`` are kept (``Product``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from pmfed.privacy.batches import BatchPatients
from pmfed.privacy.precision import Precision

SLICE = 8 << 20
"""Bytes of intermediate results at a time while norms are computed: they should stay in the cache."""

ROUNDING = 1e-6
"""A norm found without the gradient is raised by this share of the sum of its terms' norms.

Terms of one patient may cancel. The gradient that is added up carries their float32 rounding, so a norm that
did not would let a patient of large, cancelling terms weigh more than the clip.
"""

Positions = Callable[[Tensor | slice], tuple[Tensor, Tensor]]
"""Some of the records -> inputs (n, groups, T, in) and output gradients (n, groups, T, out)."""


class ParameterEntry(Protocol):
    """What is known of one parameter's gradient."""

    index: int
    """Of the parameter."""

    def norms(self) -> tuple[Tensor, Tensor]:
        """Return per patient the squared norm of the mean gradient and its terms' norms added up, float64."""

    def total(self, weights: Tensor) -> Tensor:
        """Return the sum of the patients' gradients times ``weights`` (patients,), flat or shaped."""

    def bytes(self) -> int:
        """Return the memory it holds."""


class Dense:
    """A gradient per patient, (patients, ...)."""

    def __init__(self, index: int, gradients: Tensor) -> None:
        self.index, self.gradients = index, gradients

    def norms(self) -> tuple[Tensor, Tensor]:
        flat = self.gradients.flatten(1)
        squares = torch.linalg.vector_norm(flat, dim=1).double().square()
        return squares, torch.zeros_like(squares)  # the very numbers that are added up: nothing cancels

    def total(self, weights: Tensor) -> Tensor:
        return weights.to(self.gradients.dtype) @ self.gradients.flatten(1)

    def bytes(self) -> int:
        return self.gradients.numel() * self.gradients.element_size()


class Product:
    """Inputs and output gradients of a layer that multiplies, for its weight of ``width`` inputs per output."""

    def __init__(
        self,
        index: int,
        patients: BatchPatients,
        kept: tuple[Tensor, Tensor],
        positions: Positions,
        weighted: Callable[[Tensor], Tensor],
        bytes_per_record: int,
    ) -> None:
        self.index, self.patients, self.kept = index, patients, kept
        self.positions, self.weighted = positions, weighted
        self.most = max(1, SLICE // max(1, bytes_per_record))

    def norms(self) -> tuple[Tensor, Tensor]:
        squares = torch.zeros(self.patients.size, dtype=torch.float64, device=self.patients.device)
        terms = torch.zeros_like(squares)
        for who, rows, people, count in self.patients.runs(self.most):
            a, g = (_merge(t, people, count) for t in self.positions(rows))
            a_norm, g_norm = (torch.linalg.vector_norm(t, dim=-1).double() for t in (a, g))
            each = a_norm * g_norm
            terms[who] = each.sum(dim=(1, 2)) / count
            length, ins, outs = a.shape[2], a.shape[3], g.shape[3]
            if length == 1:
                found = each.square().sum(dim=(1, 2))
            elif 3 * length * (ins + outs) < ins * outs:
                # Gram: sum over positions s, t of (a_s . a_t)(g_s . g_t). It cancels: float64.
                a, g = a.double(), g.double()
                found = ((a @ a.mT) * (g @ g.mT)).sum(dim=(1, 2, 3)).clamp_min(0)
            else:
                found = _squares(a, g)
            squares[who] = found / count**2
        return squares, terms

    def total(self, weights: Tensor) -> Tensor:
        return self.weighted(weights[self.patients.place] * self.patients.share)

    def bytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in self.kept)


class LookedUpRows:
    """Gradients of an embedding: only the rows that a patient looked up, added up per patient and row."""

    def __init__(self, index: int, patients: BatchPatients, ids: Tensor, gradients: Tensor, shape: torch.Size) -> None:
        self.index, self.patients, self.shape = index, patients, shape
        place = patients.place.view(-1, 1).expand_as(ids)
        keys, inverse = torch.unique(place * shape[0] + ids, return_inverse=True)
        self.who, self.row = keys // shape[0], keys % shape[0]
        scaled = gradients * patients.share.to(gradients.dtype).view(-1, 1, 1)
        self.rows = gradients.new_zeros((len(keys), shape[1]))
        self.rows.index_add_(0, inverse.reshape(-1), scaled.reshape(-1, shape[1]))

    def norms(self) -> tuple[Tensor, Tensor]:
        zeros = torch.zeros(self.patients.size, dtype=torch.float64, device=self.rows.device)
        each = torch.linalg.vector_norm(self.rows, dim=1).double().square()
        return zeros.index_add(0, self.who, each), zeros

    def total(self, weights: Tensor) -> Tensor:
        weighted = self.rows * weights.to(self.rows.dtype)[self.who, None]
        return self.rows.new_zeros(self.shape).index_add_(0, self.row, weighted)

    def bytes(self) -> int:
        return self.rows.numel() * self.rows.element_size()


class Shared(Exception):  # noqa: N818
    """A parameter turned out to be used in two places."""


class Page:
    """One backward pass over some patients: what was noted of each parameter."""

    def __init__(
        self, patients: BatchPatients, parameters: Sequence[Tensor], constants: Iterable[Tensor], shared: set[int],
        precision: Precision = "float32",
    ) -> None:  # fmt: skip
        self.patients, self.records = patients, patients.records
        self._low = precision == "bfloat16"
        self.entries: list[ParameterEntry] = []
        self._leaves: dict[int, Tensor] = {}
        self.anchor = torch.zeros((), device=patients.device, requires_grad=True)  # gives every layer a backward
        self.marker: Tensor | None = None
        self._tracked = {id(t): k for k, t in enumerate(parameters)}
        self.own = {*self._tracked, *map(id, constants)}
        self._parameters, self._shared = parameters, shared
        self._used: set[int] = set()

    def find(self, tensor: Tensor | None) -> int | None:
        """Return which trainable parameter this is, None for any other tensor."""
        return None if tensor is None else self._tracked.get(id(tensor))

    def claim(self, found: set[int]) -> bool:
        """Say whether a rule may take these parameters: not when something else uses them, too."""
        if found & (self._used - self._shared):
            self._shared |= found & self._used
            raise Shared
        self._used |= found
        return not found & self._shared

    def rounded(self, tensor: Tensor) -> Tensor:
        """Return an operand of a layer that multiplies, as the page's precision has it."""
        return tensor.to(torch.bfloat16) if self._low and tensor.dtype == torch.float32 else tensor

    def enter(self, run: Callable[..., Any], *tensors: Tensor) -> Any:
        """Leave vmap: run on plain tensors, records first."""
        return apply(_Enter, run, self.marker, *tensors)

    def leaf(self, index: int) -> Tensor:
        """Return a parameter as a tensor of its own per record."""

        def plain() -> Tensor:
            if index not in self._leaves:  # one for all uses: autograd adds them up
                self._leaves[index] = apply(_Leaf, self, self.anchor, index, self._parameters[index])
            return self._leaves[index]

        found: Tensor = self.enter(plain)
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
            size = full(a[:0]).element_size() * groups * length * (ins + outs)
            self.entries.append(Product(index, self.patients, kept, positions, weighted, size))

    def close(self) -> None:
        """Let go of the graph once backward is done."""
        self._leaves.clear()

    @torch.no_grad()
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

    @torch.no_grad()
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


class _Leaf(torch.autograd.Function):
    """A parameter, once per record, without memory of its own."""

    @staticmethod
    def forward(ctx: Any, page: Page, _: Tensor, index: int, parameter: Tensor) -> Tensor:
        ctx.page, ctx.index = page, index
        return parameter.expand(page.records, *parameter.shape)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        ctx.page.dense(ctx.index, lambda: g)
        return None, None, None, None


def full(tensor: Tensor) -> Tensor:
    """Return rounded numbers as float32, which holds them exactly: norms, weights and sums are made of these."""
    return tensor.float() if tensor.dtype == torch.bfloat16 else tensor


def apply(function: Any, *arguments: Any) -> Any:
    """Call a ``torch.autograd.Function``, whose types torch does not say."""
    return function.apply(*arguments)


def keep_dense(positions: int, groups: int, ins: int, outs: int, each: float) -> bool:
    """Whether a gradient per patient costs less than norms without it and a product afterwards.

    Seconds of one record, by what a core does: about 4e10 multiplications and 6e9 bytes a second; the norm of
    float64 positions costs about five times a float32 multiplication. ``each`` is the records per patient.
    """
    weights = groups * ins * outs
    dense = weights * (2e-11 * positions + 2e-9)
    gram = 1.3e-10 * groups * each * positions**2 * (ins + outs) if each * positions > 1 else 0.0
    materialised = weights * (7e-11 * positions + 1e-9)
    return dense < min(gram, materialised)


def _merge(tensor: Tensor, people: int, count: int) -> Tensor:
    """(people * count, groups, T, d) -> (people, groups, count * T, d): a patient's records are more positions."""
    if count == 1:
        return tensor
    _, groups, length, width = tensor.shape
    return tensor.reshape(people, count, groups, length, width).transpose(1, 2).reshape(people, groups, -1, width)


def _squares(a: Tensor, g: Tensor) -> Tensor:
    """Squared norms of the gradients themselves, some patients at a time."""
    step = max(1, SLICE // (4 * a.shape[1] * a.shape[3] * g.shape[3]))
    found = [
        torch.linalg.vector_norm(g[low : low + step].mT @ a[low : low + step], dim=(2, 3)).double().square().sum(1)
        for low in range(0, len(a), step)
    ]
    return torch.cat(found)
