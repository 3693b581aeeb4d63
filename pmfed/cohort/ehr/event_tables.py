"""Events out of a hospital's own tables: CSV or Parquet, long (a row per event) or wide (a column per code)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pmfed.cohort.ehr.batches import batches, inside
from pmfed.cohort.ehr.codes import Coding, Matcher, split
from pmfed.cohort.ehr.described import EventTable, NoteTable, PersonTable, SourceFile
from pmfed.cohort.ehr.events import FEMALE, MALE, Asked, Chunk, Ints, Persons, Texts, expand
from pmfed.cohort.ehr.moments import Moments, from_offsets, last_seconds, middle
from pmfed.cohort.tables import MISSING, count, labels, number, read_table
from pmfed.errors import DataError

SEXES = {"f": FEMALE, "female": FEMALE, "w": FEMALE, "8532": FEMALE, "m": MALE, "male": MALE, "8507": MALE}


class EventTables:
    """Tables of events as a source.

    Parameters
    ----------
    folder
        Where the tables lie; none is read from outside it.
    file
        Which tables, and what their columns are called.
    name
        What messages call the source.
    """

    def __init__(self, folder: Path, file: SourceFile, name: str) -> None:
        self.folder, self.file, self.name = folder, file, name
        self.counts: Counter[str] = Counter()
        self.limits: list[str] = []
        self.spellings = file.units
        self._present: set[str] | None = None

    def patients(self) -> list[str]:
        """Return the ids of all patients, ascending."""
        if self.file.persons:
            _, texts = labels(self._persons(self.file.persons)[self.file.persons.patient])
            return sorted(set(texts) - {""})
        return sorted(self._attending())

    def events(self, matcher: Matcher, asked: Asked) -> Iterator[Chunk]:
        """Yield the events that are one of the matcher's concepts."""
        if any(concept.descendants for concept in matcher.concepts):
            self.limits.append(
                f"{self.name}: tables do not tell the descendants of a code; only codes as listed count."
            )
        place = {one: rank for rank, one in enumerate(asked.ids)}
        present: set[str] = set()
        for table in self.file.tables:
            for frame in self._batches(table, matcher.asks_answers):
                codes, texts = labels(frame[table.patient])
                present.update(texts)
                patient = np.array([place.get(text, -1) for text in texts] or [-1], dtype=np.int64)[codes]
                mine = patient >= 0
                yield from self._chunks(table, frame[mine], patient[mine], matcher)
        self._present = present - {""}

    def _batches(self, table: EventTable, answers: bool) -> Iterator[pd.DataFrame]:
        path = inside(self.folder, table.file)
        recorded = [table.recorded] if table.recorded else []
        if table.columns:
            yield from batches(path, [table.patient, table.when, *recorded, *table.columns])
            return
        also = [table.value, table.unit, "domain"] + ["system"] * (table.system is None) + [table.text] * answers
        yield from batches(path, [table.patient, table.when, *recorded, table.code], also)

    def _chunks(self, table: EventTable, frame: pd.DataFrame, patient: Ints, matcher: Matcher) -> Iterator[Chunk]:
        if not table.columns:
            kinds, found = self._kinds(table, frame, matcher)
            row, concept = expand(kinds, found)
            units, names = _column(frame, table.unit)
            values = number(frame[table.value])[0] if table.value in frame else np.full(len(frame), np.nan)
            yield self._chunk(table, frame, patient, row, concept, values, units, names)
            return
        for column, spec in table.columns.items():
            coding = split(spec.code)
            assert coding is not None
            domain = spec.domain or table.domain
            concepts = matcher.choose(matcher.of_coding(*coding), frozenset({domain} if domain else ()))
            values, wrong = number(frame[column])
            filled = np.flatnonzero(~np.isnan(values) | wrong)
            row = np.repeat(filled, len(concepts))
            concept = np.tile(np.array(concepts, dtype=np.int64), len(filled))
            units = np.zeros(len(frame), dtype=np.int64)
            yield self._chunk(table, frame, patient, row, concept, values, units, [spec.unit])

    def _kinds(self, table: EventTable, frame: pd.DataFrame, matcher: Matcher) -> tuple[Ints, list[tuple[int, ...]]]:
        """Return of which kind each row is, and per kind which concepts that is."""
        names = [name for name in (table.code, "system", "domain", table.text) if name in frame]
        parts = [labels(frame[name]) for name in names]
        joint = np.zeros(len(frame), dtype=np.int64)
        for codes, texts in parts:  # renumbered after each column, so that it cannot overflow
            joint = np.unique(joint * max(1, len(texts)) + codes, return_inverse=True)[1].astype(np.int64)
        first = np.unique(joint, return_index=True)[1]
        found: list[tuple[int, ...]] = []
        unmapped: list[bool] = []
        for row in first.tolist():
            said = {name: texts[codes[row]] for name, (codes, texts) in zip(names, parts, strict=True)}
            coding = self._coding(table, said)
            unmapped.append(coding is None)
            if coding is None:
                found.append(())
                continue
            domain = said.get("domain", "") or table.domain
            found.append(
                matcher.choose(
                    matcher.of_coding(*coding),
                    frozenset({domain.casefold()} if domain else ()),
                    *_answer(said.get(table.text, "")),
                )
            )
        if any(unmapped):
            self.counts["events without a code of a named system"] += int(np.array(unmapped)[joint].sum())
        return joint, found

    def _coding(self, table: EventTable, said: dict[str, str]) -> Coding | None:
        code = said[table.code]
        if code in MISSING:
            return None
        if system := table.system or said.get("system", ""):
            return self.file.systems.get(system, system), code
        return split(code)

    def _chunk(
        self,
        table: EventTable,
        frame: pd.DataFrame,
        patient: Ints,
        row: Ints,
        concept: Ints,
        values: NDArray[np.float64],
        units: Ints,
        names: list[str],
    ) -> Chunk:
        used, place = np.unique(row, return_inverse=True)
        part = frame.take(used)
        when = self._moments(part[table.when], table.clock)
        known = np.maximum(when, self._moments(part[table.recorded], table.clock)) if table.recorded else when
        known = np.where(np.isnat(known), when, known)
        when, known = when[place], known[place]
        dated = ~np.isnat(when)
        self.counts["events without a date"] += int((~dated).sum())
        row = row[dated]
        return Chunk(patient[row], when[dated], known[dated], concept[dated], values[row], units[row], tuple(names))

    def _moments(self, column: pd.Series, clock: str) -> Moments:
        if clock != "date":
            return from_offsets(number(column)[0], clock)
        codes, texts = labels(column)
        return last_seconds(texts or [""], self.file.zone)[codes]

    def notes(self, asked: Asked) -> Iterator[Texts]:
        """Yield the notes of the patients asked for; NaT where they have no date."""
        place = {one: rank for rank, one in enumerate(asked.ids)}
        present: set[str] = set()
        for table in self.file.notes:
            path = inside(self.folder, table.file)
            recorded = [table.recorded] if table.recorded else []
            for frame in batches(path, [table.patient, table.text, *recorded], [table.when]):
                codes, texts = labels(frame[table.patient])
                present.update(texts)
                patient = np.array([place.get(text, -1) for text in texts] or [-1], dtype=np.int64)[codes]
                mine = patient >= 0
                yield self._texts(table, frame[mine], patient[mine])
        self._present = present - {""}

    def _texts(self, table: NoteTable, frame: pd.DataFrame, patient: Ints) -> Texts:
        never = np.full(len(frame), np.datetime64("NaT", "s"))
        when = self._moments(frame[table.when], table.clock) if table.when in frame else never
        known = np.maximum(when, self._moments(frame[table.recorded], table.clock)) if table.recorded else when
        return Texts(patient, when, np.where(np.isnat(known), when, known), frame[table.text].fillna("").tolist())

    def persons(self, asked: Asked) -> Persons:
        """Return who the patients are; without a table of persons only whether there is a row about them."""
        out = Persons.nobody(len(asked.ids), listed=self.file.persons is not None)
        if self.file.persons is None:
            present = self._attending()
            out.there[:] = [one in present for one in asked.ids]
            return out
        spec = self.file.persons
        frame = self._persons(spec)
        codes, texts = labels(frame[spec.patient])
        row_of = {texts[code]: row for row, code in enumerate(codes)}
        rows = np.array([row_of.get(one, -1) for one in asked.ids], dtype=np.int64)
        out.there[:] = rows >= 0
        taken = frame.take(rows[rows >= 0])
        if spec.birth in frame:
            births, said = labels(taken[spec.birth])
            out.birth[rows >= 0] = np.array([middle(text) for text in said] or [middle("")])[births]
        if spec.age in frame:
            out.age[rows >= 0] = number(taken[spec.age])[0]
        if spec.sex in frame:
            sexes, said = labels(taken[spec.sex])
            out.sex[rows >= 0] = np.array([SEXES.get(text.casefold(), -1) for text in said] or [-1])[sexes]
        return out

    def _persons(self, spec: PersonTable) -> pd.DataFrame:
        path = inside(self.folder, spec.file)
        frame = read_table(path, [spec.patient], [spec.birth, spec.age, spec.sex]).drop_duplicates()
        codes, _ = labels(frame[spec.patient])
        if several := int((np.bincount(codes, minlength=1) > 1).sum()):
            raise DataError(
                f"{path}: column '{spec.patient}': {count(several, 'patient')} with more than one row that differ.",
                "Two people with one id cannot be told apart: give each an id of their own.",
            )
        return frame

    def _attending(self) -> set[str]:
        """Return the patients of all rows."""
        if self._present is None:
            present: set[str] = set()
            places = [(one.file, one.patient) for one in self.file.tables]
            places += [(one.file, one.patient) for one in self.file.notes]
            for file, column in dict.fromkeys(places):
                for frame in batches(inside(self.folder, file), [column]):
                    present.update(labels(frame[column])[1])
            self._present = present - {""}
        return self._present


def _column(frame: pd.DataFrame, name: str) -> tuple[Ints, list[str]]:
    if name not in frame:
        return np.zeros(len(frame), dtype=np.int64), [""]
    codes, texts = labels(frame[name])
    return codes, ["" if text in MISSING else text for text in texts] or [""]


def _answer(text: str) -> tuple[list[Coding], list[str]]:
    coding = split(text)
    return ([coding] if coding else []), [text]
