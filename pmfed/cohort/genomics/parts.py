"""What one record says of a variant, sample by sample: copies of each of its alleles, and what is missing or doubtful."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pmfed.cohort.genomics.calls import Bools, Floats
from pmfed.cohort.genomics.outcomes import UNCLEAR
from pmfed.cohort.genomics.records import ABSENT, PADDING

Counts = NDArray[np.float64]
_FOLD = np.uint16(257)  # adds the lower of two bytes to the upper


@dataclass(frozen=True, repr=False, eq=False)
class AlleleRecord:
    """One record.

    Attributes
    ----------
    start, alleles
        Its position, REF and every ALT.
    passes : bool
        It meets the study's rules on records.
    called : (S, ploidy) int
        The alleles called, -1 for a missing one, -2 where a sample has fewer.
    plain : bool
        Every sample has two alleles called, and none is missing.
    imputed : (S, n) float or None
        Expected copies of each ALT, where the study asks for them; then calls tell only how many copies there are.
    doubts
        Calls that break a rule, by rule: (S,) bool each.
    """

    start: int
    alleles: tuple[str, ...]
    passes: bool
    called: NDArray[np.integer]
    plain: bool
    imputed: NDArray[np.float64] | None
    doubts: dict[str, Bools]

    @cached_property
    def copies(self) -> NDArray[np.integer]:
        """How many alleles each sample's call has, missing ones among them, (S,)."""
        return np.asarray((self.called != PADDING).sum(axis=1))

    @cached_property
    def absent(self) -> Counts:
        """How many of them are missing, (S,)."""
        if self.imputed is not None:
            return np.where(np.isnan(self.imputed).any(axis=1), self.copies, 0.0)
        absent: Counts = (self.called == ABSENT).sum(axis=1, dtype=np.float64)
        return absent

    @cached_property
    def doubtful(self) -> Bools:
        """Whose call breaks a rule, (S,)."""
        doubtful: Bools = np.zeros(len(self.called), dtype=bool)
        for one in self.doubts.values():
            doubtful |= one
        return doubtful

    def repeats(self, other: AlleleRecord) -> bool:
        """Return whether another record says the same."""
        return (
            (self.start, self.alleles, self.passes) == (other.start, other.alleles, other.passes)
            and np.array_equal(self.called, other.called)
            and np.array_equal(self.doubtful, other.doubtful)
            and (
                self.imputed is None
                or other.imputed is None
                or np.array_equal(self.imputed, other.imputed, equal_nan=True)
            )
        )


@dataclass(frozen=True, repr=False)
class PlacedAlleles:
    """A record, and what each of its alleles puts at the variant's place (`outcomes`)."""

    part: AlleleRecord
    outcomes: tuple[str, ...]

    @property
    def is_plain(self) -> bool:
        """Whether `dosages` tells all."""
        part = self.part
        return part.plain and part.imputed is None and not part.doubts and UNCLEAR not in self.outcomes

    def amount(self, outcome: str) -> Counts:
        """Return how many copies of what gives an outcome, other than REF's, each sample has, (S,)."""
        total: Counts = np.zeros(len(self.part.called))
        for place, one in enumerate(self.outcomes):
            if place and one == outcome:
                total += self._copies(place)
        return total

    def altered(self) -> Counts:
        """Return how many copies differ from REF at the place, (S,)."""
        total: Counts = np.zeros(len(self.part.called))
        for outcome in set(self.outcomes) - {self.outcomes[0]}:
            total += self.amount(outcome)
        return total

    def dosages(self, target: str | None) -> Floats:
        """Return how many copies give an outcome, where this record alone tells, every call is whole and has two alleles."""
        found: list[Floats] = []
        for place, one in enumerate(self.outcomes):
            if one == target:
                # Two truths side by side are one number of two bytes: folding it is faster than adding columns.
                pairs = np.ascontiguousarray(self.part.called == place).view(np.uint16)[:, 0]
                found.append((pairs * _FOLD >> 8).astype(np.float32))
        return sum(found[1:], found[0]) if found else np.zeros(len(self.part.called), dtype=np.float32)

    def _copies(self, place: int) -> Counts:
        if self.part.imputed is not None:
            return np.nan_to_num(self.part.imputed[:, place - 1])
        copies: Counts = (self.part.called == place).sum(axis=1, dtype=np.float64)
        return copies
