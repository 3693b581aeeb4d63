"""Hours of the day in which a site computes, in the hospital's own time."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

SPELLED = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])-([01][0-9]|2[0-3]):([0-5][0-9])")


def span(spelled: str) -> tuple[int, int]:
    """Return the minutes of the day at which hours like ``20:00-06:00`` begin and end; ValueError when they are none."""
    match = SPELLED.fullmatch(spelled)
    if match is None:
        raise ValueError("hours are two times of a day, like '20:00-06:00'")
    begin, end = (60 * int(match[place]) + int(match[place + 1]) for place in (1, 3))
    if begin == end:
        raise ValueError("hours that begin when they end are none; leave them out to allow the whole day")
    return begin, end


def zone(name: str) -> ZoneInfo:
    """Return a time zone by its IANA name; ValueError when this machine does not know it."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ValueError(f"'{name}' is no time zone; name one like 'Europe/Berlin' or 'UTC'") from None


def within(spelled: str, name: str, moment: datetime) -> bool:
    """Whether a moment lies within hours: from the first minute on, up to and without the last; over midnight, too.

    Parameters
    ----------
    spelled, name
        The hours, and the time zone their clock is in. When clocks are put forward or back the hours follow them.
    moment
        With a time zone of its own.
    """
    there = moment.astimezone(UTC).astimezone(zone(name))
    minute, (begin, end) = 60 * there.hour + there.minute, span(spelled)
    return begin <= minute < end if begin < end else minute >= begin or minute < end
