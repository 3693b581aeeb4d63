"""What text from outside may hold, so that a terminal or a page shows it as what it is and nothing else.

Escape codes clear a screen and hide what is typed, bidirectional marks turn the order of letters round, characters without
a width hide in a name. Unicode counts all of them as not printable; the few blanks that it does not are listed here.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any

LONGEST = 1000  # characters of a text that has no bound of its own
MARKS = 3  # marks on one letter: no script needs more, and a pile of them covers the lines above
_BLANK = frozenset(
    map(chr, (0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x180B, 0x180C, 0x180D, 0x180F, 0x2800, 0x3164, 0xFFA0,
              *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)))
)  # fmt: skip
"""Fillers, joiners and selectors that are printable and show nothing."""


def unfit(text: str, longest: int = LONGEST) -> str:
    """Return why a text cannot be taken, without a word of it; empty when it can."""
    if len(text) > longest:
        return f"has {len(text):,} characters, and may have {longest:,}"
    place = next(_unseen(text), None)
    if place is None or text == "\t":  # by itself it hides nothing, and is what separates the columns of many tables
        return ""
    kind = "not assigned" if unicodedata.category(text[place]) == "Cn" else "a control character"
    name = unicodedata.name(text[place], kind)
    return f"holds U+{ord(text[place]):04X} ({name}) at place {place + 1}; only what shows as it is may be there"


def plain(text: str, longest: int = LONGEST) -> str:
    """Return a text as one line that a terminal may show: what does not show as it is, spelled out, the rest cut off."""
    shown = " ".join(text[: 4 * longest].split())
    bad = set(_unseen(shown))
    if bad:
        shown = "".join(_spelled(char) if place in bad else char for place, char in enumerate(shown))
    return shown if len(shown) <= longest and len(text) <= 4 * longest else shown[: longest - 1] + "…"


def plain_lines(text: str) -> str:
    """Return a text of several lines that a terminal may show; they stay lines, indented as they were."""
    return "\n".join(
        line if not unfit(line) else line[: len(line) - len(line.lstrip(" "))] + plain(line)
        for line in text.split("\n")
    )


def _unseen(text: str) -> Iterator[int]:
    """Yield the places of what does not show as it is."""
    if text.isascii() and text.isprintable():
        return
    marks = 0
    for place, char in enumerate(text):
        marks = marks + 1 if unicodedata.category(char) in ("Mn", "Me") else 0
        if not char.isprintable() or char in _BLANK or marks > MARKS:
            yield place


def _spelled(char: str) -> str:
    return char.encode("unicode_escape").decode() if ord(char) > 0x7E or ord(char) < 0x20 else f"\\x{ord(char):02x}"


def plain_tree(value: Any, longest: int = 4 * LONGEST) -> Any:
    """Return what JSON holds with every text in it, keys too, as `plain` gives it."""
    if isinstance(value, str):
        return plain(value, longest)
    if isinstance(value, Mapping):
        return {plain(str(key), longest): plain_tree(inner, longest) for key, inner in value.items()}
    return [plain_tree(inner, longest) for inner in value] if isinstance(value, list | tuple) else value
