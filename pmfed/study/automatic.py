"""Which numbers of a study may say "auto" while it is being written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

AUTO = "auto"

Place = tuple[str, ...]

PLACES: dict[Place, float | int] = {
    ("privacy", "clip"): 1.0,
    ("privacy", "sampling_rate"): 0.5,
    ("training", "rounds"): 100,
    ("training", "optimizer", "learning_rate"): 1.0,
    ("training", "optimizer", "intercept"): 1.0,
}
"""By key, a stand-in with which the rest of the study can be checked."""


def at(data: Mapping[str, Any], place: Place) -> Any:
    """Return what stands at a place of nested tables; None where nothing does."""
    found: Any = data
    for key in place:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def automatic(data: Mapping[str, Any]) -> tuple[Place, ...]:
    """Return the places of a study that say "auto"."""
    return tuple(place for place in PLACES if at(data, place) == AUTO)
