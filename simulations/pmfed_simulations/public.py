"""Public data: what can be had, under which licence, from where, and a way to get it whole and unchanged.

Nothing here is part of pmfed; the licences are the publishers'. Every file is checked against a SHA-256 before
it is kept, wherever it comes from.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import tomllib
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from http.client import HTTPException
from pathlib import Path

from pmfed.errors import DataError, UsageError
from pmfed_simulations.studies import built_in_studies

_TIMEOUT = 60.0  # seconds without a byte


@dataclass(frozen=True)
class PublicData:
    """One public data set.

    Parameters
    ----------
    name
        Its name, and the folder its files lie in.
    title, licence, source
        What it is, whose terms hold, and the page it is published on.
    files
        File name (with ``/`` for a folder inside) -> SHA-256 in hex.
    urls
        File name -> where its exact bytes are published; empty when they must be fetched by hand.
    studies
        The built-in studies that read it.
    note
        What else one needs to know to get it by hand.
    """

    name: str
    title: str
    licence: str
    source: str
    files: Mapping[str, str] = field(repr=False)
    urls: Mapping[str, str] = field(default_factory=dict, repr=False)
    studies: tuple[str, ...] = ()
    note: str = ""


def catalogue() -> dict[str, PublicData]:
    """Return all public data pmfed knows, by name: what the built-in studies read, and what else is useful."""
    built_in = built_in_studies().values()
    readers: dict[str, list[str]] = {}
    for study in built_in:
        if study.sites.data is not None:
            readers.setdefault(study.sites.data, []).append(study.name)
    files = [path for study in built_in if (path := study.folder / "public.toml").is_file()]
    return {
        name: PublicData(name=name, studies=tuple(readers.get(name, ())), **entry)
        for path in (*files, Path(__file__).with_name("public.toml"))
        for name, entry in tomllib.loads(path.read_text(encoding="utf-8")).items()
    }


def find(name: str) -> PublicData:
    """Return a data set by its own name or by the name of the study that reads it.

    Raises
    ------
    UsageError
        There is none; the message names the nearest.
    """
    known = catalogue()
    by_study = {study: entry for entry in known.values() for study in entry.studies}
    if entry := known.get(name) or by_study.get(name):
        return entry
    near = get_close_matches(name, [*known, *by_study], n=1, cutoff=0.5)
    raise UsageError(
        f"there is no public data called '{name}'.",
        f"Did you mean '{near[0]}'?" if near else "'pmfed data list' shows what there is.",
    )


def get(name: str, source: Path | None, out: Path) -> Path:
    """Get a data set of the catalogue; see `fetch`."""
    return fetch(find(name), source, out)


def fetch(data: PublicData, source: Path | None, out: Path) -> Path:
    """Copy or download a data set into ``out/<name>`` and check every file.

    Parameters
    ----------
    data
        What to get.
    source
        A local copy: the data set's own folder or the one above it. None downloads.
    out
        The folder above the data set's own.

    Returns
    -------
    Path
        ``out/<name>``, complete. Files that lie there already and are right are left alone.

    Raises
    ------
    DataError
        A file is missing, cannot be downloaded or is not the published one. Nothing new is kept then.
    """
    folder = out / data.name
    wanted = [file for file, sha256 in data.files.items() if _sha256(folder / file) != sha256]
    if not wanted:
        return folder
    if source is None:
        _check_published(data, wanted)
    try:
        out.mkdir(parents=True, exist_ok=True)
        # Beside the destination, so that the last step is a rename on one disk.
        with tempfile.TemporaryDirectory(prefix=f".{data.name}-", dir=out) as staging:
            for file in wanted:
                copy = Path(staging) / file
                copy.parent.mkdir(parents=True, exist_ok=True)
                if source is None:
                    _download(data, file, copy)
                else:
                    shutil.copyfile(_in_copy(data, file, source), copy)
                _check(data, file, copy)
            for file in wanted:
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                (Path(staging) / file).replace(folder / file)
    except OSError as error:
        raise DataError(f"{error.filename or out}: {error.strerror or error}. Nothing was kept.") from None
    return folder


def _by_hand(data: PublicData) -> str:
    note = f" {data.note}" if data.note else ""
    return (
        f"It is published at {data.source} ({data.licence}).{note} With a copy: pmfed data get {data.name} --from DIR."
    )


def _check_published(data: PublicData, wanted: list[str]) -> None:
    if not all(file in data.urls for file in wanted):
        raise DataError(f"'{data.name}' cannot be downloaded by pmfed.", _by_hand(data))


def _in_copy(data: PublicData, file: str, source: Path) -> Path:
    for path in (source / data.name / file, source / file):
        if path.is_file():
            return path
    raise DataError(f"{source}: '{file}' of '{data.name}' is not there. Nothing was kept.", _by_hand(data))


def _download(data: PublicData, file: str, copy: Path) -> None:
    url = data.urls[file]
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT) as answer, copy.open("wb") as target:
            shutil.copyfileobj(answer, target)
    except (OSError, HTTPException, ValueError) as error:
        # URLError, timeouts and refused connections are OSErrors; a short answer is an HTTPException.
        raise DataError(f"{url}: cannot be downloaded ({error}). Nothing was kept.", _by_hand(data)) from None


def _check(data: PublicData, file: str, copy: Path) -> None:
    if _sha256(copy) != data.files[file]:
        raise DataError(
            f"'{file}' of '{data.name}' is not the published file: its checksum differs. Nothing was kept.",
            "Get it anew. A copy in another form can still be used in place: give --data DIR with its folder.",
        )


def _sha256(path: Path) -> str | None:
    """Return the checksum in hex, or None where there is no file."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
