"""What each allele of a record puts at the place of a panel's variant.

One change can be written in many ways: ``C>T`` is also ``CA>TA``, ``GC>GT`` one base earlier, or half of ``CA>TG``; a base
may be gone with a deletion that begins before it. So alleles are compared by what they change, once the letters that
both share are cut off.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

Pair = tuple[str, str]  # of the panel: the allele that is not counted, and the one that is

DELETED = "*"  # the base is gone, or another change than the panel's takes its place
UNCLEAR = "?"  # the letters do not tell
OPEN = ("<*>", "<NON_REF>")  # "any other allele", which nobody saw
_PLAIN = "ACGT*"
SAME, THERE = "=", "+"  # of longer variants: unchanged, and changed as the panel says


class Change(NamedTuple):
    """Letters that go and letters that come, from a position on; nothing goes where letters are put in before it."""

    first: int
    gone: str
    come: str


def change(start: int, reference: str, alternative: str) -> Change:
    """Return what an allele changes: what both share is cut off, at the end first, as indels are aligned to the left."""
    while reference and alternative and reference[-1] == alternative[-1]:
        reference, alternative = reference[:-1], alternative[:-1]
    shared = 0
    while shared < min(len(reference), len(alternative)) and reference[shared] == alternative[shared]:
        shared += 1
    return Change(start + shared, reference[shared:], alternative[shared:])


def anchor(pair: Pair, at: int) -> int:
    """Return the position that any record of a variant covers: its base, or the base before what goes or comes."""
    if is_single(pair):
        return at
    first, gone, come = change(at, *pair)
    return first if gone and come else first - 1


def is_single(pair: Pair) -> bool:
    """Return whether a variant is one base for another."""
    return len(pair[0]) == len(pair[1]) == 1


def changes(start: int, alleles: tuple[str, ...]) -> tuple[Change | None, ...]:
    """Return what each ALT of a record changes, None where it is not written in letters."""
    return tuple(change(start, alleles[0], one) if one.isalpha() else None for one in alleles[1:])


def directions(pair: Pair, at: int, seen: Collection[Change | None]) -> list[Change]:
    """Return a longer variant as the file has it, from the genome's allele to the other: none, one, or both ways."""
    return [one for one in _both(pair, at) if one in seen]


def spelled(pair: Pair, at: int, sought: Change, told: Collection[str]) -> tuple[str, ...]:
    """Return outcomes of a longer variant as alleles of one record."""
    words = dict(zip((SAME, THERE), pair if sought == _both(pair, at)[0] else pair[::-1], strict=True))
    return tuple(words.get(one, one) for one in told)


def _both(pair: Pair, at: int) -> tuple[Change, Change]:
    first, gone, come = change(at, *pair)
    return Change(first, gone, come), Change(first, come, gone)


def outcomes(at: int, sought: Change | None, start: int, alleles: tuple[str, ...]) -> tuple[str, ...]:
    """Return what each allele of a record puts at a variant's place, that of REF first.

    Parameters
    ----------
    at, sought
        The variant's position; of a longer one the change it is.
    start, alleles
        Position of the record, its REF and every ALT.

    Returns
    -------
    tuple of str
        Letters, or of a longer variant `SAME` and `THERE`; `DELETED`, `UNCLEAR` or one of `OPEN`.
    """
    if sought is not None:
        return (SAME, *(_whole(sought, start, alleles[0], one) for one in alleles[1:]))
    if at == start and all(len(one) == 1 and one in _PLAIN for one in alleles):
        return alleles
    base = alleles[0][at - start]
    return (base, *(_letter(at, start, alleles[0], one, base) for one in alleles[1:]))


def lists(told: tuple[str, ...], begins_here: bool) -> bool:
    """Return whether a record tells that somebody looked here for small variants, not only for what spans the place."""
    changed = set(told[1:]) - {told[0]}
    if changed - {DELETED, UNCLEAR, *OPEN}:
        return True
    return begins_here and len(changed) == len(set(told[1:])) and UNCLEAR not in changed


def _letter(at: int, start: int, reference: str, alternative: str, base: str) -> str:
    if alternative in OPEN:
        return alternative
    if alternative == "*":  # gone with a deletion further up, which need not reach beyond the first base
        return DELETED if at == start else UNCLEAR
    if "*" in alternative and len(alternative) == len(reference):  # some of its bases are gone
        letter = alternative[at - start]
        return DELETED if letter == "*" else letter
    if not alternative.isalpha():
        return UNCLEAR if alternative.startswith("*") else base  # structural: the base before it stays
    first, gone, come = change(start, reference, alternative)
    if not first <= at < first + len(gone):
        return base
    if len(gone) == len(come):
        letter = come[at - first]
        return letter if letter in "ACGT" else UNCLEAR
    return UNCLEAR if come else DELETED


def _whole(sought: Change, start: int, reference: str, alternative: str) -> str:
    if alternative in OPEN:
        return alternative
    if not alternative.isalpha():
        return DELETED if alternative.startswith("*") else SAME
    found = change(start, reference, alternative)
    if found == sought:
        return THERE
    return DELETED if _meet(sought, found) else SAME


def _meet(one: Change, other: Change) -> bool:
    """Return whether two changes touch the same bases, or put letters in at the same point."""
    if not one.gone and not other.gone:
        return one.first == other.first
    return one.first < other.first + len(other.gone) and other.first < one.first + len(one.gone)
