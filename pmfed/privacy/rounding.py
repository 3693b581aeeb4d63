"""How an epsilon is written down: rounded up, so that no file promises more than was kept."""

from __future__ import annotations

import math


def rounded_up(value: float, digits: int = 4) -> float:
    """Return a bound with ``digits`` decimals, or as many digits where it is small, never below ``value``."""
    if not math.isfinite(value) or value <= 0:
        return value
    places = digits if value >= 1 else digits - 1 - math.floor(math.log10(value))
    found = round(math.ceil(value * 10.0**places * (1 - 1e-12)) / 10.0**places, places)
    return found if found >= value else math.nextafter(value, math.inf)
