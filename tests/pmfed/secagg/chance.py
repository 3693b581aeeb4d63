"""Whether words look like chance: a chi-square over their bytes, and over each byte of a word by itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import chi2

LEAST = 1e-9
"""A p-value below this is no bad luck: a whole test run asks about a thousand times."""


def p_values(words: npt.NDArray[Any]) -> list[float]:
    """Return p-values of uniformity: all bytes together, then the first, second, ... byte of each word."""
    places = np.ascontiguousarray(words).view(np.uint8).reshape(-1, words.itemsize).T
    found = []
    for octets in (places.ravel(), *places):
        bins = 256 if octets.size >= 256 * 8 else 16
        counts = np.bincount(octets // (256 // bins), minlength=bins)
        expected = octets.size / bins
        found.append(float(chi2.sf(((counts - expected) ** 2 / expected).sum(), bins - 1)))
    return found


def uniform(words: npt.NDArray[Any]) -> None:
    """Fail unless the words pass for uniform ones."""
    assert min(p_values(words)) > LEAST


def spoken(words: npt.NDArray[Any]) -> None:
    """Fail unless the words say something: the opposite of `uniform`."""
    assert min(p_values(words)) < LEAST
