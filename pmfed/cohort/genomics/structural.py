"""Structural alleles: which stretch of the genome each takes away or repeats, however it is written.

``<DEL>``, ``<DUP>``, ``<CNV>``, ``<CNn>`` and deletions in letters say what a chromosome that carries them has left. A
breakend only says which two ends are joined: a deletion, or one step of something larger. That is not guessed at.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from pmfed.cohort.genomics.builds import chromosome
from pmfed.cohort.genomics.outcomes import change
from pmfed.cohort.genomics.records import Record

_COPIES = re.compile(r"<(DEL|DUP|CNV|CN(\d{1,3}))(:[^>]*)?>")
_JOINED = re.compile(r"([^\[\]]*)([\[\]])(.+):(\d{1,10})[\[\]]([^\[\]]*)")
# Symbolic alleles that take nothing from the stretch they stand at, and add nothing to it.
_NEUTRAL = re.compile(r"<(?:INS|INV|TRA|CTX|BND|MEI?|NON_REF|\*)(?:[:_/][^>]*)?>|\*.*")
_LEFT = 0.1  # of a deletion in letters, at most this share of letters takes its place

BREAKENDS = "breakends around the regions"
OTHERS = "structural calls of other kinds over the regions"
INSERTED = "long sequences put in at the regions"
REPEATS = "tandem repeats over the regions"


@dataclass(frozen=True, slots=True)
class StructuralEvent:
    """What an allele does.

    Attributes
    ----------
    first, last : int
        The stretch.
    copies : float
        How many copies of it a chromosome with the allele has; NaN where the allele does not tell.
    doubt : str
        Why it does not tell, as a count's name; "" where the number of copies may stand elsewhere (CN).
    neutral : bool
        Passed over: it takes and adds no copy, or cannot be told to.
    """

    first: int
    last: int
    copies: float
    doubt: str = ""
    neutral: bool = False


class EndlessError(Exception):
    """A symbolic allele with neither END nor SVLEN."""


def events(record: Record, version: tuple[int, int]) -> list[StructuralEvent | None]:
    """Return what each ALT of a record does; None for one that changes no number of copies.

    Raises
    ------
    EndlessError
        A structural allele does not say where it ends.
    """
    found = [_event(record, place, one, version) for place, one in enumerate(record.alleles[1:])]
    if not found and "CN" in record.formats and record.last > record.place[1]:  # a segment without a change of its own
        return [StructuralEvent(record.place[1] + 1, record.last, math.nan)]
    return found


def _event(record: Record, place: int, alternative: str, version: tuple[int, int]) -> StructuralEvent | None:
    start = record.place[1]
    if "[" in alternative or "]" in alternative:
        return _joined(record, alternative)
    if alternative.isalpha():
        first, gone, come = change(start, record.alleles[0], alternative)
        if len(come) > len(gone):
            return StructuralEvent(first, first + len(come) - 1, math.nan, INSERTED, neutral=True)
        return StructuralEvent(first, first + len(gone) - 1, 0.0) if gone and len(come) <= _LEFT * len(gone) else None
    kind = _COPIES.fullmatch(alternative)
    if kind is None:
        if not alternative.startswith("<") or _NEUTRAL.fullmatch(alternative):
            return None
        end = _end(record, place, version)
        return None if end is None else StructuralEvent(start + 1, end, math.nan, OTHERS)
    end = _end(record, place, version)
    if end is None:
        raise EndlessError
    if kind[1] == "CNV" and kind[3] and kind[3].startswith(":TR"):
        return StructuralEvent(start + 1, end, math.nan, REPEATS, neutral=True)
    if kind[1] in ("DEL", "DUP") and _of(record.info("SVCLAIM"), place) == "J":
        return StructuralEvent(start + 1, end, math.nan, BREAKENDS)  # it claims an adjacency, no change of depth
    return StructuralEvent(start + 1, end, _left(record, place, kind))


def _left(record: Record, place: int, kind: re.Match[str]) -> float:
    """Return how many copies a chromosome with the allele has of its stretch."""
    if kind[2] is not None:
        return float(kind[2])
    told = _of(record.info("CN"), place) if kind[1] == "CNV" else None
    return {"DEL": 0.0, "DUP": 2.0}.get(kind[1], _number(told))


def _end(record: Record, place: int, version: tuple[int, int]) -> int | None:
    """Return the last base of an allele: from VCF 4.4, and with several alleles, SVLEN decides, otherwise END."""
    start, lengths = record.place[1], record.info("SVLEN")
    several = len(record.alleles) > 2
    if len(lengths) == len(record.alleles) - 1:
        length = abs(_number(lengths[place]))
    else:
        length = max((abs(_number(one)) for one in lengths if one), default=math.nan)
    ends = [_number(_of(record.info("END"), 0)), start + length]
    if version >= (4, 4) or (several and len(lengths) == len(record.alleles) - 1):
        ends.reverse()
    return next((int(one) for one in ends if one > start), None)


def _joined(record: Record, alternative: str) -> StructuralEvent | None:
    """Return the stretch between two joined ends, if they lie as those of a deletion or a repeat do."""
    found = _JOINED.fullmatch(alternative)
    if not found or chromosome(found[3]) != record.place[0] or bool(found[1]) == bool(found[5]):
        return None
    here, there = record.place[1], int(found[4])
    if (found[2] == "[") != bool(found[1]):
        return None  # the strands change: an inversion
    low, high = min(here, there), max(here, there)
    gone = (there > here) == bool(found[1])
    first, last = (low + 1, high - 1) if gone else (low, high)
    return StructuralEvent(first, last, math.nan, BREAKENDS) if first <= last else None


def _of(values: tuple[str | None, ...], place: int) -> str | None:
    """Return the value of one allele; a single one is of all."""
    return values[place if len(values) > 1 else 0] if len(values) > place or len(values) == 1 else None


def _number(text: str | None) -> float:
    try:
        return float(text) if text else math.nan
    except ValueError:
        return math.nan
