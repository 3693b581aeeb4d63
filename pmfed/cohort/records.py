"""From tables to records: who is in the cohort, with which outcome, and which rows belong together."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pmfed.cohort.ehr.cohorts import YES
from pmfed.cohort.joins import left_join, under_cap
from pmfed.cohort.outcomes import outcomes_of
from pmfed.cohort.sheet import Sheet
from pmfed.cohort.split import held_out
from pmfed.cohort.tables import MISSING, Problems, check_ids, count, first_row, labels, read_table, repeated
from pmfed.cohort.unlabelled import Unlabelled
from pmfed.errors import DataError
from pmfed.modality import LISTED, Genotypes, Modality, Nifti, Signals, Table, sources_of
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


def modalities_at(study: Study, sources: Mapping[str, Path | str], warnings: list[str]) -> dict[str, Modality]:
    """Return the modalities whose table (and folder) the site has; warn of the others."""
    here = {}
    for name, modality in sorted(study.modalities.items()):
        lacking = [source for source in sources_of(modality) if source not in sources]
        if lacking:
            listed = " and ".join(f"'{source}'" for source in lacking)
            warnings.append(f"modality '{name}' is absent: the site has no source {listed}.")
        else:
            here[name] = modality
    return here


def read_sheets(
    study: Study,
    sources: Mapping[str, Path | str],
    here: Mapping[str, Modality],
    problems: Problems,
    warnings: list[str],
    unlabelled: Unlabelled | None = None,
) -> dict[str, Sheet]:
    """Read the columns that the study names of the cohort table and of every modality's table; a row counts once."""
    cohort = study.cohort
    listed = unlabelled is not None and unlabelled.only is not None
    if cohort.table not in sources and not listed:
        near = difflib.get_close_matches(cohort.table, list(sources), n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        problems.add(
            f"there is no source '{cohort.table}', the study's cohort table{hint}",
            f'Add {cohort.table} = "FILE" to [data] in site.toml.',
        )
        return {}
    own = [cohort.patient, cohort.record]
    if unlabelled is None:
        own += [*study.outcome.columns, study.evaluation.split_column, cohort.consent]
    if unlabelled is None or unlabelled.at is None:
        own.append(cohort.index)
    columns: dict[str, list[str]] = {cohort.table: [name for name in own if name is not None]}
    if study.outcome.masks is not None and unlabelled is None:
        columns[cohort.table] += [m.file for m in here.values() if isinstance(m, Nifti)]  # beside their masks
    for modality in here.values():
        if not isinstance(modality, LISTED):
            continue
        names = columns.setdefault(modality.table, [cohort.patient])
        if isinstance(modality, Table):
            names += [modality.features[key].column or key for key in sorted(modality.features)]
        elif isinstance(modality, Genotypes):
            names += [modality.variants[key].column or key for key in sorted(modality.variants)]
        else:
            names.append(modality.file)
            if isinstance(modality, Signals) and modality.when:
                names.append(modality.when)
    sheets = {}
    for source, names in columns.items():
        if source not in sources:
            assert unlabelled is not None
            sheets[source] = Sheet(Path("the patients asked for"), unlabelled.listed(cohort.patient))
            continue
        try:
            path = path_of(sources[source])
            frame = read_table(path, names, [cohort.record] if cohort.record else [])
            check_ids(path, cohort.patient, frame)
            again = repeated(path, frame)
            if again.any():
                warnings.append(f"{path}: {count(int(again.sum()), 'row')} repeating another row in full counted once.")
            sheets[source] = Sheet(path, frame[~again])
        except DataError as error:
            problems.note(error)
    return sheets


def read_records(
    study: Study,
    sheets: Mapping[str, Sheet],
    here: Mapping[str, Modality],
    problems: Problems,
    warnings: list[str],
    unlabelled: Unlabelled | None = None,
) -> Records | None:
    """Return the site's records, or None when there are problems; of unlabelled ones all that are asked for."""
    cohort = study.cohort
    base = sheets[cohort.table]
    codes, texts = labels(base.frame[cohort.patient])
    _check_identity(study, base, codes, texts, problems)
    asked = np.ones(len(codes), dtype=bool)
    if unlabelled is None:
        targets, held = outcomes_of(study, base, problems), _held(study, base, codes, texts, problems)
    else:
        targets, held = np.zeros(len(codes)), np.ones(len(texts), dtype=bool)
        asked = unlabelled.wanted(base.path, codes, texts, problems)
    one_row = {modality.table for modality in here.values() if isinstance(modality, Genotypes)}
    keys = {
        source: _keys(study, base, sheet, source in one_row, problems, warnings, alone=unlabelled is not None)
        for source, sheet in sheets.items()
        if source != cohort.table
    }
    agreed, refused = _agreed(study, base) if unlabelled is None else None, 0
    if agreed is not None and not agreed.all():
        # One "no" of a patient counts for all of the patient's records.
        refused = len(np.unique(codes[~agreed]))
        agreed = ~np.isin(codes, codes[~agreed])
    unknown = study.outcome.unknown(targets)
    used = np.flatnonzero(asked & ~unknown & (agreed if agreed is not None else True))
    if (
        not len(used) and unlabelled is None and not problems
    ):  # an outcome nobody's could be read of is a problem already
        if unknown.all():
            lacks, remedy = f"the outcome '{study.outcome.name}'", "that the outcome is filled in"
        else:
            lacks, remedy = f"both the outcome and a consent in '{cohort.consent}'", "how a consent is written there"
        problems.add(
            f"{base.path}: no patients are left: of {count(len(targets), 'row')} none has {lacks}.",
            f"Check that this is the right table and {remedy}.",
        )
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
    split, cap = study.evaluation.split_key, cohort.max_records if unlabelled is None else len(codes) + int(full.sum())
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
    if held is None:
        training = ~held_out(ids, split, study.evaluation.test_fraction)
    else:
        training = ~held[codes[rows[cohort.table][np.searchsorted(owner, np.arange(len(ids)))]]]
    if unlabelled is not None:
        unlabelled.labels = _labels(study, base, rows[cohort.table])
    return Records(
        tuple(ids),
        owner,
        rows,
        targets[rows[cohort.table]],
        training,
        len(texts) - len(ids) - refused,
        refused,
        over_cap,
    )


def path_of(source: Path | str) -> Path:
    """Return a source as a path; one that knows how its table is written stays so."""
    return source if isinstance(source, Path) else Path(source)


def _labels(study: Study, base: Sheet, rows: Ints) -> tuple[str, ...]:
    """Return what the study calls each record, "" where a patient has one row."""
    if study.cohort.record is None:
        return ("",) * len(rows)
    codes, texts = labels(base.frame[study.cohort.record])
    return tuple(texts[code] for code in codes[rows])


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


def _agreed(study: Study, base: Sheet) -> Bools | None:
    """Return per row whether the patient's consent is there; None when the study has no such column."""
    if study.cohort.consent is None:
        return None
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
