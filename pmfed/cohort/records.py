"""From tables to records: who is in the cohort, with which outcome, and which rows belong together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pmfed.cohort.ehr.cohorts import YES
from pmfed.cohort.joins import left_join, under_cap
from pmfed.cohort.outcomes import outcomes_of
from pmfed.cohort.population import Population
from pmfed.cohort.sheets import Sheet
from pmfed.cohort.split import held_out
from pmfed.cohort.tables import MISSING, Problems, count, first_row, labels
from pmfed.modality import Modality
from pmfed.study import Study

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, repr=False)
class Records:
    """R records of P patients.

    Attributes
    ----------
    ids : tuple of P str
        Ascending, so that the cohort does not depend on the order of the table.
    owner : (R,) int64
        Patient of each record, ascending.
    rows : dict of (R,) int64
        Per table the row of each record, -1 where the patient has none.
    targets : (R,) or (R, k) float64
        Outcomes as their kind reads them; 0 where there is a mask.
    training : (P,) bool
    dropped_no_outcome, dropped_no_consent, dropped_over_cap : int
        Patients who agreed and have no outcome, patients who did not agree, and records.
    """

    ids: tuple[str, ...]
    owner: Ints
    rows: dict[str, Ints]
    targets: NDArray[np.float64]
    training: Bools
    dropped_no_outcome: int
    dropped_no_consent: int
    dropped_over_cap: int


def read_records(
    study: Study,
    sheets: Mapping[str, Sheet],
    here: Mapping[str, Modality],
    population: Population,
    problems: Problems,
    warnings: list[str],
) -> Records | None:
    """Return the site's records, or None when there are problems; unlabelled ones are all that are asked for."""
    cohort = study.cohort
    base = sheets[cohort.table]
    codes, texts = labels(base.frame[cohort.patient])
    _check_identity(study, base, codes, texts, problems)
    choose = _with_outcome if population.labelled else _all_asked
    chosen = choose(study, population, base, codes, texts, problems)
    one_row = {modality.joined for modality in here.values() if modality.one_row}
    keys = {
        source: _keys(study, base, sheet, source in one_row, problems, warnings, alone=not population.labelled)
        for source, sheet in sheets.items()
        if source != cohort.table
    }
    used = chosen.used
    if (
        not len(used) and population.labelled and not problems
    ):  # an outcome nobody's could be read of is a problem already
        _note_nobody(study, base, chosen, problems)
    if problems:
        return None

    ids = sorted({texts[code] for code in np.unique(codes[used])})
    place = {text: rank for rank, text in enumerate(ids)}
    owner = np.array([place.get(text, -1) for text in texts], dtype=np.int64)[codes[used]]
    order = np.argsort(owner, kind="stable")
    owner, rows = owner[order], {cohort.table: used[order]}
    full = np.ones(len(owner))  # how many records each row would make without the cap
    for left, right in keys.values():
        full *= np.maximum(np.bincount(right[right >= 0], minlength=int(left.max()) + 1)[left[used]], 1)
    split, cap = study.evaluation.split_key, population.cap(study)
    keep = under_cap(owner, ids, cap, split, cohort.table)
    owner, rows = owner[keep], {name: table[keep] for name, table in rows.items()}
    for source, (left, right) in keys.items():
        left_rows, right_rows = left_join(left[rows[cohort.table]], right)
        owner, rows = owner[left_rows], {name: table[left_rows] for name, table in rows.items()}
        rows[source] = right_rows
        keep = under_cap(owner, ids, cap, split, source)
        owner, rows = owner[keep], {name: table[keep] for name, table in rows.items()}
    over_cap = int(full.sum()) - len(owner)
    if over_cap:
        warnings.append(
            f"{count(over_cap, 'record')} beyond the study's {cohort.max_records} per patient left out by a draw."
        )
    if chosen.held is None:
        training = ~held_out(ids, split, study.evaluation.test_fraction)
    else:
        training = ~chosen.held[codes[rows[cohort.table][np.searchsorted(owner, np.arange(len(ids)))]]]
    return Records(
        tuple(ids),
        owner,
        rows,
        chosen.targets[rows[cohort.table]],
        training,
        len(texts) - len(ids) - chosen.refused,
        chosen.refused,
        over_cap,
    )


def labels_of(study: Study, sheets: Mapping[str, Sheet], records: Records) -> tuple[str, ...]:
    """Return what the study calls each record, "" where a patient has one row."""
    rows, record = records.rows[study.cohort.table], study.cohort.record
    if record is None:
        return ("",) * len(rows)
    codes, texts = labels(sheets[study.cohort.table].frame[record])
    return tuple(texts[code] for code in codes[rows])


@dataclass(frozen=True, repr=False)
class _Chosen:
    """Which rows of the cohort table make records.

    ``used`` are those of its T rows; ``targets`` (T, ...) is NaN where an outcome is missing; ``held`` says per patient who is
    held out, None where a draw does; ``refused`` patients did not agree.
    """

    used: Ints
    targets: NDArray[np.float64]
    held: Bools | None
    refused: int = 0


def _with_outcome(
    study: Study, population: Population, base: Sheet, codes: Ints, texts: list[str], problems: Problems
) -> _Chosen:
    """Choose who has an outcome and agreed; one "no" of a patient counts for all of the patient's records."""
    targets, held = outcomes_of(study, base, problems), _held(study, base, codes, texts, problems)
    not_agreed = codes[~_agreed(study, base)]
    used = np.flatnonzero(~(study.outcome.unknown(targets) | np.isin(codes, not_agreed)))
    return _Chosen(used, targets, held, refused=len(np.unique(not_agreed)))


def _all_asked(
    study: Study, population: Population, base: Sheet, codes: Ints, texts: list[str], problems: Problems
) -> _Chosen:
    """Choose who is asked for; a patient who is not there is a problem. Nobody is trained on."""
    wanted = np.ones(len(texts), dtype=bool)
    if population.only is not None:
        names = set(population.only)
        wanted = np.array([text in names for text in texts], dtype=bool)
        if lacking := len(names - set(texts)):
            problems.add(
                f"{base.path}: {count(lacking, 'patient')} of {len(names):,} asked for not in the table.",
                "Write patient ids as the table does.",
            )
    return _Chosen(np.flatnonzero(wanted[codes]), np.zeros(len(codes)), np.ones(len(texts), dtype=bool))


def _note_nobody(study: Study, base: Sheet, chosen: _Chosen, problems: Problems) -> None:
    if study.outcome.unknown(chosen.targets).all():
        lacks, remedy = f"the outcome '{study.outcome.name}'", "that the outcome is filled in"
    else:
        lacks, remedy = f"both the outcome and a consent in '{study.cohort.consent}'", "how a consent is written there"
    problems.add(
        f"{base.path}: no patients are left: of {count(len(chosen.targets), 'row')} none has {lacks}.",
        f"Check that this is the right table and {remedy}.",
    )


def _check_identity(study: Study, base: Sheet, codes: Ints, texts: list[str], problems: Problems) -> None:
    """Every row needs a patient, and one row (or one record) may be there only once."""
    cohort, rows = study.cohort, len(codes)
    if not rows:
        problems.add(f"{base.path}: no patients: the table has a header and no rows.", "Is it the right table?")
    _check_filled(base, cohort.patient, codes, texts, problems)
    if cohort.record is None:
        several = int((np.bincount(codes, minlength=1) > 1).sum())
        if several:
            problems.add(
                f"{base.path}: column '{cohort.patient}': {count(several, 'patient')} with more than one row "
                f"({count(rows, 'row')}, {count(len(texts), 'patient')}).",
                "Remove the duplicates, or name the column that tells records apart as 'record' in [cohort].",
            )
        return
    record_codes, record_texts = labels(base.frame[cohort.record])
    _check_filled(base, cohort.record, record_codes, record_texts, problems)
    pairs = codes * len(record_texts) + record_codes
    if twice := rows - len(np.unique(pairs)):
        problems.add(
            f"{base.path}: columns '{cohort.patient}' and '{cohort.record}': {count(twice, 'row')} repeating a record "
            "that is there already.",
            "Remove the duplicates.",
        )


def _check_filled(sheet: Sheet, column: str, codes: Ints, texts: list[str], problems: Problems) -> None:
    empty = np.array([text in MISSING for text in texts], dtype=bool)[codes] if texts else np.zeros(0, bool)
    if empty.any():
        problems.add(
            f"{sheet.path}: column '{column}': {count(int(empty.sum()), 'row')} empty "
            f"({first_row(sheet.frame, empty)}).",
            "Fill in the column or remove the rows.",
        )


def _agreed(study: Study, base: Sheet) -> Bools:
    """Return per row whether the patient's consent is there, or the study asks for none."""
    if study.cohort.consent is None:
        return np.ones(len(base.frame), dtype=bool)
    codes, texts = labels(base.frame[study.cohort.consent])
    return np.array([text.casefold() in YES for text in texts] or [False], dtype=bool)[codes]


def _held(study: Study, base: Sheet, codes: Ints, texts: list[str], problems: Problems) -> Bools | None:
    """Return per patient text whether the split column holds it out; None when there is no such column."""
    column = study.evaluation.split_column
    if column is None:
        return None
    words, said = labels(base.frame[column])
    where = {"train": 0, "test": 1}
    places = np.array([where.get(text.casefold(), -1) for text in said] or [-1], dtype=np.int64)[words]
    unknown = places < 0
    if unknown.any():
        problems.add(
            f"{base.path}: split column '{column}': {count(int(unknown.sum()), 'row')} with neither 'train' nor 'test' "
            f"({first_row(base.frame, unknown)}).",
            "Write 'train' or 'test' in every row.",
        )
    test = np.bincount(codes[places == 1], minlength=len(texts)) > 0
    train = np.bincount(codes[places == 0], minlength=len(texts)) > 0
    if both := int((test & train).sum()):
        problems.add(
            f"{base.path}: split column '{column}': {count(both, 'patient')} with records in both 'train' and 'test'.",
            "Put all records of a patient into one split.",
        )
    return test


def _keys(
    study: Study, base: Sheet, sheet: Sheet, one_row: bool, problems: Problems, warnings: list[str], *, alone: bool
) -> tuple[Ints, Ints]:
    """Return join keys of the cohort table's rows and of another table's; -1 joins nothing.

    The key is the patient, and the record too where the other table tells records apart by the same column:
    joined by the patient alone, the images of one visit would be paired with the findings of another. Of patients
    ``alone``, asked for out of many, it is no news that the other table has others.
    """
    patient, record = study.cohort.patient, study.cohort.record
    codes, texts = labels(sheet.frame[patient])
    _check_filled(sheet, patient, codes, texts, problems)
    columns = [patient, record] if record and record in sheet.frame else [patient]
    left, distinct = pd.factorize(_joint(base.frame, columns))
    joint = _joint(sheet.frame, columns)
    right = pd.Index(distinct).get_indexer(pd.Index(joint)).astype(np.int64)
    strangers = int((right < 0).sum())
    if alone:
        pass
    elif len(right) and strangers == len(right):
        problems.add(
            f"{sheet.path}: column '{patient}': none of {count(len(texts), 'patient')} is in {base.path}.",
            "Do both tables write patient ids in the same way?",
        )
    elif strangers:
        warnings.append(f"{sheet.path}: {count(strangers, 'row')} of no patient in {base.path} left out.")
    if one_row and (several := int((np.bincount(right[right >= 0], minlength=1) > 1).sum())):
        problems.add(
            f"{sheet.path}: column '{patient}': {count(several, 'patient')} with more than one row of genotypes.",
            "Keep one row per patient.",
        )
    return left.astype(np.int64), right


def _joint(frame: pd.DataFrame, columns: list[str]) -> NDArray[np.object_]:
    parts = []
    for column in columns:
        codes, texts = labels(frame[column])
        parts.append(np.array(texts, dtype=object)[codes])
    return parts[0] if len(parts) == 1 else parts[0] + "\x1f" + parts[1]
