"""What one backward pass leaves behind: per layer enough to weigh patients without a gradient for each of them.

A layer that multiplies, ``y_t = W a_t`` at positions t, has the record gradient ``sum_t g_t a_t^T``. Its norm
follows from ``a`` and ``g`` alone, and the clipped sum over patients is one product of ``a`` with weighted ``g``
(Goodfellow 2015; Li et al. 2022; Bu et al. 2023). Where a gradient per record costs no more than that, it is
kept (``Dense``); where not, ``a`` and ``g`` are kept (``Product``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SLICE = 8 << 20
"""Bytes of intermediate results at a time while norms are computed: they should stay in the cache."""

ROUNDING = 1e-6
"""A norm found without the gradient is raised by this share of the sum of its terms' norms.

Terms of one patient may cancel. The gradient that is added up carries their float32 rounding, so a norm that
did not would let a patient of large, cancelling terms weigh more than the clip.
"""

Positions = Callable[[Tensor | slice], tuple[Tensor, Tensor]]
"""Some of the records -> inputs (n, groups, T, in) and output gradients (n, groups, T, out)."""


class Patients:
    """Which records are one patient's: the records of a page, side by side."""

    def __init__(self, starts: NDArray[np.int64], ends: NDArray[np.int64], device: torch.device) -> None:
        self.counts = ends - starts
        self.starts = starts - starts[0]
        self.size, self.records = len(starts), int(ends[-1] - starts[0])
        self.device = device
        first = int(self.counts[0])
        self.each = first if (self.counts == first).all() else None
        """How many records everybody has, None when that differs."""
        self.place = torch.from_numpy(np.repeat(np.arange(self.size), self.counts)).to(device)
        self.share = torch.from_numpy((1.0 / self.counts).repeat(self.counts).astype(np.float32)).to(device)

    def mean(self, values: Tensor) -> Tensor:
        """Return per-patient means (patients, ...) of values (records, ...)."""
        if self.each == 1:
            return values
        if self.each is not None:
            return values.reshape(self.size, self.each, *values.shape[1:]).mean(1)
        total = values.new_zeros((self.size, *values.shape[1:]))
        return total.index_add_(0, self.place, values * spread(self.share.to(values.dtype), values.ndim))

    def runs(self, most: int) -> Iterator[tuple[Tensor | slice, Tensor | slice, int, int]]:
        """Yield (patients, their records, how many patients, records of each), at most about ``most`` records."""
        if self.each is not None:
            step = max(1, most // self.each)
            for low in range(0, self.size, step):
                high = min(low + step, self.size)
                yield slice(low, high), slice(low * self.each, high * self.each), high - low, self.each
            return
        for count in np.unique(self.counts):
            chosen, step = np.flatnonzero(self.counts == count), max(1, most // int(count))
            for low in range(0, len(chosen), step):
                who = chosen[low : low + step]
                rows = (self.starts[who][:, None] + np.arange(count)).reshape(-1)
                yield torch.from_numpy(who).to(self.device), torch.from_numpy(rows).to(self.device), len(who), int(count)


class Entry(Protocol):
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
        patients: Patients,
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
        return self.weighted(weights.to(torch.float32)[self.patients.place] * self.patients.share)

    def bytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in self.kept)


class Rows:
    """Gradients of an embedding: only the rows that a patient looked up, added up per patient and row."""

    def __init__(self, index: int, patients: Patients, ids: Tensor, gradients: Tensor, shape: torch.Size) -> None:
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


def spread(values: Tensor, ndim: int) -> Tensor:
    """View (n,) as (n, 1, 1, ...)."""
    return values.view(-1, *[1] * (ndim - 1))


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
