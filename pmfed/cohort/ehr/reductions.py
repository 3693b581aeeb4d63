"""Many events to one number per cell, chunk after chunk, in memory that depends on the cells alone.

A cell is a record, or a step of a record. The result does not depend on the order of the events, but for the last bits
of a sum.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from pmfed.cohort.ehr.events import Floats, Ints

SPREAD = 0.01
"""Measurements that lie closer together than this share of the window have no trend."""


class Reduction(Protocol):
    """Takes events and gives one number per cell, NaN where there was none."""

    def add(self, cell: Ints, ago: Ints, value: Floats) -> None:
        """Take events: cell, seconds before the index date, value."""

    def result(self) -> Floats:
        """Return the numbers."""


class CountReduction:
    """How many events there were; 0 where none."""

    def __init__(self, cells: int) -> None:
        self.number = np.zeros(cells)

    def add(self, cell: Ints, ago: Ints, value: Floats) -> None:
        """Take events."""
        np.add.at(self.number, cell, 1.0)

    def result(self) -> Floats:
        """Return the numbers."""
        return self.number


class Ever(CountReduction):
    """Whether there was an event."""

    def result(self) -> Floats:
        """Return 0 or 1."""
        return np.minimum(self.number, 1.0)


class Mean:
    """The mean value."""

    def __init__(self, cells: int) -> None:
        self.number, self.total = np.zeros(cells), np.zeros(cells)

    def add(self, cell: Ints, ago: Ints, value: Floats) -> None:
        """Take events."""
        np.add.at(self.number, cell, 1.0)
        np.add.at(self.total, cell, value)

    def result(self) -> Floats:
        """Return the means."""
        out = np.full(len(self.total), np.nan)
        np.divide(self.total, self.number, out=out, where=self.number > 0)
        return out


class Extreme:
    """The smallest (``sign`` -1) or largest (``sign`` 1) value."""

    def __init__(self, cells: int, sign: int) -> None:
        self.sign, self.most = sign, np.full(cells, -np.inf)

    def add(self, cell: Ints, ago: Ints, value: Floats) -> None:
        """Take events."""
        np.maximum.at(self.most, cell, self.sign * value)

    def result(self) -> Floats:
        """Return the extremes."""
        return np.where(np.isinf(self.most), np.nan, self.sign * self.most)


class Last:
    """The latest value; the mean of several of the same moment."""

    def __init__(self, cells: int) -> None:
        self.nearest = np.full(cells, np.iinfo(np.int64).max)
        self.mean = Mean(cells)

    def add(self, cell: Ints, ago: Ints, value: Floats) -> None:
        """Take events."""
        before = self.nearest[cell]
        np.minimum.at(self.nearest, cell, ago)
        nearest = self.nearest[cell]
        overtaken = cell[nearest < before]
        self.mean.number[overtaken] = self.mean.total[overtaken] = 0.0
        latest = ago == nearest
        self.mean.add(cell[latest], ago[latest], value[latest])

    def result(self) -> Floats:
        """Return the latest values."""
        return self.mean.result()


class Trend:
    """The change over ``window`` seconds of the straight line fitted to the values by least squares."""

    def __init__(self, cells: int, window: float) -> None:
        self.window = window
        self.sums = np.zeros((5, cells))  # n, t, v, tt, tv; t runs from -1 to 0 over the window

    def add(self, cell: Ints, ago: Ints, value: Floats) -> None:
        """Take events."""
        t = -ago / self.window
        for place, term in enumerate((np.ones(len(t)), t, value, t * t, t * value)):
            np.add.at(self.sums[place], cell, term)

    def result(self) -> Floats:
        """Return the changes."""
        n, t, v, tt, tv = self.sums
        spread = n * tt - t * t  # n^2 times the variance of the times; two that lie d apart have d^2
        known = (n > 1) & (spread >= (SPREAD * n / 2) ** 2)
        out = np.full(len(n), np.nan)
        np.divide(n * tv - t * v, spread, out=out, where=known)
        return out


def reduction(value: str, cells: int, window: float) -> Reduction:
    """Return the reduction that a feature's ``value`` names."""
    if value == "minimum" or value == "maximum":
        return Extreme(cells, 1 if value == "maximum" else -1)
    if value == "trend":
        return Trend(cells, window)
    kinds: dict[str, type[CountReduction] | type[Mean] | type[Last]] = {
        "count": CountReduction,
        "ever": Ever,
        "mean": Mean,
        "last": Last,
    }
    return kinds[value](cells)
