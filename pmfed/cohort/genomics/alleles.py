"""Alleles of a panel against alleles of a file: which of the file's is the counted one, and on which strand.

A panel may be written on either strand: ``G>A`` on one is ``C>T`` on the other. Letters alone tell which, but for
``A/T`` and ``C/G``, whose two strands look alike. Frequencies are never consulted: near one half they guess, and a
guess would depend on who the patients are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

_COMPLEMENT = {"A": "T", "C": "G", "G": "C", "T": "A"}

# "others": these letters are not the panel's. "ambiguous": the strand cannot be told.
Fault = Literal["others", "ambiguous"]


@dataclass(frozen=True)
class Match:
    """Where the counted allele stands in a record.

    Attributes
    ----------
    counted : int or None
        Its place among the record's alleles; None where the record does not list it, so that every called
        genotype has none of it.
    flipped : bool
        The panel is written on the other strand than the file.
    swapped : bool
        The counted allele is the file's reference (of PLINK: its second) allele.
    palindromic : bool
        Both strands look alike; the file was taken to be on the panel's.
    """

    counted: int | None
    flipped: bool = False
    swapped: bool = False
    palindromic: bool = False


@lru_cache(maxsize=4096)
def match_record(reference: str, effect: str, alleles: tuple[str, ...]) -> Match | Fault | None:
    """Find a panel's variant in a VCF record, whose first allele is the genome's.

    Parameters
    ----------
    reference, effect
        The panel's alleles; ``effect`` is counted.
    alleles
        REF and every ALT.

    Returns
    -------
    Match, Fault or None
        None where the record is about something else at the same position, such as a deletion beside a single
        base.
    """
    ref = alleles[0].upper()
    pairs = [_trimmed(ref, alt.upper()) if alt.isalpha() else None for alt in alleles[1:]]
    if len(reference) > 1 or len(effect) > 1:
        return _match_longer(reference, effect, pairs)
    singles = {pair[1]: place for place, pair in enumerate(pairs, 1) if pair and len(pair[0]) == len(pair[1]) == 1}
    plain = all(alt in (".", "*", "<*>", "<NON_REF>") for alt in alleles[1:])
    if not singles and not plain:
        return None
    base = ref[0]
    palindromic = _COMPLEMENT[reference] == effect
    if palindromic and base == effect:
        return "ambiguous"  # a swap on this strand, or no swap on the other: opposite dosages
    if base == reference:
        return Match(singles.get(effect), palindromic=palindromic)  # a third allele at this place is no contradiction
    flipped = base != effect
    ours, theirs = (_COMPLEMENT[reference], _COMPLEMENT[effect]) if flipped else (reference, effect)
    swapped = base == theirs
    # Four letters on two strands fit any reference base, so here the other allele must fit too.
    if base not in (ours, theirs) or not (plain or (ours if swapped else theirs) in singles):
        return "others"
    return Match(0 if swapped else singles.get(theirs), flipped, swapped)


@lru_cache(maxsize=4096)
def match_pair(reference: str, effect: str, first: str, second: str) -> Match | Fault | None:
    """Find a panel's variant in the two alleles of a PLINK .bim line, of which neither need be the genome's.

    An allele that no sample has is written ``0``. Returns None where no allele is known.
    """
    pair = (first.upper(), second.upper())
    known = {allele for allele in pair if allele not in ("0", ".", "")}
    if not known:
        return None
    ours = {reference, effect}
    if len(reference) > 1 or len(effect) > 1 or any(len(allele) > 1 for allele in known):
        if len(known) == 2:
            trimmed, panel = set(_trimmed(*pair)), set(_trimmed(reference, effect))
            if trimmed != panel:
                return "others"
            return _placed(pair, _of(pair, reference, effect), False, False)
        return _placed(pair, effect, False, False) if known <= ours else "others"
    palindromic = _COMPLEMENT[reference] == effect
    if known <= ours:
        return _placed(pair, effect, False, palindromic)
    if known <= {_COMPLEMENT[allele] for allele in ours}:
        return _placed(pair, _COMPLEMENT[effect], True, False)
    return "others"


def _of(pair: tuple[str, str], reference: str, effect: str) -> str:
    """Return the one of two alleles that is, trimmed against the other, the panel's counted one."""
    return pair[0] if _trimmed(pair[1], pair[0]) == _trimmed(reference, effect) else pair[1]


def _placed(pair: tuple[str, str], target: str, flipped: bool, palindromic: bool) -> Match:
    counted = pair.index(target) if target in pair else None
    return Match(counted, flipped, swapped=counted == 1, palindromic=palindromic)


def _match_longer(reference: str, effect: str, pairs: Sequence[tuple[str, str] | None]) -> Match | None:
    """Insertions, deletions and runs of bases: the same letters once what both alleles share at the end is cut off."""
    panel = _trimmed(reference, effect)
    for place, pair in enumerate(pairs, 1):
        if pair == panel:
            return Match(place)
        if pair == (panel[1], panel[0]):
            return Match(0, swapped=True)
    return None


def _trimmed(ref: str, alt: str) -> tuple[str, str]:
    """Cut off the end that two alleles share, keeping at least one letter: in ``CTT>CT`` and ``CT>C`` the same."""
    shared = 0
    while shared < min(len(ref), len(alt)) - 1 and ref[-1 - shared] == alt[-1 - shared]:
        shared += 1
    return ref[: len(ref) - shared], alt[: len(alt) - shared]
