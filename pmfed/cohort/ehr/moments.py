"""Dates as hospitals write them into moments, so that nothing seems earlier than it was.

A date without a time of day may mean any moment of that day, a year any moment of that year. Every text becomes the
LAST second it may mean: an event that may have happened after the index date then counts as after it. An index date
itself becomes the FIRST second it may mean.
"""

from __future__ import annotations

import calendar
import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

Moments = NDArray[np.datetime64]

DAY = 86_400
NEVER = np.datetime64("NaT", "s")

_DATE = re.compile(
    r"(\d{4})(?:-(\d\d)(?:-(\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:[.,]\d+)?)?\s*(Z|z|[+-]\d\d(?::?\d\d)?)?)?)?)?",
    re.ASCII,
)
_EPOCH = datetime(1970, 1, 1)


def last_second(text: str, zone: ZoneInfo | None = None) -> int | None:
    """Return the last second a date may mean, as seconds since 1970 on the hospital's clock.

    Parameters
    ----------
    text
        ``2014``, ``2014-07``, ``2014-07-01`` or ``2014-07-01T13:05:00`` with or without seconds, fractions and an
        offset such as ``+02:00``.
    zone
        Where the hospital is. An instant with an offset is shown as its clock showed it; without ``zone`` the text is
        taken as that clock and the offset ignored.

    Returns
    -------
    int or None
        None when the text is no date.
    """
    return _second(text, zone, last=True)


def first_second(text: str, zone: ZoneInfo | None = None) -> int | None:
    """Return the first second a date may mean: of an index date, which no event of that day may then come before."""
    return _second(text, zone, last=False)


def _second(text: str, zone: ZoneInfo | None, last: bool) -> int | None:
    match = _DATE.fullmatch(text.strip())
    if not match:
        return None
    year, month, day, hour, minute, second, offset = match.groups()
    try:
        if second is not None and int(second) > 60:
            return None
        in_month = int(month or (12 if last else 1))
        on_day = int(day or (calendar.monthrange(int(year), in_month)[1] if last else 1))
        rest = (23, 59, 59) if last else (0, 0, 0)
        at_second = rest[2] if second is None else min(int(second), 59)  # a leap second is the minute's last
        when = datetime(int(year), in_month, on_day, int(hour or rest[0]), int(minute or rest[1]), at_second)
        if zone and offset:
            when = (when - _offset(offset)).replace(tzinfo=UTC).astimezone(zone).replace(tzinfo=None)
    except (ValueError, OverflowError):  # a 30th of February, a 13th month, year 0
        return None
    apart = when - _EPOCH
    return apart.days * DAY + apart.seconds


def _offset(text: str) -> timedelta:
    if text in "Zz":
        return timedelta()
    digits = text[1:].replace(":", "").ljust(4, "0")
    apart = timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
    return -apart if text[0] == "-" else apart


@lru_cache(maxsize=1 << 16)
def _cached(text: str, zone: ZoneInfo | None) -> int | None:
    return last_second(text, zone)


def last_seconds(texts: list[str], zone: ZoneInfo | None = None) -> Moments:
    """Return `last_second` of many texts, NaT where there is no date."""
    missing = np.iinfo(np.int64).min  # which is how NumPy writes NaT
    found = (_cached(text, zone) for text in texts)
    seconds = np.array([missing if one is None else one for one in found], dtype=np.int64)
    return seconds.view("datetime64[s]")


def middle(text: str) -> np.datetime64:
    """Return the middle of the days a date of birth may mean; NaT when it is none."""
    match = _DATE.fullmatch(text.strip())
    last = last_second(text)
    if match is None or last is None:
        return NEVER
    days = 365 if match.group(2) is None else 30 if match.group(3) is None else 0
    return np.datetime64(last // DAY * DAY - days // 2 * DAY, "s")


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
