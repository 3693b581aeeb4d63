"""Which records a pass holds, and whose they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Tensors = Mapping[str, Tensor]
Batch = tuple[Tensors, Tensors, Tensor]
"""Inputs, present, targets."""


class BatchPatients:
    """Which records are one patient's: records lie side by side."""

    def __init__(self, starts: NDArray[np.int64], ends: NDArray[np.int64], device: torch.device) -> None:
        self.counts = ends - starts
        self.starts = starts - starts[0]
        self.size, self.records = len(starts), int(ends[-1] - starts[0])
        self.device = device
        first = int(self.counts[0])
        self.each = first if (self.counts == first).all() else None
        """How many records everybody has, None when that differs."""
        self.place = torch.from_numpy(np.repeat(np.arange(self.size), self.counts)).to(device)
        self.share = torch.from_numpy((1.0 / self.counts).repeat(self.counts)).to(device)

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
                yield (
                    torch.from_numpy(who).to(self.device),
                    torch.from_numpy(rows).to(self.device),
                    len(who),
                    int(count),
                )


def rows(batch: Batch, start: int, stop: int) -> Batch:
    """Return some of the records."""
    inputs, present, targets = batch
    if start == 0 and stop == len(targets):
        return batch
    return (
        {name: tensor[start:stop] for name, tensor in inputs.items()},
        {name: tensor[start:stop] for name, tensor in present.items()},
        targets[start:stop],
    )


def whole(starts: NDArray[np.int64], records: int, size: int) -> Iterator[tuple[int, int]]:
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


def spread(values: Tensor, ndim: int) -> Tensor:
    """View (n,) as (n, 1, 1, ...)."""
    return values.view(-1, *[1] * (ndim - 1))


def room(cache: int, device: torch.device) -> int:
    """Return how many bytes a pass may take: on a CPU what stays in its cache, on a GPU an eighth of what is free."""
    return max(cache, torch.cuda.mem_get_info(device)[0] // 8) if device.type == "cuda" else cache
