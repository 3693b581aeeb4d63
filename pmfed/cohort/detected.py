"""How a table of text seems to be written: what a site is proposed to say of it in site.toml."""

from __future__ import annotations

import csv
import gzip
import io
import re
from pathlib import Path
from typing import IO

from pmfed.cohort.contract.numbers import UNDECLARED, read_value
from pmfed.cohort.contract.times import guessed, span
from pmfed.cohort.contract.written import PLAIN, Written, written_of
from pmfed.errors import DataError

SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "vertical bars"}

_PEEK = 1 << 20
_DATE = re.compile(r"\d{1,2}[./-]\d{1,2}[./-]\d{4}.*|\d{8}(\d{4}(\d\d)?)?", re.ASCII | re.DOTALL)


def is_utf8(encoding: str) -> bool:
    """Return whether a name of an encoding is UTF-8's."""
    return encoding.replace("_", "-").casefold() in ("utf-8", "utf8")


def named_separator(path: Path) -> str:
    """Return what separates the columns of a table by its name alone."""
    return "\t" if path.name.lower().removesuffix(".gz").endswith(".tsv") else ","


def is_text(path: Path) -> bool:
    """Return whether a table is one of text, by its name."""
    return path.name.lower().removesuffix(".gz").endswith((".csv", ".tsv"))


def open_text(path: Path, encoding: str) -> IO[str]:
    """Open a table of text, compressed or not."""
    opened = gzip.GzipFile(path) if path.suffix.lower() == ".gz" else path.open("rb")
    return io.TextIOWrapper(opened, encoding="utf-8-sig" if is_utf8(encoding) else encoding, newline="")


def proposal(path: Path) -> str:
    """Return the line for site.toml that describes a table as it seems to be written; "" when nothing is to be told."""
    if not is_text(path):
        return ""
    try:
        found = detect(path)
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, DataError):
        return ""
    told = {name: value for name in Written.model_fields if (value := getattr(found, name)) != getattr(PLAIN, name)}
    if not told:
        return ""
    listed = ", ".join(f'{name} = "{_escaped(str(value))}"' for name, value in told.items())
    return f'If that is right, say so in [data] of site.toml: {{ file = "{path.name}", {listed} }}.'


def _escaped(text: str) -> str:
    return text.replace("\t", "\\t")


def detect(path: Path) -> Written:
    """Return how a table of text seems to be written, from its first megabyte; only what is told by every cell counts."""
    declared = written_of(path)
    encoding = _encoding(path)
    with open_text(path, encoding) as file:
        lines = [line for line in file.read(_PEEK).splitlines()[:2000] if line.strip()]
    mark = max(SEPARATORS, key=lambda one: (len(next(csv.reader(lines[:1], delimiter=one), [])), one == ","))
    rows = list(csv.reader(lines[1:-1] or lines[1:], delimiter=mark))
    cells = [cell.strip() for row in rows for cell in row if cell.strip()]
    dates = {cell for cell in cells if _DATE.fullmatch(cell) and span(cell) is None}
    styles = guessed(dates)
    odd = [cell for cell in cells if read_value(cell).why == UNDECLARED and cell not in dates]
    commas = bool(odd) and all(read_value(cell, ",", ".").why == "" for cell in odd)
    return Written(
        separator=None if mark == named_separator(path) else mark,  # type: ignore[arg-type]
        encoding=encoding if encoding != "utf-8" else declared.encoding,
        decimal="," if commas else declared.decimal,
        thousands="." if commas and any("." in cell for cell in odd) else declared.thousands,
        dates=styles[0] if len(styles) == 1 else declared.dates,
    )


def _encoding(path: Path) -> str:
    with open_text(path, "latin-1") as file:
        start = file.read(_PEEK).encode("latin-1")
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    try:
        start.decode("utf-8")
    except UnicodeDecodeError as error:
        return "cp1252" if error.start < len(start) - 4 else "utf-8"
    return "utf-8"
