"""Checks of a table before its rows are read: its columns, and what separates them."""

from __future__ import annotations

import csv
import difflib
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pmfed.cohort.detected import SEPARATORS, proposal
from pmfed.errors import DataError


def split_line(line: str, separator: str) -> list[str]:
    """Return the fields of one line of text."""
    return next(csv.reader([line], delimiter=separator), [])


def check_separator(path: Path, first: str, separator: str, columns: Sequence[str]) -> None:
    """Refuse a table that is separated by something else than its name or its description says."""
    hits = {mark: len(set(columns) & set(split_line(first, mark))) for mark in SEPARATORS}
    best = max(hits, key=lambda mark: (hits[mark], mark == separator))
    if best != separator and hits[best] > hits.get(separator, 0):
        raise DataError(
            f"{path}: is separated by {SEPARATORS[best]}, where {SEPARATORS.get(separator, repr(separator))} are expected.",
            proposal(path) or "Save it as .csv with commas or as .tsv with tabs.",
        )


def check_columns(path: Path, header: Sequence[str], columns: Sequence[str], also: Sequence[str]) -> list[str]:
    """Return the columns to read. The header is not listed: a file without one shows a patient there."""
    there = Counter(header)
    missing = [name for name in columns if name not in there]
    if missing:
        named = []
        for name in missing:
            by_form = {_form(known): known for known in header}
            near = [by_form[_form(name)]] if _form(name) in by_form else []
            near = near or difflib.get_close_matches(name, header, n=1, cutoff=0.75)
            named.append(f"'{name}' (did you mean '{near[0]}'?)" if near else f"'{name}'")
        remedy = "Correct the column names in the table or in the study."
        if len(missing) == len(columns):
            remedy += " Is the first line of the file its header?"
        raise DataError(
            f"{path}: lacks {_count(len(missing), 'column')} that the study names: {', '.join(named)}; "
            f"the table has {_count(len(header), 'column')}.",
            remedy,
        )
    wanted = [*columns, *(name for name in dict.fromkeys(also) if name in there and name not in columns)]
    if twice := [name for name in wanted if there[name] > 1]:
        raise DataError(
            f"{path}: {'columns are' if len(twice) > 1 else 'a column is'} there more than once: "
            f"{', '.join(repr(name) for name in twice)}.",
            "Rename or remove one of them.",
        )
    return wanted


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _form(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold())
