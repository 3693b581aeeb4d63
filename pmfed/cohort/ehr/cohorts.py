"""A cohort out of events: index dates, and outcomes that followed."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pmfed.cohort.contract.times import NEVER, Moments
from pmfed.cohort.ehr.codes import Matcher
from pmfed.cohort.ehr.events import Asked, Chunk, EventSource
from pmfed.cohort.ehr.source import open_source
from pmfed.cohort.ehr.window import seconds
from pmfed.cohort.tables import Problems, count, labels, read_table
from pmfed.errors import DataError
from pmfed.modality.ehr import EventCohort

COLUMNS = ["patient_id", "index_date", "outcome"]

YES = frozenset({"1", "true", "yes", "y", "t", "ja", "j"})


def derive_cohort(
    spec: EventCohort,
    source: Path | str,
    problems: Problems,
    consented: Collection[str] | None = None,
    until: np.datetime64 | None = None,
    patient: str = "patient_id",
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Return the cohort that events define: who, from when, and what followed.

    Parameters
    ----------
    spec
        Index and outcome.
    source
        As for `read_events`.
    problems
        Where errors are gathered.
    consented
        Patients who gave their consent; the others are left out and counted. None when the site keeps no consent.
    until
        The last moment of which the source is complete. A patient without the outcome whose ``days`` end later was
        not followed long enough: the outcome is missing, not "no".
    patient
        The column with the patient's id in tables that no file describes.

    Returns
    -------
    table : DataFrame
        ``patient_id``, ``index_date`` (datetime64[s]) and ``outcome`` (1, 0, or NaN where unknown), one row per
        patient who has the index event, by patient id.
    counts
        What was left out, and how many remain.
    """
    empty = pd.DataFrame({"patient_id": [], "index_date": np.zeros(0, "datetime64[s]"), "outcome": np.zeros(0)})
    counts: dict[str, int] = {}
    try:
        opened = open_source(source, patient)
        ids = opened.patients()
        if consented is not None:
            allowed = set(consented)
            kept = [one for one in ids if one in allowed]
            counts["patients without consent"] = len(ids) - len(kept)
            ids = kept
        index, outcome = _dates(spec, opened, ids)
        counts |= dict(opened.counts)
        for error in opened.refused:
            problems.note(error)
    except DataError as error:
        problems.note(error)
        return empty, counts
    have = ~np.isnat(index)
    counts["patients without the index event"] = int((~have).sum())
    if not have.any():
        problems.add(
            f"{opened.name}: nobody of {count(len(ids), 'patient')} has the index event.",
            "Are its codes those this source uses?",
        )
        return empty, counts
    happened = _followed(spec, index, outcome)
    values = happened.astype(np.float64)
    if until is not None:
        short = have & ~happened & (index + np.timedelta64(seconds(spec.days), "s") > until)
        counts["patients not followed long enough"] = int(short.sum())
        values[short] = np.nan
    counts["patients"] = int(have.sum())
    table = pd.DataFrame(
        {
            "patient_id": [one for one, there in zip(ids, have, strict=True) if there],
            "index_date": index[have],
            "outcome": values[have],
        }
    )
    return table, counts


def _dates(spec: EventCohort, source: EventSource, ids: list[str]) -> tuple[Moments, list[Chunk]]:
    """Return each patient's index date, NaT for none, and every event of the outcome."""
    index = np.full(len(ids), NEVER)
    outcomes: list[Chunk] = []
    for chunk in source.events(Matcher([spec.index, spec.outcome]), Asked(tuple(ids))):
        outcomes.append(chunk.take(chunk.concept == 1))
        mine = chunk.take(chunk.concept == 0)
        (np.fmin if spec.which == "first" else np.fmax).at(index, mine.patient, mine.when)  # which skip NaT
    return index, outcomes


def _followed(spec: EventCohort, index: Moments, outcomes: list[Chunk]) -> NDArray[np.bool_]:
    """Return whether the outcome happened after the index date and within the days."""
    found = np.zeros(len(index), dtype=bool)
    for chunk in outcomes:
        start = index[chunk.patient]
        ago = (chunk.when - start).astype(np.int64)
        within = (chunk.when > start) & (ago <= seconds(spec.days))  # False with NaT
        found[chunk.patient[within]] = True
    return found


def read_consent(path: Path, patient: str = "patient_id", column: str = "consent") -> set[str]:
    """Return the patients of a table who gave their consent: ``1``, ``true``, ``yes`` or ``ja``; nothing else counts.

    Raises
    ------
    DataError
        The table cannot be read or lacks a column.
    """
    frame = read_table(path, [patient, column])
    codes, texts = labels(frame[patient])
    said, words = labels(frame[column])
    yes = np.array([word.casefold() in YES for word in words] or [False], dtype=bool)[said]
    refused = {texts[code] for code in codes[~yes]}
    return {texts[code] for code in codes[yes]} - refused - {""}
