"""Files of a FHIR export: NDJSON read line by line, Bundles one at a time.

Plain JSON parsing, checked where it is used: validating every resource against FHIR's schema with fhir.resources took
14 times as long, and an export is never wholly valid.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from pmfed.errors import DataError

Resource = dict[str, Any]
Entry = tuple[str, Resource]
"""Full URL ("" for none) and resource."""

LONGEST_LINE = 64 << 20
LARGEST_BUNDLE = 256 << 20

LINES = (".ndjson", ".jsonl")
KINDS = (".json", *LINES)

_TYPE = re.compile(r"(?:\d+[.-])?([A-Z][A-Za-z]+)(?:[.-]\d+)?")


class Export:
    """A FHIR export.

    Parameters
    ----------
    where
        A folder, with its folders, or one file. What a link leads to outside of the folder is refused.

    Raises
    ------
    DataError
        There is no such place, it holds no JSON, or a link leads out of it.
    """

    def __init__(self, where: Path) -> None:
        self.where = where
        if where.is_dir():
            root = os.path.realpath(where)
            files = sorted(path for path in where.rglob("*") if _kind(path) and path.is_file())
            outside = sum(os.path.commonpath([root, os.path.realpath(path)]) != root for path in files)
            if outside:
                raise DataError(
                    f"{where}: {outside:,} of its files are links out of the folder.", "Put the files themselves there."
                )
        elif where.is_file():
            files = [where]
        else:
            raise DataError(f"{where}: there is no such file or folder.", "Check the path in [data] of site.toml.")
        if not files:
            raise DataError(f"{where}: holds no .ndjson or .json file.", "Check the path in [data] of site.toml.")
        # Who the patients are and what the drugs are comes before what refers to them.
        self.files = sorted(files, key=lambda path: (named_type(path) not in ("Patient", "Medication"), path))

    def documents(self, types: frozenset[str]) -> Iterator[list[Entry]]:
        """Yield what belongs together: the entries of a Bundle, or one resource.

        Parameters
        ----------
        types
            Of the resources asked for. A file of NDJSON whose name and first line tell another type is not read.

        Raises
        ------
        DataError
            A file is damaged or is no JSON; the message names the line.
        """
        for number, path in enumerate(self.files, 1):
            yield from _documents(path, self._place(path, number), types)

    def _place(self, path: Path, number: int) -> str:
        """Return how messages call a file. Its name may be a patient's, so only names of types are told."""
        if named_type(path) or path == self.where:
            return str(path)
        return f"{self.where}: file {number:,} of {len(self.files):,}"


def named_type(path: Path) -> str:
    """Return the type of resource that a file is named after (``Patient.ndjson``), or ""."""
    match = _TYPE.fullmatch(path.name.removesuffix(".gz").rsplit(".", 1)[0])
    return match.group(1) if match and _kind(path) in LINES else ""


def _kind(path: Path) -> str:
    name = path.name.lower().removesuffix(".gz")
    return next((kind for kind in KINDS if name.endswith(kind)), "")


def _documents(path: Path, place: str, types: frozenset[str]) -> Iterator[list[Entry]]:
    try:
        with (gzip.open if path.name.lower().endswith(".gz") else open)(path, "rb") as file:
            if _kind(path) in LINES:
                yield from _lines(file, place, types, named_type(path))  # type: ignore[arg-type]
                return
            text = file.read(LARGEST_BUNDLE + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{place}: cannot be read ({type(error).__name__}).", "Is the file damaged?") from None
    if len(text) > LARGEST_BUNDLE:
        raise DataError(
            f"{place}: is larger than {LARGEST_BUNDLE >> 20:,} MB.", "Export NDJSON, which is read line by line."
        )
    yield _entries(_parsed(text, place))


def _lines(file: BinaryIO, place: str, types: frozenset[str], named: str) -> Iterator[list[Entry]]:
    number = 0
    while line := file.readline(LONGEST_LINE + 1):
        number += 1
        if len(line) > LONGEST_LINE:
            raise DataError(
                f"{place}: line {number:,} is longer than {LONGEST_LINE >> 20} MB.", "NDJSON has one resource per line."
            )
        if not line.strip():
            continue
        entries = _entries(_parsed(line, f"{place}: line {number:,}"))
        if number == 1 and named and named not in types and all(one.get("resourceType") == named for _, one in entries):
            return
        yield entries


def _parsed(text: bytes, place: str) -> Any:
    try:
        return json.loads(text.removeprefix(b"\xef\xbb\xbf").decode("utf-8"), parse_constant=_no_number)
    except UnicodeDecodeError:
        raise DataError(f"{place}: is not UTF-8 text.", "Export it again.") from None
    except (ValueError, RecursionError):  # the error of json quotes what it could not read
        raise DataError(f"{place}: is not whole JSON.", "Was the file cut off? Export it again.") from None


def _no_number(word: str) -> float:
    raise ValueError  # NaN and Infinity are no JSON


def _entries(document: Any) -> list[Entry]:
    """Return the resources of a Bundle, or a resource alone; nothing for JSON of another kind."""
    if not isinstance(document, dict):
        return []
    if document.get("resourceType") != "Bundle":
        return [("", document)]
    found: list[Entry] = []
    entries = document.get("entry")
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict) and isinstance(entry.get("resource"), dict):
            url = entry.get("fullUrl")
            found.append((url if isinstance(url, str) else "", entry["resource"]))
    return found
