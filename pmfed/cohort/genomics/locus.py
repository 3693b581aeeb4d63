"""All records about one variant, put together: an allele may stand in a line of its own, or within a longer one.

``bcftools norm -m-`` writes the call T/G of a genome's C over two lines, ``1/0`` in that of T and ``0/1`` in that of G: in
either, 0 means "not this allele", and only both together say how much of the genome's is left.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pmfed.cohort.genomics.alleles import Fault, Match, match_record
from pmfed.cohort.genomics.calls import Bools, Floats
from pmfed.cohort.genomics.outcomes import (
    DELETED,
    OPEN,
    UNCLEAR,
    changes,
    direction,
    is_single,
    lists,
    outcomes,
    spelled,
)
from pmfed.cohort.genomics.parts import Counts, Part, Told
from pmfed.modality.genomics import PanelVariant

SLACK = 1e-3  # imputed dosages are rounded in text


@dataclass(frozen=True, repr=False)
class Settled:
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


def settle(variant: PanelVariant, at: int, parts: Sequence[Part]) -> Settled | Fault | Literal["twice"] | None:
    """Put the records of a variant together.

    Parameters
    ----------
    variant, at
        The panel's variant and its position.
    parts
        All records that cover it.

    Returns
    -------
    Settled, Fault, "twice" or None
        "twice" where two records list one allele and say different things of it; None where none is about the variant.
    """
    once: list[Part] = []
    for part in parts:
        if not any(part.repeats(other) for other in once):
            once.append(part)
    sought = None
    if not is_single(variant):
        sought = direction(variant, at, {one for part in once for one in changes(part.start, part.alleles)})
        if sought is None:
            return None
    told = [Told(part, outcomes(at, sought, part.start, part.alleles)) for part in once]
    listing = [one for one in told if lists(one.outcomes, sought is None and one.part.start == at)]
    about = [one for one in told if one.alters or one in listing]
    if not listing:
        return None
    if len({one.outcomes[0] for one in about}) > 1:
        return "others"  # the file's own records disagree on the genome's base
    pooled = tuple(dict.fromkeys(one for line in about for one in line.outcomes if one != UNCLEAR))
    match = match_record(
        variant.reference, variant.effect, pooled if sought is None else spelled(variant, at, sought, pooled)
    )
    if not isinstance(match, Match):
        return match
    if _listed_twice(about):
        return "twice"
    target = None if match.counted is None else pooled[match.counted]
    judges = _judges(target, pooled[0], listing)
    tally: Counter[str] = Counter()
    if failed := not any(one.part.passes for one in judges):
        dosages: Floats = np.full(len(judges[0].part.called), np.nan, dtype=np.float32)
    elif len(about) == 1 and _is_plain(about[0]):
        dosages = about[0].dosages(target)
    else:
        dosages = _counted(target, pooled[0], about, judges, at, tally)
    one_copy = None
    if not all(one.part.plain for one in judges):
        one_copy = (judges[0].part.copies == 1) & (judges[0].part.absent == 0)
    return Settled(dosages, match, one_copy, failed, tally, len(about), len(pooled), len(parts) - len(once))


def _listed_twice(about: Sequence[Told]) -> bool:
    """Return whether two records list the same change of the place."""
    silent = {DELETED, UNCLEAR, *OPEN}
    seen: Counter[object] = Counter()
    for one in about:
        found = zip(one.outcomes[1:], changes(one.part.start, one.part.alleles), strict=True)
        seen.update({what for outcome, what in found if outcome not in silent and outcome != one.outcomes[0]})
    return any(number > 1 for number in seen.values())


def _judges(target: str | None, base: str, listing: Sequence[Told]) -> list[Told]:
    """Return the records whose calls must be whole: those that list the counted allele; of REF, all that list others."""
    if target is not None and target != base:
        return [one for one in listing if target in one.outcomes]
    return [one for one in listing if one.alters] or list(listing)


def _is_plain(one: Told) -> bool:
    return one.part.plain and one.part.imputed is None and not one.part.doubts and UNCLEAR not in one.outcomes


def _counted(
    target: str | None, base: str, about: Sequence[Told], judges: Sequence[Told], at: int, tally: Counter[str]
) -> Floats:
    """Return dosages on the scale 0 to 2, NaN where they are not told."""
    copies = np.max([one.part.copies for one in judges], axis=0)
    size = len(copies)
    unclear, clash = np.zeros(size, dtype=bool), np.zeros(size, dtype=bool)
    sums: dict[str, Counts] = {}
    for one in about:
        unclear |= one.amount(UNCLEAR) > 0
        if not one.part.passes:  # what it says of others than REF is not known
            matters = one.altered() if target == base else one.amount(target) if target else np.zeros(size)
            unclear |= matters > 0
            continue
        for outcome in set(one.outcomes) - {base, UNCLEAR}:
            kind = f"{outcome}{one.part.start < at}" if outcome == DELETED else outcome
            amount = one.amount(outcome)
            before = sums.setdefault(kind, np.zeros(size))
            if outcome not in (DELETED, *OPEN):  # one allele in two records: the same copy, or another?
                clash |= (before > 0) & (amount > 0)
            before += amount
    # "*" and the deletion that it stands for are the same copies.
    gone = [sums.pop(kind) for kind in (f"{DELETED}True", f"{DELETED}False") if kind in sums]
    letters = sum(sums.values(), np.zeros(size))
    altered = letters + (np.max(gone, axis=0) if gone else 0)
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
