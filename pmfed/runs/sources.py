"""Where the data of new patients lies: a table given by hand, or sources by the names the study uses."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np

from pmfed.cohort.contract.times import span
from pmfed.cohort.tables import read_table
from pmfed.errors import UsageError
from pmfed.study import Study


def table_sources(study: Study, table: Path) -> dict[str, Path | str]:
    """Return the sources that one table stands for: the cohort's, and each other table of which it has a column.

    Raises
    ------
    DataError
        The table cannot be read, or has no column of patients.
    """
    found: dict[str, Path | str] = {study.cohort.table: table}
    for modality in study.modalities.values():
        if modality.joined is not None and modality.by_column and modality.joined not in found:
            columns = [spec.column or key for key, spec in modality.by_column.items()]
            there = read_table(table, [study.cohort.patient], columns).columns
            if set(columns) & set(there):
                found[modality.joined] = table
    return found


def named_sources(study: Study, said: Sequence[str]) -> dict[str, Path | str]:
    """Return sources given as ``NAME=PATH``; UsageError for a name the study does not use."""
    known = {study.cohort.table} | {source for m in study.modalities.values() for source in m.sources}
    found: dict[str, Path | str] = {}
    for text in said:
        name, mark, path = text.partition("=")
        if not mark or not path or name not in known:
            raise UsageError(
                f"--source {name}: the study has no source of that name.",
                f"Write NAME=PATH; its sources are {', '.join(sorted(known))}.",
            )
        found[name] = path if "://" in path else Path(path)
    return found


def moment(text: str | None) -> np.datetime64 | None:
    """Return the moment of a prediction: a date, a time or ``now``; UsageError when it is none."""
    if text is None:
        return None
    found = span(datetime.now().isoformat(timespec="seconds") if text == "now" else text)
    if found is None:
        raise UsageError("--at: is no date.", "Write 2024-07-31, 2024-07-31T13:05:00 or now.")
    return np.datetime64(found.first, "s")
