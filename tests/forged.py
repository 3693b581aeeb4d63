"""Words that would forge a page or a terminal, were they shown as they come."""

from __future__ import annotations

FORGED = {
    "a cleared screen": "Test.\x1b[2J\x1b[HPrice  epsilon 0.1\x1b[8m",
    "a window's title": "\x1b]0;approved\x07",
    "eight-bit codes": "a\x9b2Jb",
    "a carriage return": "epsilon 2.9\repsilon 0.1",
    "a backspace": "epsilon 2.9\b\b\b0.1",
    "a new line": "Test.\nPrice  epsilon 0.1",
    "a tab": "a\tb",
    "a line separator": "Test.\u2028Price  epsilon 0.1",
    "letters turned round": "epsilon \u202e9.2\u202c",
    "an isolate": "\u2066epsilon\u2069",
    "a right-to-left mark": "a\u200fb",
    "no width": "eps\u200bilon",
    "a joiner": "a\u2060b\u200d",
    "a byte order mark": "\ufeffa",
    "a soft hyphen": "a\u00adb",
    "a tag": "a\U000e0041b",
    "a selector": "a\ufe0fb",
    "a blank letter": "a\u3164b",
    "a blank pattern": "a\u2800b",
    "a space of another width": "a\u2003b",
    "a pile of marks": "a" + "\u0335" * 9,
    "for private use": "a\ue000b",
    "nothing at all": "a\x00b",
}
LONG = "x" * 200_000
TAGS = "<script>alert(1)</script><img src=https://evil.example/a.png onerror=alert(1)>\"'><base href=//evil.example>"
BAD = {char for text in FORGED.values() for char in text if not char.isprintable() or char in "\ufe0f\u3164\u2800"}


def clean(shown: str) -> bool:
    """Whether nothing of the forged words is left in what was shown but letters; lines may be there."""
    return not any(char in shown for char in BAD - {"\n"}) and "\u0335" * 4 not in shown
