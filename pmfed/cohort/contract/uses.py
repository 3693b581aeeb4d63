"""What became of the rows that a feature asks for: used, or passed over and why. Counts only, never a value.

Lost means that a value was there and could not be used. What was not measured, did not happen, is repeated, was replaced
by a newer version or lies outside the window is passed over, and nothing is lost by it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

LATER, EARLIER = "after the index date", "before the window"
NOT_MEASURED = "no value"
REPEATED, REPLACED, VOIDED = "the same record again", "an older version", "a version that was withdrawn"
NOT_DONE, NOT_THEIRS = "what did not happen", "about somebody else than the patient"
NO_PERSON = "of no patient"
NO_DATE, NO_ZONE = "no date", "an offset, and no time zone to show it in"
LIMIT, OUTSIDE = "only a limit", "outside the possible values"
UNIT, SYSTEM = "unknown unit", "unknown code system"
MODIFIED = "an extension that changes its meaning"

_KEPT = frozenset({LATER, EARLIER, NOT_MEASURED, REPEATED, REPLACED, VOIDED, NOT_DONE, NOT_THEIRS, NO_PERSON})
WARNED, MUCH = 0.1, 0.5
"""Shares of lost values above which a check warns, and above which a person has to accept them by name."""


@dataclass(frozen=True)
class Use:
    """What became of the rows of one feature in one source.

    Attributes
    ----------
    used
        Rows that count for a record, those among them that are only a limit included.
    limits, clamped
        How many of them are only a limit, taken as the value; and how many were brought within the bounds.
    passed
        Reason -> rows.
    constant
        Whether every record with a value has the same one.
    """

    used: int = 0
    limits: int = 0
    clamped: int = 0
    passed: Mapping[str, int] = field(default_factory=dict)
    constant: bool = False

    @property
    def lost(self) -> dict[str, int]:
        """Reasons by which values were lost, the most frequent first."""
        lost = {why: number for why, number in self.passed.items() if number and why not in _KEPT}
        return dict(sorted(lost.items(), key=lambda one: (-one[1], one[0])))

    @property
    def values(self) -> int:
        """How many values were there, lost or used."""
        return self.used + sum(self.lost.values())

    @property
    def share(self) -> float:
        """Share of the values there that were lost."""
        return sum(self.lost.values()) / max(self.values, 1)


def of_files(used: int, lost: Mapping[str, int], passed: Mapping[str, int] | None = None) -> Use:
    """Return what became of pictures, scans, waveforms or notes: how many are used, and why others are not."""
    every = {why: number for why, number in {**(passed or {}), **lost}.items() if number}
    return Use(used, passed=every)


def of_gaps(records: int, missing: Mapping[str, int], why: str = NOT_MEASURED) -> dict[str, Use]:
    """Return what became of the values of features of which only is known how many records lack each."""
    return {key: Use(records - gaps, passed={why: gaps} if gaps else {}) for key, gaps in missing.items()}


class Passed:
    """Counts what is passed over, per concept of a study and reason."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[int, str]] = Counter()

    def add(self, concepts: Iterable[int], why: str, number: int = 1) -> None:
        """Count rows that are some concepts."""
        for concept in concepts:
            self._counts[concept, why] += number

    def count(self, concepts: NDArray[np.int64], why: str) -> None:
        """Count rows by the concept each is."""
        for one, number in zip(*np.unique(concepts, return_counts=True), strict=True):
            self.add([int(one)], why, int(number))

    def of(self, concept: int) -> Counter[str]:
        """Return reason -> rows of a concept."""
        return Counter({why: number for (one, why), number in self._counts.items() if one == concept and number})


def constant(values: NDArray[np.float64]) -> bool:
    """Return whether ten or more values, NaN aside, are all the same."""
    known = values[~np.isnan(values)]
    return len(known) >= 10 and bool((known == known[0]).all())


def told(name: str, uses: Mapping[str, Use]) -> list[str]:
    """Return sentences about the features of a source: what was lost where it is much, and what is odd."""
    lines = []
    for key, use in uses.items():
        what = f"{name}: feature '{key}'"
        if use.share > WARNED:
            why = ", ".join(f"{reason}: {number:,}" for reason, number in use.lost.items())
            lost = sum(use.lost.values())
            lines.append(f"{what}: {lost:,} of {use.values:,} values lost, {use.share:.0%} ({why}).")
        if use.limits:
            lines.append(
                f"{what}: {use.limits:,} of {use.used:,} values are only a limit (<, >) and count as the limit."
            )
        if use.constant:
            lines.append(f"{what}: every record has the same value: it tells nothing here.")
    return lines
