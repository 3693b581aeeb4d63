"""Numbers as hospitals write them: with a unit in the cell, as a limit such as ``<10``, with commas.

One rule for every source. A number that could be two (``1,234``) is never guessed: the site says how its numbers are
written, or they are refused. A limit is kept as a limit: the study says what it counts as.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MISSING = frozenset({"", "NA", "N/A", "na", "n/a", "NaN", "nan", "NULL", "null", "<NA>", "#N/A", "None"})
"""What is written where nothing is known, whatever the source."""

BELOW, EXACT, ABOVE = -1, 0, 1
LIMITS = {
    "<": BELOW, "<=": BELOW, "=<": BELOW, "≤": BELOW, "⩽": BELOW, "&lt;": BELOW,
    ">": ABOVE, ">=": ABOVE, "=>": ABOVE, "≥": ABOVE, "⩾": ABOVE, "&gt;": ABOVE, "=": EXACT, "": EXACT,
}  # fmt: skip
"""Signs before a number, and comparators of FHIR."""

NO_NUMBER, RANGE, TWO_UNITS, SEMI = "no number", "a range", "two units", "a grade such as ++"
UNDECLARED = "a number with a comma or a blank whose meaning nobody declared"

_SIGNS = sorted((sign for sign in LIMITS if sign), key=len, reverse=True)
_BLANKS = "\u00a0\u2007\u202f\u2009"
_LIMIT = re.compile("(" + "|".join(map(re.escape, _SIGNS)) + r")?\s*(.*)", re.DOTALL)
_UNIT = re.compile(r"\s*[x×*]?\s*10\s?[*^eE]\s?\d", re.ASCII)  # 10*9/L after a number is its unit
_MORE = re.compile(r"[.,' ]\s*\d", re.ASCII)
_RANGE = re.compile(r"\s*(?:-|–|—|\.\.|to|bis|:|/)\s*[+-]?\d", re.ASCII)
_FLAG = re.compile(r"\s+\(?(?:HH|LL|[HLNA]|\*+|!+|\++|-+)\)?|\*+|!+")
_GRADE = re.compile(r"[+-]{1,4}|\(\+\)|\d?\s*\+{1,4}")


class Value(NamedTuple):
    """What a cell says: number (NaN for none), whether it is only a limit, the unit beside it, and why it is no number."""

    number: float
    limit: int = EXACT
    unit: str = ""
    why: str = ""


NOTHING = Value(math.nan)


@lru_cache(maxsize=1 << 16)
def read_value(text: str, decimal: str = ".", thousands: str = "", united: bool = False) -> Value:
    """Read a number.

    Parameters
    ----------
    text
        What is written.
    decimal, thousands
        How the site writes numbers; ``thousands`` "" for no mark.
    united
        Whether a column of its own holds the unit: then a letter after the number may be a laboratory's flag (``5.4 H``).

    Returns
    -------
    Value
        With ``why`` "" where there is a number or nothing is written.
    """
    text = text.strip().strip(_BLANKS).replace("\u2212", "-")
    if text in MISSING:
        return NOTHING
    sign, rest = _LIMIT.fullmatch(text).groups()  # type: ignore[union-attr]  # which matches anything
    for blank in _BLANKS:
        rest = rest.replace(blank, " ")
    if _GRADE.fullmatch(rest):
        return Value(math.nan, why=SEMI)
    match = _pattern(decimal, thousands).match(rest)
    if not match:
        return Value(math.nan, why=UNDECLARED if re.match(r"[+-]?[.,]\d", rest) else NO_NUMBER)
    after = rest[match.end() :]
    if _RANGE.match(after):
        return Value(math.nan, why=RANGE)
    if _MORE.match(after) and not _UNIT.match(after):
        return Value(math.nan, why=UNDECLARED)
    number = float(
        match[0].replace(thousands, "").replace(decimal, ".") if thousands else match[0].replace(decimal, ".")
    )
    unit = after.strip()
    if united and _FLAG.fullmatch(after):
        unit = ""
    if not math.isfinite(number) or (unit and not _like_unit(unit)):
        return Value(math.nan, why=NO_NUMBER)
    return Value(number, LIMITS[sign or ""], unit)


@lru_cache
def _pattern(decimal: str, thousands: str) -> re.Pattern[str]:
    grouped = rf"\d{{1,3}}(?:{re.escape(thousands)}\d{{3}})+|" if thousands else ""
    point = re.escape(decimal)
    return re.compile(
        rf"[+-]?(?=[\d{point}]*\d)(?:{grouped}\d+)?(?:{point}\d*)?(?:[eE][+-]?\d{{1,3}}(?!\d))?(?!\d)", re.ASCII
    )


def _like_unit(text: str) -> bool:
    """Return whether what stands after a number may be a unit: words of a remark are none."""
    words = text.split()
    remark = len(words) > 1 and any(word.isalpha() and len(word) > 4 for word in words)
    return len(text) <= 40 and len(words) <= 3 and not remark and not re.search(r"[;,?!]|^[.]|^[eE]\d", text)


@dataclass(frozen=True, eq=False, repr=False)
class Values:
    """N values.

    Attributes
    ----------
    number : (N,) float64
        NaN where there is none.
    limit : (N,) int64
        `BELOW`, `EXACT` or `ABOVE`.
    unit : (N,) int64
        Place in ``units`` of the unit written in the cell, "" for none.
    why : (N,) int64
        Place in ``reasons``: why something that is written is no number; 0 where there is one or nothing is written.
    """

    number: NDArray[np.float64]
    limit: NDArray[np.int64]
    unit: NDArray[np.int64]
    why: NDArray[np.int64]
    units: tuple[str, ...] = ("",)
    reasons: tuple[str, ...] = ("",)

    @classmethod
    def of(cls, number: NDArray[np.float64]) -> Values:
        """Return plain numbers; what is infinite is none."""
        zeros = np.zeros(len(number), dtype=np.int64)
        return cls(
            np.where(np.isfinite(number), number, np.nan),
            zeros,
            zeros,
            np.isinf(number).astype(np.int64),
            reasons=("", NO_NUMBER),
        )

    def take(self, rows: NDArray[np.int64]) -> Values:
        """Return some of them, or each as often as it is named."""
        return Values(self.number[rows], self.limit[rows], self.unit[rows], self.why[rows], self.units, self.reasons)

    def refused(self) -> NDArray[np.bool_]:
        """Return where a number could be read two ways."""
        return np.array([one == UNDECLARED for one in self.reasons], dtype=bool)[self.why]


def read_values(
    texts: Sequence[str], decimal: str = ".", thousands: str = "", united: bool = False, missing: Sequence[str] = ()
) -> Values:
    """Read many cells; those that are one of ``missing``, as text or as the same number (``-9``, ``-9.0``), hold nothing."""
    codes = {
        told.number
        for told in (read_value(code, decimal, thousands) for code in missing)
        if not math.isnan(told.number)
    }
    units: dict[str, int] = {"": 0}
    reasons: dict[str, int] = {"": 0}
    found = [NOTHING if text in missing else read_value(text, decimal, thousands, united) for text in texts]
    found = [NOTHING if one.number in codes and not one.limit and not one.unit else one for one in found]
    return Values(
        np.array([one.number for one in found], dtype=np.float64),
        np.array([one.limit for one in found], dtype=np.int64),
        np.array([units.setdefault(one.unit, len(units)) for one in found], dtype=np.int64),
        np.array([reasons.setdefault(one.why, len(reasons)) for one in found], dtype=np.int64),
        tuple(units),
        tuple(reasons),
    )
