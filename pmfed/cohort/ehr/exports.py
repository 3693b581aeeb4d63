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
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from pmfed.errors import DataError

Resource = dict[str, Any]


class ExportEntry(NamedTuple):
    """Full URL ("" for none), resource, and where it stands: the number of its file and of the line or the entry."""

    url: str
    resource: Resource
    place: int = 0


LONGEST_LINE = 64 << 20
LARGEST_BUNDLE = 256 << 20

LINES = (".ndjson", ".jsonl")
KINDS = (".json", *LINES)

_PACKED = (".gz", ".gzip")
_TYPE = re.compile(r"(?:\d+[._-])?([A-Z][A-Za-z]+)(?:[._-]\d+)?")
_TYPES = re.compile(rb'"resourceType"\s*:\s*"([A-Za-z0-9]+)"')
_FILE = 1 << 40  # of a place: below it the number within the file


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
            there = sorted(path for path in where.rglob("*") if path.is_file() and not path.name.startswith("."))
            files = [path for path in there if _kind(path) or begins_as_resource(path)]
            taken = set(files)
            self.passed_over = Counter(_ending(path) for path in there if path not in taken)
            outside = sum(os.path.commonpath([root, os.path.realpath(path)]) != root for path in files)
            if outside:
                raise DataError(
                    f"{where}: {outside:,} of its files are links out of the folder.", "Put the files themselves there."
                )
        elif where.is_file():
            files, self.passed_over = [where], Counter[str]()
        else:
            raise DataError(f"{where}: there is no such file or folder.", "Check the path in [data] of site.toml.")
        if not files:
            raise DataError(f"{where}: holds no .ndjson or .json file.", "Check the path in [data] of site.toml.")
        self.files = files

    def documents(self, types: frozenset[str]) -> Iterator[list[ExportEntry]]:
        """Yield what belongs together: the entries of a Bundle, or one resource.

        Parameters
        ----------
        types
            Of the resources asked for; lines that hold none of them are passed over unread.

        Raises
        ------
        DataError
            A file is damaged or is no JSON; the message names the line.
        """
        for number, path in enumerate(self.files, 1):
            for entries in _documents(path, self._place(path, number), types):
                yield [entry._replace(place=number * _FILE + entry.place) for entry in entries]

    def place_of(self, place: int) -> str:
        """Return in words where an entry stands."""
        number, within = divmod(place, _FILE)
        return f"{self._place(self.files[number - 1], number)}: {'line' if _kind(self.files[number - 1]) in LINES else 'entry'} {within:,}"

    def _place(self, path: Path, number: int) -> str:
        """Return how messages call a file. Its name may be a patient's, so only names of types are told."""
        if named_type(path) or path == self.where:
            return str(path)
        return f"{self.where}: file {number:,} of {len(self.files):,}"


def named_type(path: Path) -> str:
    """Return the type of resource that a file is named after (``Patient.ndjson``), or ""."""
    match = _TYPE.fullmatch(_unpacked(path).rsplit(".", 1)[0])
    return match.group(1) if match and _kind(path) in LINES else ""


def _unpacked(path: Path) -> str:
    for ending in _PACKED:
        if path.name.lower().endswith(ending):
            return path.name[: -len(ending)]
    return path.name


def _kind(path: Path) -> str:
    name = _unpacked(path).lower()
    return next((kind for kind in KINDS if name.endswith(kind)), "")


def _opened(path: Path) -> IO[bytes]:
    """Open a file, unpacked whatever its name says."""
    file = path.open("rb")
    packed = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    plain: IO[bytes] = file
    return cast(IO[bytes], gzip.GzipFile(fileobj=file)) if packed or path.name.lower().endswith(_PACKED) else plain


def begins_as_resource(path: Path) -> bool:
    """Return whether a file whose name does not tell begins as resources do."""
    try:
        with _opened(path) as file:
            start = file.read(1 << 16).removeprefix(b"\xef\xbb\xbf").lstrip()
    except (OSError, EOFError, zlib.error):
        return False
    return start[:1] in (b"{", b"[") and b'"resourceType"' in start


def _ending(path: Path) -> str:
    """Return the ending of a file's name, the only part of it that is surely nobody's name."""
    ending = path.suffix.lower()
    return ending if re.fullmatch(r"\.[a-z0-9]{1,5}", ending) else "no ending"


def holds_resources(path: Path) -> bool:
    """Return whether a file, or a file of a folder, is named or begins as one of resources."""
    files = [path] if path.is_file() else (one for one in path.rglob("*") if one.is_file())
    return any(_kind(one) or begins_as_resource(one) for one in files if not one.name.startswith("."))


def _documents(path: Path, place: str, types: frozenset[str]) -> Iterator[list[ExportEntry]]:
    try:
        with _opened(path) as file:
            if _kind(path) in LINES:
                yield from _lines(file, place, types, named_type(path))
                return
            text = file.read(LARGEST_BUNDLE + 1)
            if b"\n" in text and _alone(text.partition(b"\n")[0]):  # lines, whatever the name says
                file.seek(0)
                yield from _lines(file, place, types, "")
                return
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{place}: cannot be read ({type(error).__name__}).", "Is the file damaged?") from None
    if len(text) > LARGEST_BUNDLE:
        raise DataError(
            f"{place}: is larger than {LARGEST_BUNDLE >> 20:,} MB.", "Export NDJSON, which is read line by line."
        )
    if text.strip():
        yield _numbered(_entries(_parsed(text, place)))


def _alone(line: bytes) -> bool:
    """Return whether a line is a whole resource."""
    try:
        found = json.loads(line.removeprefix(b"\xef\xbb\xbf"))
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict)


def _numbered(entries: list[ExportEntry]) -> list[ExportEntry]:
    return [entry._replace(place=number) for number, entry in enumerate(entries, 1)]


def _lines(file: IO[bytes], place: str, types: frozenset[str], named: str) -> Iterator[list[ExportEntry]]:
    number, wanted, other = 0, {name.encode() for name in types} | {b"Bundle"}, False
    while line := file.readline(LONGEST_LINE + 1):
        number += 1
        if len(line) > LONGEST_LINE:
            raise DataError(
                f"{place}: line {number:,} is longer than {LONGEST_LINE >> 20} MB.", "NDJSON has one resource per line."
            )
        if not line.strip():
            continue
        told = _TYPES.findall(line)
        if number == 1:
            other = bool(named) and named not in types and set(told) == {named.encode()}
        if (told and not wanted & set(told)) or (other and not told):
            continue
        yield [entry._replace(place=number) for entry in _entries(_parsed(line, f"{place}: line {number:,}"))]


def _parsed(text: bytes, place: str) -> Any:
    try:
        return json.loads(text.removeprefix(b"\xef\xbb\xbf").decode("utf-8"), parse_constant=_no_number)
    except UnicodeDecodeError:
        raise DataError(f"{place}: is not UTF-8 text.", "Export it again.") from None
    except (ValueError, RecursionError):  # the error of json quotes what it could not read
        raise DataError(f"{place}: is not whole JSON.", "Was the file cut off? Export it again.") from None


def _no_number(word: str) -> float:
    raise ValueError  # NaN and Infinity are no JSON


def _entries(document: Any, depth: int = 0) -> list[ExportEntry]:
    """Return the resources of a Bundle or a list, or a resource alone; nothing for JSON of another kind.

    What a Bundle says was deleted is a resource of that type and id with the status ``deleted``.
    """
    if isinstance(document, list) and not depth:
        return [entry for one in document for entry in _entries(one, 1)]
    if not isinstance(document, dict):
        return []
    if document.get("resourceType") != "Bundle" or depth > 3:
        return [ExportEntry("", document)]
    found: list[ExportEntry] = []
    entries = document.get("entry")
    for entry in entries if isinstance(entries, list) else []:
        if not isinstance(entry, dict):
            continue
        url = entry.get("fullUrl")
        if isinstance(entry.get("resource"), dict):
            inner = _entries(entry["resource"], depth + 1)
            alone = len(inner) == 1 and inner[0].resource is entry["resource"]
            found += [ExportEntry(url if isinstance(url, str) else "", entry["resource"])] if alone else inner
        elif deleted := _deleted(entry):
            found.append(ExportEntry("", deleted))
    return found


def _deleted(entry: Resource) -> Resource | None:
    request = entry.get("request")
    if not isinstance(request, dict) or request.get("method") != "DELETE":
        return None
    parts = str(request.get("url")).split("/")
    if len(parts) < 2:
        return None
    response = entry.get("response")
    when = response.get("lastModified") if isinstance(response, dict) else None
    return {"resourceType": parts[-2], "id": parts[-1], "status": "deleted", "meta": {"lastUpdated": when}}
