"""Dates as hospitals write them into moments, so that nothing seems earlier than it was.

A date without a time of day may mean any moment of that day, a year any moment of that year, and so may midnight, which
is how programs store a day: every text becomes a `Span` of the seconds it may mean. An event counts from the LAST of
them, so that one that may have happened after the index date counts as after it; an index date counts from the FIRST.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Literal
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from pmfed.cohort.contract.numbers import MISSING

Moments = NDArray[np.datetime64]
Bools = NDArray[np.bool_]

DateStyle = Literal["iso", "day-first", "month-first", "compact", "spreadsheet"]
"""How dates are written: year first (always read), or what a site declares."""

DAY = 86_400
NEVER = np.datetime64("NaT", "s")
WEST, EAST = 12 * 3600, 14 * 3600  # how far clocks on Earth are behind and ahead of UTC

_TIME = r"(?:(?:T|,?\s+)(?P<hour>\d{1,2}):(?P<minute>\d\d)(?::(?P<second>\d\d)(?P<part>[.,]\d+)?)?\s*(?P<half>[AaPp]\.?[Mm]\.?)?)?"
_OFFSET = r"\s*(?P<offset>Z|z|UTC|GMT|[+-]\d\d(?::?\d\d)?)?(?:\[[\w/+-]+\])?"
_NAMES = {name: place for place, name in enumerate(calendar.month_abbr) if name}
_NAME = "|".join(_NAMES)
_ISO = re.compile(
    r"(?P<year>\d{4})(?:-(?P<month>\d\d)|(?P<mark>[-/.])(?P<month1>\d{1,2})(?P=mark)(?P<day1>\d{1,2})"
    + _TIME
    + _OFFSET
    + ")?",
    re.ASCII,
)
_WRITTEN: dict[str, tuple[re.Pattern[str], ...]] = {
    "day-first": (
        re.compile(r"(?P<day>\d{1,2})(?P<mark>[./-])(?P<month>\d{1,2})(?P=mark)(?P<year>\d{4})" + _TIME + _OFFSET, re.ASCII),
        re.compile(rf"(?P<day>\d{{1,2}})[\s./-]+(?P<name>{_NAME})[a-z]*\.?[\s./-]+(?P<year>\d{{4}})" + _TIME + _OFFSET, re.ASCII | re.IGNORECASE),
    ),
    "month-first": (
        re.compile(r"(?P<month>\d{1,2})(?P<mark>[./-])(?P<day>\d{1,2})(?P=mark)(?P<year>\d{4})" + _TIME + _OFFSET, re.ASCII),
        re.compile(rf"(?P<name>{_NAME})[a-z]*\.?\s+(?P<day>\d{{1,2}}),?\s+(?P<year>\d{{4}})" + _TIME + _OFFSET, re.ASCII | re.IGNORECASE),
    ),
    "compact": (
        re.compile(
            r"(?P<year>\d{4})(?P<month>\d\d)(?P<day>\d\d)(?:[T ]?(?P<hour>\d\d)(?P<minute>\d\d)(?:(?P<second>\d\d)(?P<part>[.,]\d+)?)?)?"
            + _OFFSET,
            re.ASCII,
        ),
    ),
}  # fmt: skip
_SERIAL = re.compile(r"(\d{1,7})(?:[.,](\d+))?", re.ASCII)
_SERIAL_ZERO = datetime(1899, 12, 30)  # of spreadsheets, whose 29 February 1900 never was
_EPOCH = datetime(1970, 1, 1)
STYLES: tuple[DateStyle, ...] = ("iso", "day-first", "month-first", "compact", "spreadsheet")


@dataclass(frozen=True)
class Span:
    """The seconds a written date may mean, on the hospital's clock, counted from 1970.

    Attributes
    ----------
    first, last
        The earliest and the latest of them.
    adrift
        Whether it is an instant with an offset and nobody said where the hospital is: then it may be any hour on Earth.
    """

    first: int
    last: int
    adrift: bool = False


@lru_cache(maxsize=1 << 16)
def span(text: str, style: str = "iso", zone: ZoneInfo | None = None) -> Span | None:
    """Return what a date may mean.

    Parameters
    ----------
    text
        ``2014``, ``2014-07``, ``2014-07-01``, ``2014-07-01T13:05:00``, with or without seconds, fractions and an
        offset such as ``+02:00``; or what ``style`` says. Two digits are never a year.
    style
        One of `STYLES`. What begins with the year is read whatever the style.
    zone
        Where the hospital is. An instant with an offset is shown as its clock showed it; without ``zone`` it may be any
        hour that some clock on Earth showed.

    Returns
    -------
    Span or None
        None when the text is no date, or one of another style.
    """
    text = text.strip()
    if style == "spreadsheet" and (serial := _serial(text)):
        return serial
    match = _ISO.fullmatch(text)
    for pattern in _WRITTEN.get(style, ()) if match is None or match["mark"] is None else ():
        match = pattern.fullmatch(text) or match
    return _span(match.groupdict(), zone) if match else None


def _span(found: dict[str, str | None], zone: ZoneInfo | None) -> Span | None:
    name = found.get("name")
    month = str(_NAMES[name.capitalize()]) if name else found.get("month1") or found.get("month")
    day = found.get("day1") or found.get("day")
    year = int(found["year"] or 0)
    try:
        if found.get("hour") is None:
            last_month = int(month or 12)
            last_day = int(day or calendar.monthrange(year, last_month)[1])
            first = datetime(year, int(month or 1), int(day or 1))
            return Span(_seconds(first), _seconds(datetime(year, last_month, last_day, 23, 59, 59)))
        assert month is not None
        assert day is not None
        return _instant(datetime(year, int(month), int(day)), found, zone)
    except (ValueError, OverflowError):  # a 30th of February, a 13th month, year 0
        return None


def _instant(day: datetime, found: dict[str, str | None], zone: ZoneInfo | None) -> Span | None:
    hour, minute, second = int(found["hour"] or 0), int(found["minute"] or 0), found.get("second")
    if half := found.get("half"):
        if not 1 <= hour <= 12:
            return None
        hour = hour % 12 + 12 * (half[0] in "Pp")
    if second is not None and int(second) > 60:
        return None
    if hour == 24 and minute == 0 and not int(second or 0):
        return Span(_seconds(day) + DAY - 1, _seconds(day) + DAY - 1)  # the end of that day
    second_of = None if second is None else min(int(second), 59)  # a leap second is the minute's last
    start = day.replace(hour=hour, minute=minute, second=second_of or 0)
    first = _seconds(start)
    last = first if second_of is not None else first + 59
    midnight = hour == minute == 0 and not second_of and not float((found.get("part") or "0").replace(",", "."))
    adrift = False
    if offset := found.get("offset"):
        utc = first - _offset(offset)
        if zone is None:
            first, last, adrift = utc - WEST, utc + EAST + (last - first), True
        else:
            shown = _EPOCH.replace(tzinfo=UTC) + timedelta(seconds=utc)
            there = _seconds(shown.astimezone(zone).replace(tzinfo=None))
            first, last = there, there + (last - first)
    if midnight:  # which is how programs write a day of unknown hour
        first, last = min(first, _seconds(day)), max(last, _seconds(day) + DAY - 1)
    return Span(first, last, adrift)


def _seconds(when: datetime) -> int:
    apart = when - _EPOCH
    return apart.days * DAY + apart.seconds


def _offset(text: str) -> int:
    if text.upper() in ("Z", "UTC", "GMT"):
        return 0
    digits = text[1:].replace(":", "").ljust(4, "0")
    apart = int(digits[:2]) * 3600 + int(digits[2:]) * 60
    return -apart if text[0] == "-" else apart


def _serial(text: str) -> Span | None:
    match = _SERIAL.fullmatch(text)
    if not match or not 1 <= int(match[1]) < 2_958_466:  # the year 10000
        return None
    day = _seconds(_SERIAL_ZERO + timedelta(days=int(match[1])))
    part = round(float(f"0.{match[2] or 0}") * DAY)
    return Span(day + part, day + part) if part else Span(day, day + DAY - 1)


@dataclass(frozen=True, eq=False, repr=False)
class Dated:
    """N written dates.

    Attributes
    ----------
    first, last : (N,) datetime64[s]
        The first and the last second each may mean; NaT where there is none.
    wrong : (N,) bool
        Where something is written that is no date.
    adrift : (N,) bool
        Where an offset is written and nobody said where the hospital is.
    """

    first: Moments
    last: Moments
    wrong: Bools
    adrift: Bools

    def take(self, rows: NDArray[np.int64]) -> Dated:
        """Return some of them, or each as often as it is named."""
        return Dated(self.first[rows], self.last[rows], self.wrong[rows], self.adrift[rows])


def dated(texts: Sequence[str], style: str = "iso", zone: ZoneInfo | None = None) -> Dated:
    """Return what many texts may mean; see `span`."""
    none = np.iinfo(np.int64).min  # which is how NumPy writes NaT
    spans = [span(text, style, zone) for text in texts]
    first = np.array([none if one is None else one.first for one in spans], dtype=np.int64)
    last = np.array([none if one is None else one.last for one in spans], dtype=np.int64)
    wrong = np.array(
        [one is None and text.strip() not in MISSING for one, text in zip(spans, texts, strict=True)], bool
    )
    adrift = np.array([one is not None and one.adrift for one in spans], dtype=bool)
    return Dated(first.view("datetime64[s]"), last.view("datetime64[s]"), wrong, adrift)


def of_epochs(days: NDArray[np.float64], instants: NDArray[np.float64], utc: bool, zone: ZoneInfo | None) -> Dated:
    """Return what days and instants of a database may mean.

    Parameters
    ----------
    days, instants : (N,) float64
        Seconds since 1970 of a date and of a date with a time; NaN where there is none. Midnight is a day.
    utc
        Whether the instants are a database's instants with a time zone, counted in UTC whatever zone it shows.
    zone
        Where the hospital is.
    """
    shown = instants.copy()
    adrift = np.zeros(len(instants), dtype=bool)
    known = np.isfinite(instants)
    timed = known & (instants % DAY != 0)
    early, late = shown.copy(), shown.copy()
    if utc and zone is not None:
        whole, place = np.unique(instants[known], return_inverse=True)
        there = [
            _seconds(datetime.fromtimestamp(one, UTC).astimezone(zone).replace(tzinfo=None)) for one in whole.tolist()
        ]
        shown[known] = np.array(there, dtype=np.float64)[place]
        timed = known & (shown % DAY != 0)
        early, late = shown.copy(), shown.copy()
    elif utc:
        adrift = known.copy()
        early, late = shown - WEST, shown + EAST
        timed = known
    whole_day = np.where(np.isnan(days), np.floor(shown / DAY) * DAY, np.floor(days / DAY) * DAY)
    first, last = np.where(timed, early, whole_day), np.where(timed, late, whole_day + DAY - 1)
    return Dated(_moments(first), _moments(last), np.zeros(len(days), dtype=bool), adrift & timed)


def _moments(seconds: NDArray[np.float64]) -> Moments:
    out = np.full(len(seconds), np.iinfo(np.int64).min)
    known = np.isfinite(seconds)
    out[known] = np.floor(seconds[known]).astype(np.int64)
    return out.view("datetime64[s]")


def guessed(texts: Iterable[str]) -> list[DateStyle]:
    """Return which styles read all of some texts that are no dates yet; none when no style does."""
    listed = list(texts)
    return [style for style in STYLES[1:] if listed and all(span(text, style) for text in listed)]


def middle(text: str, style: str = "iso") -> np.datetime64:
    """Return the middle of the days a date of birth may mean; NaT when it is none."""
    found = span(text, style)
    if found is None:
        return NEVER
    days = 0 if found.adrift else (found.last - found.first) // DAY
    return np.datetime64((found.last - (days + 1) // 2 * DAY * (days > 0)) // DAY * DAY, "s")


def from_offsets(offsets: NDArray[np.float64], unit: str) -> Moments:
    """Return offsets from a patient's own zero (an admission, say) as moments counted from 1970.

    Parameters
    ----------
    offsets
        How long after zero; NaN where unknown.
    unit
        ``seconds``, ``minutes``, ``hours`` or ``days``.
    """
    seconds = np.ceil(offsets * SECONDS[unit])
    known = np.isfinite(seconds) & (np.abs(seconds) < 1e11)
    out = np.full(len(offsets), NEVER)
    out[known] = seconds[known].astype(np.int64).astype("datetime64[s]")
    return out


SECONDS = {"seconds": 1.0, "minutes": 60.0, "hours": 3600.0, "days": float(DAY)}


def tomorrow() -> np.datetime64:
    """Return a moment that no honest record can be later than, wherever the hospital is."""
    return np.datetime64((datetime.now(UTC) + timedelta(days=1)).replace(tzinfo=None), "s")


def today() -> date:
    """Return today, by UTC: of what a period of validity is asked."""
    return datetime.now(UTC).date()
