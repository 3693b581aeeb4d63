"""What one column of outcomes holds, and how patients are counted by it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

QUARTERS = 4


@dataclass(frozen=True)
class Counted(ABC):
    """A column of outcomes: ``label`` and ``unit`` are for people."""

    label: str
    unit: str

    @abstractmethod
    def balance(self, values: npt.NDArray[Any]) -> list[tuple[str, int]]:
        """Return how many patients of the column's values (P,) fall into each class or part."""


@dataclass(frozen=True)
class OneOf(Counted):
    """One of several classes, by its place among them."""

    classes: tuple[str, ...]

    def balance(self, values: npt.NDArray[Any]) -> list[tuple[str, int]]:
        return [(name, int((values == place).sum())) for place, name in enumerate(self.classes)]


@dataclass(frozen=True)
class Quantity(Counted):
    """A number between public bounds."""

    minimum: float
    maximum: float

    def balance(self, values: npt.NDArray[Any]) -> list[tuple[str, int]]:
        edges = np.linspace(self.minimum, self.maximum, QUARTERS + 1)
        places = np.clip(np.digitize(values, edges) - 1, 0, QUARTERS - 1)
        return [
            (f"{low:g} to {high:g} {self.unit}".strip(), int((places == place).sum()))
            for place, (low, high) in enumerate(pairwise(edges))
        ]


@dataclass(frozen=True)
class Time(Counted):
    """A time until an event or the last look; the next column says which. ``intervals`` are public ends of pieces of it."""

    intervals: tuple[float, ...]

    def balance(self, values: npt.NDArray[Any]) -> list[tuple[str, int]]:
        return []


@dataclass(frozen=True)
class Event(OneOf):
    """Which of the two it was; tables count it with its time."""
