"""Lines of a VCF header: ``##KEY=<ID=...,Number=...,Description="...">``.

A description may hold commas, equal signs, and words that look like another field; so the fields are read one by one,
never searched for.
"""

from __future__ import annotations

import re

_LINE = re.compile(r"##([A-Za-z]+)=<(.*)>\s*")
_FIELD = re.compile(r'\s*([A-Za-z_][A-Za-z0-9_.]*)=("(?:[^"\\]|\\.)*"|[^,]*)(?:,|$)')
_PLACE = re.compile(r"(?:^|,)IDX=(\d{1,9})$")
_VERSION = re.compile(r"##fileformat=VCFv(\d)\.(\d{1,2})")


def version(text: str) -> tuple[int, int] | None:
    """Return the version that the first line of a header states, such as ``(4, 2)``."""
    found = _VERSION.match(text)
    return (int(found[1]), int(found[2])) if found else None


def fields(line: str) -> tuple[str, dict[str, str]] | None:
    """Return key and fields of a line, None where it has none.

    A field that is not written as it should be ends the reading, but for ``IDX``, which BCF puts last.
    """
    found = _LINE.fullmatch(line)
    if found is None:
        return None
    inner, at = found[2], 0
    told: dict[str, str] = {}
    while at < len(inner) and (field := _FIELD.match(inner, at)):
        told.setdefault(field[1], field[2].strip('"'))
        at = field.end()
    if "IDX" not in told and (place := _PLACE.search(inner)):
        told["IDX"] = place[1]
    return found[1], told
