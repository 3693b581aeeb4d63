"""Fixed point: sums of noisy numbers as words of 32 (or 64) bits that add up modulo 2^32 (2^64).

Masks can only hide numbers of a finite ring, so what a site sends is rounded to multiples of ``unit`` and kept
modulo 2^32. A sum over sites is right as long as the true sum stays within 2^31 units on either side, whatever
order it is added up in and however often it wraps on the way. Cohorts too large for that get words of 64 bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pmfed.errors import PolicyError

Words = NDArray[np.uint32] | NDArray[np.uint64]
EXACT = 1 << 53  # whole numbers up to here are exact in float64


@dataclass(frozen=True)
class Grid:
    """Rounding to multiples of ``unit``, for sums over at most ``sites`` sites.

    Parameters
    ----------
    unit
        Width of a grid cell, in the units of the values.
    sites
        The most vectors that will be added up.
    bits
        Of a word.

    Guarantee
    ---------
    ``decode(add(encode(a), encode(b), ...))`` is the exact sum of the values rounded half to even, for up to
    ``sites`` vectors that ``encode`` accepted: each is below ``limit`` = floor((2^31 - 1) / sites) units, with 64 bits
    floor((2^53 - 1) / sites), where float64 ends.

    Noise comes first, rounding after, so what ONE site sends is a function of its noisy sum: rounding costs it
    nothing. A sum of several rounded vectors differs from the noisy sum by rounding errors; with a
    standard deviation of at least 2 units per site (``require_noise``) these are uniform and independent of the
    values up to exp(-8 pi^2) < 1e-34 (Widrow, Kollár 2008, characteristic function of quantisation noise),
    so they too are noise that knows nothing of the patients.
    """

    unit: float
    sites: int = 1
    bits: Literal[32, 64] = 32

    def __post_init__(self) -> None:
        if not 0 < self.unit < np.inf:
            raise ValueError("the unit of a grid is a finite number above 0")
        if self.sites < 1:
            raise ValueError("a grid needs at least one site")

    @property
    def limit(self) -> int:
        """The most units one site may send in a coordinate."""
        return (min(EXACT, 1 << (self.bits - 1)) - 1) // self.sites

    @property
    def word(self) -> type[np.uint32] | type[np.uint64]:
        """What a vector is made of."""
        return np.uint32 if self.bits == 32 else np.uint64

    @property
    def reach(self) -> float:
        """The largest value one site may send in a coordinate."""
        return self.limit * self.unit

    def encode(self, values: NDArray[np.float64]) -> Words:
        """Round values to the grid, half to even.

        Parameters
        ----------
        values
            float64, any shape.

        Returns
        -------
        numpy.ndarray
            uint32 or uint64, same shape; negative numbers wrap.

        Raises
        ------
        PolicyError
            A value is not finite or beyond the limit: the sum could overflow.
        """
        units = np.rint(np.asarray(values, np.float64) / self.unit)
        # Written so that NaN fails too.
        if units.size and not float(np.abs(units).max()) <= self.limit:
            raise PolicyError(
                f"a sum is not finite, or beyond the {self.limit * self.unit:.3g} that {self.sites} site(s) can add "
                "up without overflow. Nothing was released.",
                "Lower privacy.sampling_rate, so that fewer patients take part in a step.",
            )
        found: Words = units.astype(np.int64).astype(self.word)  # type: ignore[assignment]
        return found

    def add(self, total: NDArray[Any], other: NDArray[Any]) -> NDArray[Any]:
        """Return the sum modulo 2^bits. Both of the grid's words, same shape."""
        if total.dtype != self.word or other.dtype != self.word or total.shape != other.shape:
            raise ValueError(f"only {self.bits}-bit words of equal shape can be added up")
        found: NDArray[Any] = total + other
        return found

    def decode(self, total: NDArray[Any]) -> NDArray[np.float64]:
        """Return the values a sum stands for: float64, same shape."""
        if total.dtype != self.word:
            raise ValueError(f"a sum is made of {self.bits}-bit words")
        return total.view(np.int32 if self.bits == 32 else np.int64).astype(np.float64) * self.unit

    def require_noise(self, std: float) -> None:
        """Raise PolicyError unless one site's noise is at least 2 units, below which rounding could tell."""
        if not std >= 2 * self.unit:
            raise PolicyError(
                f"a site's noise of {std:.3g} is below 2 units of the grid ({2 * self.unit:.3g}). Nothing was released."
            )

    def patients(self, clip: float, largest_noise: float) -> int:
        """Return how many patients of weight ``clip`` one site may add up in a step with no overflow possible.

        Parameters
        ----------
        clip
            The most one patient adds to a coordinate.
        largest_noise
            The largest number the noise can be: ``noise.LARGEST`` standard deviations.

        Notes
        -----
        With C/4096 as unit and K sites that is 524,287 / K, less the noise.
        """
        return max(0, int((self.limit - 0.5 - largest_noise / self.unit) * self.unit / clip))


def roomy(unit: float, weight: float, patients: int, sites: int) -> Grid:
    """Return the smallest grid on which so many patients at one site would fit, with room for noise.

    Parameters
    ----------
    unit
        Width of a grid cell.
    weight
        The most one patient adds to one number of the sum.
    patients
        Expected over all sites: a public number.
    sites
        The most vectors that will be added up.
    """
    grid = Grid(unit, sites)
    return grid if 2 * patients <= grid.patients(weight, 0.0) else Grid(unit, sites, 64)
