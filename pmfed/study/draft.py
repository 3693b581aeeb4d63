"""A study as it is being written: some of its numbers may still say "auto".

What "auto" stands for is worked out from the study's other numbers (`pmfed.methods.step_rule`), on the machine of whoever
writes it. A `Study`, which has a fingerprint and goes to sites, holds numbers only.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pmfed.errors import StudyError
from pmfed.study.automatic import AUTO, PLACES, Place, at, automatic
from pmfed.study.study import Study
from pmfed.validate import line_of, parse_toml

Numbers = Mapping[Place, float | int]


@dataclass(frozen=True)
class Draft:
    """A study with stand-ins where it says "auto".

    Parameters
    ----------
    study
        The study. Its numbers at ``asked`` mean nothing yet.
    asked
        The keys that say "auto", each as its path.
    """

    study: Study
    asked: tuple[Place, ...] = ()

    @classmethod
    def from_text(cls, text: str, name: str) -> Draft:
        """Read the text of a study.toml; ``name`` stands for the file in errors."""
        asked = asked_in(text)
        return cls(parse_toml(with_numbers(text, {place: PLACES[place] for place in asked}, name), Study, name), asked)

    def changed(self, **sections: dict[str, Any] | None) -> Draft:
        """Return a copy with some keys changed, as `Study.replace` does; a number takes the place of "auto", and "auto" of a number."""
        asked = automatic(sections)
        kept = [place for place in self.asked if at(sections, place[:2]) is None]  # `replace` goes no deeper
        filled = {name: _filled(changes, (name,)) for name, changes in sections.items()}
        return Draft(self.study.replace(**filled), tuple(place for place in PLACES if place in {*asked, *kept}))


def asked_in(text: str) -> tuple[Place, ...]:
    """Return the keys of a TOML text that say "auto"; none where it is no TOML, which its reader will say."""
    try:
        return automatic(tomllib.loads(text))
    except tomllib.TOMLDecodeError:
        return ()


def read_text(path: Path) -> str:
    """Return the text of a study.toml.

    Raises
    ------
    StudyError
        There is no such file, or it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise StudyError(f"{path}: there is no such file.", "Check the path.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(f"{path}: cannot be read ({error}).") from None


def with_numbers(text: str, numbers: Numbers, name: str) -> str:
    """Return a study.toml with numbers where it says "auto"; every other letter stays, comments too.

    Raises
    ------
    StudyError
        The word stands where it cannot be replaced safely: on another line than its key.
    """
    lines = text.splitlines(keepends=True)
    for place, number in numbers.items():
        line = line_of(text, place) - 1
        word = re.compile(rf"""(["']?\b{place[-1]}["']?\s*=\s*)("{AUTO}"|'{AUTO}')(?=(\s*#)?)""")
        if found := word.search(lines[line]):
            told = repr(number).ljust(len(found[2])) if found[3] else repr(number)  # comments stay in their column
            lines[line] = lines[line][: found.start(2)] + told + lines[line][found.end(2) :]
    written = "".join(lines)
    if numbers and any(at(tomllib.loads(written), place) != number for place, number in numbers.items()):
        places = ", ".join(".".join(place) for place in numbers)
        raise StudyError(f'{name}: cannot tell where "auto" stands for {places}.', 'Write key = "auto" on one line.')
    return written


def _filled(changes: Any, path: Place) -> Any:
    if not isinstance(changes, dict):
        return changes
    return dict(_items(changes, path))


def _items(changes: dict[str, Any], path: Place) -> Iterator[tuple[str, Any]]:
    for key, value in changes.items():
        here = (*path, key)
        yield key, PLACES[here] if here in PLACES and value == AUTO else _filled(value, here)
