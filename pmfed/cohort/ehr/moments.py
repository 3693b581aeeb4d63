"""Moments of health records: the contract's, under the name that readers of records know them by."""

from pmfed.cohort.contract.times import (
    DAY,
    NEVER,
    SECONDS,
    Moments,
    first_second,
    from_offsets,
    last_second,
    last_seconds,
    middle,
    tomorrow,
)

__all__ = [
    "DAY",
    "NEVER",
    "SECONDS",
    "Moments",
    "first_second",
    "from_offsets",
    "last_second",
    "last_seconds",
    "middle",
    "tomorrow",
]
