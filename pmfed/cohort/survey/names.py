"""Which names of files, columns and codes may be shown and written: those that name something, and no patient."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from pmfed.cohort.contract.times import STYLES, span
from pmfed.plain import unfit

MANY = 10
"""Patients who share a word or a code before it may be shown: then it is a word of the hospital, and nobody's."""

_LONGEST = 100
_ALIKE = 20  # names of one form, digits and all: ids of samples or patients rather than names of columns
_UNSAFE = re.compile(r"""["'\\`$<>|\x00-\x1f]|^[-~. ]|\.\.""")
_NUMBER = re.compile(r"[+-]?[\d.,]+(?:[eE][+-]?\d+)?%?", re.ASCII)
_LONG_RUN = re.compile(r"\d{5}", re.ASCII)
_KEY = re.compile(r"[^a-z0-9_-]+")


def harmless(name: str) -> bool:
    """Return whether a name shows as it is, and nothing in it means anything to a shell, a page or a TOML file."""
    return bool(name.strip()) and name == name.strip() and not unfit(name, _LONGEST) and not _UNSAFE.search(name)


def like_a_value(name: str) -> bool:
    """Return whether what stands in a header is no name but a value: nothing, a number, a date, an address."""
    text = name.strip()
    return not text or bool(_NUMBER.fullmatch(text)) or "@" in text or any(span(text, style) for style in STYLES)


def names_something(name: str) -> bool:
    """Return whether a column's name may be shown: it is harmless, no value, and no id with a long run of digits."""
    return harmless(name) and not like_a_value(name) and not _LONG_RUN.search(name)


def ids_of(names: Sequence[str]) -> frozenset[str]:
    """Return which names of columns look like ids: many of one form with three digits or more (``HG00096``)."""
    forms = Counter(_form(name) for name in names)
    alike = {form for form, number in forms.items() if number >= _ALIKE and form.count("0") >= 3}
    return frozenset(name for name in names if _form(name) in alike)


def _form(name: str) -> str:
    return re.sub(r"[A-Z]", "A", re.sub(r"\d", "0", name.upper()))


def key_of(name: str, taken: Iterable[str] = ()) -> str:
    """Return the key of a study or the name of a source that a name makes, other than those ``taken``."""
    plain = _KEY.sub("-", name.lower()).strip("-_") or "column"
    plain, used, number = plain[:40].strip("-_"), set(taken), 2
    key = plain
    while key in used:
        key, number = f"{plain}-{number}", number + 1
    return key
