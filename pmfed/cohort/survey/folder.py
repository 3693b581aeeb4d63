"""All that a folder holds: tables, health records, genomes, scans, pictures and waveforms."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar
from zipfile import BadZipFile, ZipFile

from pmfed.cohort.contract.written import PLAIN, Written
from pmfed.cohort.detected import detect, is_text
from pmfed.cohort.ehr.described import SourceFile
from pmfed.cohort.ehr.exports import begins_as_resource
from pmfed.cohort.ehr.source import DATABASES, open_source
from pmfed.cohort.survey.codes import RecordsFound, codes_of
from pmfed.cohort.survey.columns import TableFound, header, look
from pmfed.cohort.survey.files import FilesFound, GenomesFound, ScansFound, genomes, listed_files, scans
from pmfed.cohort.survey.names import harmless
from pmfed.cohort.table_rows import ENDINGS, is_table
from pmfed.errors import DataError, PmfedError, StudyError
from pmfed.validate import read_toml

ALIKE = 5
"""Tables with the same columns of which there are so many are parts of something, or waveforms: none is a source alone."""

_GENOMES = (".vcf", ".vcf.gz", ".vcf.bgz", ".bcf", ".bed")
_PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp")
_KINDS = {".hea": "signal", ".nii": "nifti", ".nii.gz": "nifti"} | dict.fromkeys(_PICTURES, "images")
Found = TypeVar("Found")
_PASSED = (".tbi", ".csi", ".bim", ".fam", ".dat", ".md", ".txt", ".pem", ".json", ".toml")


@dataclass(frozen=True)
class Survey:
    """What was found in a folder.

    Attributes
    ----------
    left
        Sentences on what was left out, and why. None quotes a name that may be a patient's.
    """

    folder: Path
    tables: tuple[TableFound, ...]
    records: tuple[RecordsFound, ...]
    genomes: tuple[GenomesFound, ...]
    scans: tuple[ScansFound, ...]
    files: tuple[FilesFound, ...]
    left: tuple[str, ...]


@dataclass
class _Sorted:
    """The files of a folder by what their names say, paths within it."""

    tables: list[str] = field(default_factory=list)
    genomes: list[str] = field(default_factory=list)
    databases: list[str] = field(default_factory=list)
    described: list[str] = field(default_factory=list)
    zips: list[str] = field(default_factory=list)
    exports: list[str] = field(default_factory=list)
    listed: dict[str, list[str]] = field(default_factory=dict)
    scans: list[str] = field(default_factory=list)


def survey(folder: Path) -> Survey:
    """Look at a folder; nothing is changed in it, and links out of it are not followed.

    Raises
    ------
    DataError
        There is no such folder, or nothing in it can be read.
    """
    folder = folder.resolve()
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder.", "Name the folder that the data lies in.")
    left: list[str] = []
    found = _sorted(folder, left)
    records, taken = _records(folder, found, left)
    places = [(one, kind) for kind, names in found.listed.items() for one in _tops(names)]
    groups = [(folder / top, kind, _below(found.listed[kind], top)) for top, kind in places if not _in(top, taken)]
    groups += [(folder / one, "images", _members(folder / one)) for one in found.zips]
    if empty := sum(not names for place, _, names in groups if place.suffix.lower() == ".zip"):
        left.append(f"{empty:,} zip {_files(empty)} without pictures: unpack what is in it.")
    pictures = [listed_files(place, kind, names) for place, kind, names in groups if names]  # type: ignore[arg-type]
    result = Survey(
        folder,
        tuple(_tables(folder, [one for one in found.tables if not _in(one, taken)], left)),
        tuple(records),
        tuple(_each(found.genomes, lambda one: genomes(folder / one), left)),
        tuple(one for one in _each(_tops(found.scans), lambda top: scans(folder / top), left) if one is not None),
        tuple(pictures),
        tuple(left),
    )
    if not any((result.tables, result.records, result.genomes, result.scans, result.files)):
        raise DataError(
            " ".join([f"{folder}: nothing in it can be read.", *left]), "docs/formats.md lists the formats that can."
        )
    return result


def _sorted(folder: Path, left: list[str]) -> _Sorted:
    found, hidden, links, others = _Sorted(), 0, 0, Counter[str]()
    for where, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(where) / name
            if name.startswith(".") or name == "site.toml":
                continue
            if path.is_symlink() and os.path.commonpath([folder, os.path.realpath(path)]) != str(folder):
                links += 1
                continue
            inner = path.relative_to(folder).as_posix()
            kind = _ending(name)
            alone = is_table(path) or kind in (*_GENOMES, *DATABASES, ".zip", ".toml")
            if alone and not harmless(name):
                hidden += 1
            elif not _put(found, inner, kind, path):
                others[path.suffix.lower()] += 1
    if hidden:
        left.append(f"{hidden:,} {_files(hidden)} whose name may not be shown: give a plain name.")
    if links:
        left.append(f"{links:,} {_files(links)} outside: links out of the folder are not followed.")
    unknown = Counter({kind: number for kind, number in others.items() if kind not in _PASSED})
    if unknown:
        told = [kind for kind, _ in unknown.most_common(4) if re.fullmatch(r"\.[a-z]{1,5}", kind)]
        kinds = f" ({', '.join(told)})" if told else ""
        left.append(f"{unknown.total():,} {_files(unknown.total())} of a kind that is not known{kinds}.")
    return found


def _put(found: _Sorted, inner: str, kind: str, path: Path) -> bool:
    lists: dict[str, list[str]] = {".zip": found.zips, ".toml": found.described}
    lists |= dict.fromkeys(_GENOMES, found.genomes) | dict.fromkeys(DATABASES, found.databases)
    if kind == ".bed" and not path.with_suffix(".bim").is_file():
        return False  # regions rather than genotypes
    if kind in lists:
        lists[kind].append(inner)
    elif kind in _KINDS:
        found.listed.setdefault(_KINDS[kind], []).append(inner)
    elif is_table(path):
        found.tables.append(inner)
    elif _is_dicom(path):
        found.scans.append(inner)
    elif begins_as_resource(path):
        found.exports.append(inner)
    else:
        return False
    return True


def _ending(name: str) -> str:
    low = name.lower()
    known = sorted((*_GENOMES, *DATABASES, *_KINDS, *ENDINGS, ".zip", ".toml"), key=len, reverse=True)
    return next((one for one in known if low.endswith(one)), Path(low).suffix)


def _is_dicom(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _records(folder: Path, found: _Sorted, left: list[str]) -> tuple[list[RecordsFound], set[str]]:
    """Return the health records, and the places that belong to them."""
    taken: set[str] = set()
    places: list[Path] = []
    for inner in found.described:
        if (about := _described(folder / inner)) is not None:
            places.append(folder / inner)
            base = Path(inner).parent
            taken |= {(base / one).as_posix() for one in about}
    for inner in (*found.databases, *_tops(found.exports), *_folders_of_tables(folder, found.tables)):
        if not _in(inner, taken):
            places.append(folder / inner)
            taken.add(inner)
    read = _each([str(place) for place in places], lambda one: codes_of(Path(one), open_source(Path(one))), left)
    return list(read), taken


def _described(path: Path) -> list[str] | None:
    """Return the files that a description of a source names; None where the file is none."""
    try:
        file = read_toml(path, SourceFile)
    except StudyError:
        return None
    files = [one.file for one in file.tables] + [one.file for one in file.notes]
    files += [file.persons.file] if file.persons else []
    return files + ([file.omop.database] if file.omop else []) + ([file.fhir.files] if file.fhir else [])


def _folders_of_tables(folder: Path, tables: list[str]) -> list[str]:
    """Return the folders of OMOP tables, and those with a table of events."""
    stems: dict[str, set[str]] = {}
    for inner in tables:
        stems.setdefault(Path(inner).parent.as_posix(), set()).add(Path(inner).name.lower().split(".")[0])
    omop = [one for one, names in stems.items() if {"person"} <= names and len(names) > 1]
    return omop + [one for one, names in stems.items() if "events" in names and one not in omop]


def _tables(folder: Path, inner: list[str], left: list[str]) -> Iterator[TableFound]:
    alike: dict[tuple[str, ...], list[TableFound]] = {}
    how = dict(_each(inner, lambda one: (one, _written(folder / one)), left))
    names = dict(_each(list(how), lambda one: (one, header(folder / one, how[one])), left))
    common = Counter(name for there in names.values() for name in set(there))
    for one in _each(list(names), lambda one: look(folder / one, how[one], common), left):
        alike.setdefault(tuple(column.name for column in one.columns), []).append(one)
    for tables in alike.values():
        if len(tables) < ALIKE:
            yield from tables
        else:
            left.append(
                f"{len(tables):,} tables with the same columns: parts of one table, or waveforms? Join them, or list them."
            )


def _written(path: Path) -> Written:
    return detect(path) if is_text(path) else PLAIN


def _each(names: list[str], read: Callable[[str], Found], left: list[str]) -> Iterator[Found]:
    """Yield what can be read; say of the rest why not."""
    for name in names:
        try:
            yield read(name)
        except PmfedError as error:
            left.append(f"{error.what} {error.remedy}".strip())


def _tops(inner: list[str]) -> list[str]:
    """Return where files lie: the folders at the top, or the whole where that is clearer. Deeper ones may be patients'."""
    tops = sorted({one.split("/")[0] if "/" in one else "." for one in inner})
    return tops if len(tops) < ALIKE else ["."]


def _in(inner: str, taken: set[str]) -> bool:
    return any(inner == one or inner.startswith(f"{one}/") or one == "." for one in taken)


def _below(names: list[str], top: str) -> list[str]:
    return names if top == "." else [one.removeprefix(f"{top}/") for one in names if one.startswith(f"{top}/")]


def _members(path: Path) -> list[str]:
    try:
        with ZipFile(path) as archive:
            return [one for one in archive.namelist() if one.lower().endswith(_PICTURES)]
    except (OSError, BadZipFile):
        return []


def _files(number: int) -> str:
    return "file" if number == 1 else "files"
