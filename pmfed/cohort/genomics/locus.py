"""All records about one variant, put together: an allele may stand in a line of its own, or within a longer one.

``bcftools norm -m-`` writes the call T/G of a genome's C over two lines, ``1/0`` in that of T and ``0/1`` in that of G: in
either, 0 means "not this allele", and only both together say how much of the genome's is left.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from pmfed.cohort.genomics.alleles import Fault, Match, match_record
from pmfed.cohort.genomics.calls import Bools, Floats
from pmfed.cohort.genomics.outcomes import (
    DELETED,
    OPEN,
    UNCLEAR,
    Pair,
    changes,
    directions,
    is_single,
    lists,
    outcomes,
    spelled,
)
from pmfed.cohort.genomics.parts import AlleleRecord, Counts, PlacedAlleles

SLACK = 1e-3  # imputed dosages are rounded in text


Fail = Fault | Literal["twice", "either"]
Written = tuple[tuple[int, tuple[str, ...]], ...]  # position of each record from the variant's, its REF and every ALT


@dataclass(frozen=True)
class ResolvedVariant:
    """What the letters of records come to, whoever's calls they hold.

    Attributes
    ----------
    match : Match
        Which allele is counted, and on which strand.
    base : str
        What REF puts at the place.
    target : str or None
        The outcome that is counted; None where no record lists it.
    outcomes
        Of each record, what each of its alleles puts at the place; None where it is not about the variant.
    judges : tuple of int
        The records whose calls must be whole: those that list the counted allele; of REF, all that list others.
    alleles : int
        How many alleles the records list together.
    """

    match: Match
    base: str
    target: str | None
    outcomes: tuple[tuple[str, ...] | None, ...]
    judges: tuple[int, ...]
    alleles: int


@dataclass(frozen=True, repr=False)
class SettledLocus:
    """A variant as its records tell it.

    Attributes
    ----------
    dosages : (S,) float32
        How many of the counted allele each sample has, NaN where that is not told.
    match : Match
        Which allele was counted, and on which strand.
    one_copy : (S,) bool or None
        Whose call has one allele.
    failed : bool
        The record of the counted allele fails the study's rules; all dosages are NaN.
    tally : Counter
        What was seen, as counts of calls.
    several, alleles : int
        How many records are about the variant, and how many alleles they list.
    repeated : int
        Records left out because they say what another says.
    """

    dosages: Floats
    match: Match
    one_copy: Bools | None
    failed: bool
    tally: Counter[str]
    several: int
    alleles: int
    repeated: int


def settle(pair: Pair, at: int, parts: Sequence[AlleleRecord]) -> SettledLocus | Fail | None:
    """Put the records of a variant together.

    Parameters
    ----------
    pair, at
        The variant's alleles in the panel, and its position.
    parts
        All records that cover it.

    Returns
    -------
    Settled, Fault, "twice" or None
        "twice" where two records list one allele and say different things of it, "either" where a longer variant stands
        there both ways; None where no record is about the variant.
    """
    once = list(parts[:1])
    for part in parts[1:]:
        if not any(part.repeats(other) for other in once):
            once.append(part)
    found = read_letters(pair, tuple((part.start - at, part.alleles) for part in once))
    if not isinstance(found, ResolvedVariant):
        return found
    about = [PlacedAlleles(part, one) for part, one in zip(once, found.outcomes, strict=True) if one is not None]
    judges = [PlacedAlleles(once[place], found.outcomes[place] or ()) for place in found.judges]
    tally: Counter[str] = Counter()
    if failed := not any(one.part.passes for one in judges):
        dosages: Floats = np.full(len(judges[0].part.called), np.nan, dtype=np.float32)
    elif len(about) == 1 and about[0].is_plain:
        dosages = about[0].dosages(found.target)
    else:
        dosages = _counted(found.target, found.base, about, judges, at, tally)
    one_copy = None
    if not all(one.part.plain for one in judges):
        one_copy = (judges[0].part.copies == 1) & (judges[0].part.absent == 0)
    repeated = len(parts) - len(once)
    return SettledLocus(dosages, found.match, one_copy, failed, tally, len(about), found.alleles, repeated)


@lru_cache(maxsize=4096)
def read_letters(pair: Pair, records: Written) -> ResolvedVariant | Fail | None:
    """Return what the letters of the records that cover a variant come to."""
    sought = None
    if not is_single(pair):
        ways = directions(pair, 0, {one for record in records for one in changes(*record)})
        if len(ways) != 1:
            return "either" if ways else None
        sought = ways[0]
    told = [outcomes(0, sought, *record) for record in records]
    listing = [
        place
        for place, (one, (start, _)) in enumerate(zip(told, records, strict=True))
        if lists(one, begins_here=sought is None and start == 0)
    ]
    if not listing:
        return None
    base = told[listing[0]][0]
    if any(told[place][0] != base for place in listing):
        return "others"  # the file's own records disagree on the genome's base
    about = [
        one if one[0] == base and (len(set(one)) > 1 or place in listing) else None for place, one in enumerate(told)
    ]
    pooled = tuple(dict.fromkeys((base, *(one for line in about for one in line or () if one != UNCLEAR))))
    match = match_record(*pair, pooled if sought is None else spelled(pair, 0, sought, pooled))
    if not isinstance(match, Match):
        return match
    if _listed_twice(about, records):
        return "twice"
    target = None if match.counted is None else pooled[match.counted]
    if target is not None and target != base:
        judges = [place for place in listing if target in told[place]]
    else:
        judges = [place for place in listing if len(set(told[place])) > 1] or listing
    return ResolvedVariant(match, base, target, tuple(about), tuple(judges), len(pooled))


def _listed_twice(about: Sequence[tuple[str, ...] | None], records: Written) -> bool:
    """Return whether two records list the same change of the place."""
    silent = {DELETED, UNCLEAR, *OPEN}
    seen: Counter[object] = Counter()
    for told, record in zip(about, records, strict=True):
        if told is not None:
            found = zip(told[1:], changes(*record), strict=True)
            seen.update({what for outcome, what in found if outcome not in silent and outcome != told[0]})
    return any(number > 1 for number in seen.values())


def _counted(
    target: str | None,
    base: str,
    about: Sequence[PlacedAlleles],
    judges: Sequence[PlacedAlleles],
    at: int,
    tally: Counter[str],
) -> Floats:
    """Return dosages on the scale 0 to 2, NaN where they are not told."""
    copies = np.max([one.part.copies for one in judges], axis=0)
    size = len(copies)
    unclear, clash = np.zeros(size, dtype=bool), np.zeros(size, dtype=bool)
    sums: dict[str, Counts] = {}
    starred: Counts = np.zeros(size)
    for one in about:
        unclear |= one.amount(UNCLEAR) > 0
        if not one.part.passes:  # what it says of others than REF is not known
            matters = one.altered() if target == base else one.amount(target) if target else np.zeros(size)
            unclear |= matters > 0
            continue
        for outcome in set(one.outcomes) - {base, UNCLEAR}:
            amount = one.amount(outcome)
            if outcome == DELETED and one.part.start == at:  # "*" stands for a deletion that has a record of its own
                starred = np.maximum(starred, amount)
                continue
            before = sums.setdefault(outcome, np.zeros(size))
            if outcome not in (DELETED, *OPEN):  # one allele in two records: the same copy, or another?
                clash |= (before > 0) & (amount > 0)
            before += amount
    gone = np.maximum(starred, sums.pop(DELETED, 0.0))
    letters = sum(sums.values(), np.zeros(size))
    altered = letters + gone
    clash |= letters > copies + SLACK
    wanted = np.zeros(size) if target is None else copies - altered if target == base else sums[target].copy()
    half, lacking = np.zeros(size, dtype=bool), np.zeros(size, dtype=bool)
    for one in judges:
        if one.part.passes:
            left = one.part.absent - (altered - one.altered())  # others' alleles may stand as missing in this record
            lacking |= left > SLACK
            half |= (left > SLACK) & (one.part.absent < one.part.copies)
    several = (copies > 2) & ~lacking
    lacking |= copies == 0
    gaps = (
        ("calls half missing", half & lacking),
        ("calls of more than two copies", several),
        ("calls in letters that do not tell", unclear),
        ("calls that several records contradict", clash),
        ("calls missing", lacking),
    )
    found: Floats = (wanted * 2 / np.maximum(copies, 1)).clip(0, 2).astype(np.float32)
    for reason, here in gaps:
        _drop(found, here, reason, tally)
    for one in about:
        affected: Bools = np.ones(size, dtype=bool)
        if one not in judges:
            affected = one.altered() > 0 if target == base else np.zeros(size, dtype=bool)
        for rule, doubtful in one.part.doubts.items():
            _drop(found, doubtful & affected, rule, tally)
    return found


def _drop(dosages: Floats, here: Bools, reason: str, tally: Counter[str]) -> None:
    """Set to missing what is not so yet, and count it."""
    here = here & ~np.isnan(dosages)
    tally[reason] += int(here.sum())
    dosages[here] = np.nan
