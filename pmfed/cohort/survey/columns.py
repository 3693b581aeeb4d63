"""What the columns of a table hold: numbers, dates, categories, calls, files. No value is kept but words that many share."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pmfed.cohort.contract.identity import digest
from pmfed.cohort.contract.written import Written, WrittenPath
from pmfed.cohort.survey.names import MANY, harmless, ids_of, like_a_value, names_something
from pmfed.cohort.table_rows import batches, header_of
from pmfed.cohort.tables import MISSING, dates_of, labels, values_of
from pmfed.errors import DataError

Holds = Literal["id", "number", "date", "category", "calls", "files", "codes", "text", "nothing"]
ROWS = 200_000
"""Rows of a table that are looked at."""

_SOME, _MOST = 400, 0.9  # distinct cells that are looked at; share of them that decides
_WORDS, _LETTERS = 12, 20
_FILE = re.compile(r".*\.(png|jpe?g|tiff?|bmp|gif|webp|dcm|nii|nii\.gz|hea|dat|csv|txt)", re.IGNORECASE | re.DOTALL)
_CALL = re.compile(r"[ACGTDI-]{1,20}\s?[/|]\s?[ACGTDI-]{1,20}|\*\w+\s?/\s?\*\w+", re.IGNORECASE)
_PLACED = re.compile(r"[A-Za-z][A-Za-z0-9 _-]*:\S.*", re.DOTALL)
_CODES = {
    "LOINC": re.compile(r"\d{1,5}-\d"),
    "ICD10": re.compile(r"[A-TV-Z]\d[0-9A-Z](\.?[0-9A-Z]{1,4})?", re.IGNORECASE),
    "ATC": re.compile(r"[A-Z]\d\d[A-Z]{2}\d\d"),
    "SNOMED": re.compile(r"[1-9]\d{6,17}"),
}
_WHO = re.compile(
    r"(?:.*[ _.-])?(?:patient|subject|person|participant|pat|subj|proband|teilnehmer)s?[ _.-]?(?:id|nr|no|num|number|key|code|identifier)?"
    r"|mrn|pid|uniquepid|ptid|patid|.*(?:patient|subject).*id|case[ _.-]?id|id",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class ColumnFound:
    """A column by its name, what it holds, and of a category the words that many patients share.

    Attributes
    ----------
    words
        None of them is the word of fewer than ten patients.
    more
        Whether it holds other words too.
    system
        Of codes: the code system they look like, "" where each cell names its own.
    """

    name: str
    holds: Holds
    words: tuple[str, ...] = ()
    more: bool = False
    system: str = ""


@dataclass(frozen=True)
class TableFound:
    """A table.

    Attributes
    ----------
    path
        The file, which knows how it seems to be written.
    columns
        Those with a name that may be shown.
    hidden
        How many others there are.
    patient
        The column with the patient's id, "" where none looks like it.
    several
        Whether a patient has several rows.
    ids
        Digests of the ids and names of files in it, per column. They are compared, never shown.
    """

    path: Path
    columns: tuple[ColumnFound, ...]
    hidden: int
    patient: str
    several: bool
    ids: dict[str, frozenset[int]] = field(default_factory=dict, repr=False)

    def named(self, *holds: Holds) -> list[ColumnFound]:
        """Return the columns that hold one of these."""
        return [column for column in self.columns if column.holds in holds]


def header(path: Path, written: Written) -> list[str]:
    """Return the names of a table's columns; DataError when it cannot be read."""
    return header_of(WrittenPath(path, written=written))


def look(path: Path, written: Written, common: Mapping[str, int]) -> TableFound:
    """Look at a table; ``common`` counts in how many tables there is a column of a name.

    Raises
    ------
    DataError
        It cannot be read, or its first line seems to be no header: then it would show a patient.
    """
    told = WrittenPath(path, written=written)
    there = header_of(told)
    strange = sum(like_a_value(cell) for cell in there)
    _refuse_headless(path, 2 * strange > len(there))
    as_ids = ids_of(there)
    twice = {name for name in there if there.count(name) > 1}
    names = [name for name in there if names_something(name) and name not in as_ids | twice]
    if not names:
        raise DataError(f"{path}: none of its columns has a name that may be shown.", "Name its columns.")
    parts, rows = [], 0
    for frame in batches(told, names):
        parts.append(frame)
        if (rows := rows + len(frame)) >= ROWS:
            break
    frame = pd.concat(parts) if parts else pd.DataFrame({name: pd.Series(dtype="str") for name in names})
    below = sum(bool((frame[name].astype("str").str.strip() == name.strip()).any()) for name in names)
    _refuse_headless(path, bool(below))
    who = _patient(names, frame, common)
    owner = labels(frame[who])[0] if who else np.arange(len(frame))
    columns = tuple(
        ColumnFound(name, "id") if name == who else _column(name, frame[name], owner, told.written) for name in names
    )
    ids = {one.name: _digests(frame[one.name]) for one in columns if one.holds in ("id", "text", "files")}
    several = bool(who) and len(np.unique(owner)) < len(frame)
    return TableFound(told, columns, len(there) - len(names), who, several, ids)


def _refuse_headless(path: Path, headless: bool) -> None:
    if headless:
        raise DataError(
            f"{path}: its first line seems to be a row of patients and not the names of the columns.",
            "Put the names of the columns into the first line.",
        )


def _patient(names: Sequence[str], frame: pd.DataFrame, common: Mapping[str, int]) -> str:
    """Return the column that is called like one of patients' ids and is filled in, above all one of many tables."""
    called = [name for name in names if _WHO.fullmatch(name.strip())]
    called.sort(
        key=lambda name: (name.lower() == "id", -common.get(name, 0), "id" not in name.lower(), names.index(name))
    )
    return next((name for name in called if frame[name].notna().mean() > _MOST and frame[name].nunique() > 1), "")


def _digests(cells: pd.Series) -> frozenset[int]:
    return frozenset(digest(text) for text in labels(cells)[1] if text not in MISSING)


def _column(name: str, cells: pd.Series, owner: NDArray[np.int64], written: Written) -> ColumnFound:
    codes, texts = labels(cells)
    nothing = written.nothing(name)
    known = np.array([text not in MISSING and text not in nothing for text in texts] or [False], dtype=bool)
    some = list(islice((one for one, there in zip(texts, known, strict=False) if there), _SOME))
    if not some:
        return ColumnFound(name, "nothing")
    shared = _shared(codes, owner, len(texts))
    filled = int(known[codes].sum())
    kind = _by_form(some, cells, written, name)
    words = [text for place, text in enumerate(texts) if known[place] and shared[place] >= MANY]
    told = [word for word in words if len(word) <= _LETTERS and harmless(word)]
    covered = int(np.isin(codes, [texts.index(word) for word in told]).sum())
    few = 1 < len(told) <= _WORDS and covered >= 0.8 * filled
    if kind == "number" and few and len(told) <= 5 and covered == filled:
        kind = "category"  # of numbers that stand for words
    if kind == "text" and few:
        kind = "category"
    if kind == "text" and int(known.sum()) == filled >= MANY and max(map(len, some)) <= 40:
        kind = "id"
    if kind.startswith("codes"):
        return ColumnFound(name, "codes", system=kind.partition(":")[2])
    if kind == "category":
        return ColumnFound(name, "category", tuple(sorted(told)), more=covered < filled)
    return ColumnFound(name, kind)  # type: ignore[arg-type]


def _shared(codes: NDArray[np.int64], owner: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Return how many patients have each text."""
    pairs = np.unique(np.column_stack([codes, owner]), axis=0)[:, 0] if len(codes) else codes
    return np.bincount(pairs, minlength=size).astype(np.int64)


def _by_form(some: Sequence[str], cells: pd.Series, written: Written, name: str) -> str:
    """Return what most cells look like."""

    def share(pattern: re.Pattern[str]) -> float:
        return sum(bool(pattern.fullmatch(text)) for text in some) / len(some)

    for holds, pattern in (("files", _FILE), ("calls", _CALL)):
        if share(pattern) > _MOST:
            return holds
    if pd.api.types.is_numeric_dtype(cells.dtype) and not pd.api.types.is_bool_dtype(cells.dtype):
        return "number"
    sample = pd.Series(list(some), dtype="str")
    values = values_of(sample, written, name)
    if np.mean(~np.isnan(values.number)) > 0.5 and written.dates not in ("compact", "spreadsheet"):
        return "number"
    dates = dates_of(sample, written, name)
    if np.mean(~np.isnat(dates.last)) > _MOST:
        return "date"
    if np.mean(~np.isnan(values.number)) > 0.5:
        return "number"
    if share(_PLACED) > _MOST and len(some) > 1:
        return "codes:"
    system = next((system for system, pattern in _CODES.items() if share(pattern) > _MOST), "")
    return f"codes:{system}" if system and len(some) > 1 else "text"
