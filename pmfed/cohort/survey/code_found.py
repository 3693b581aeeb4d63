"""A code that a source was found to hold."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CodeFound:
    """A code, what it is called, whether its events hold numbers, and the unit that most are in."""

    code: str
    words: str = ""
    measured: bool = False
    unit: str = ""
