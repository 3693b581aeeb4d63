"""Events out of a hospital's own tables: CSV or Parquet, long (a row per event) or wide (a column per code)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from pmfed.cohort.contract.identity import SeenRows, row_digests
from pmfed.cohort.contract.numbers import TWO_UNITS, Values
from pmfed.cohort.contract.refused import Refused
from pmfed.cohort.contract.times import Bools, Dated, Moments, dated, from_offsets, middle
from pmfed.cohort.contract.uses import NO_DATE, REPEATED, SYSTEM, Passed
from pmfed.cohort.detected import proposal
from pmfed.cohort.ehr.codes import Coding, Matcher, known_system, named_system, split
from pmfed.cohort.ehr.described import EventTable, NoteTable, PersonTable, SourceFile
from pmfed.cohort.ehr.events import FEMALE, MALE, Asked, Chunk, Ints, Persons, Texts, expand
from pmfed.cohort.ehr.folder import inside
from pmfed.cohort.ehr.spellings import plain
from pmfed.cohort.table_rows import batches
from pmfed.cohort.tables import MISSING, check_ids, count, dates_of, labels, number, read_table, values_of
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
        self.passed, self.refused, self.commas = Passed(), list[DataError](), list[DataError]()
        self._present: set[str] | None = None
        self._repeated = 0

    def _inside(self, file: str) -> Path:
        return inside(self.folder, file, self.file.written)

    def _told(self, odd: Refused, file: str) -> list[DataError]:
        return odd.errors(self._inside(file), proposal)

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
        seen_of: dict[str, SeenRows] = {}  # files of one form may overlap: a row that two of them hold is one row
        for table in self.file.tables:
            seen, odd = (
                seen_of.setdefault(table.model_copy(update={"file": ""}).model_dump_json(), SeenRows()),
                Refused(),
            )
            for frame in self._batches(table, matcher.asks_answers):
                check_ids(self._inside(table.file), table.patient, frame)
                patient = _placed(frame[table.patient], place, present)
                mine = patient >= 0
                yield from self._chunks(table, frame[mine], patient[mine], matcher, seen, odd)
            self.refused += self._told(odd, table.file)
            self.commas += odd.commas(self._inside(table.file), proposal)
        self._finish(present)

    def _finish(self, present: set[str]) -> None:
        """Tell what was seen, once every row was read."""
        self._present = present - {""}
        if self._repeated:
            self.limits.append(
                f"{self.name}: {count(self._repeated, 'row')} repeating another row in full counted once."
            )

    def _batches(self, table: EventTable, answers: bool) -> Iterator[pd.DataFrame]:
        path = self._inside(table.file)
        recorded = [table.recorded] if table.recorded else []
        if table.columns:
            yield from batches(path, [table.patient, table.when, *recorded, *table.columns], whole=True)
            return
        also = [table.value, table.unit, "domain"] + ["system"] * (table.system is None) + [table.text] * answers
        yield from batches(path, [table.patient, table.when, *recorded, table.code], also, whole=True)

    def _chunks(
        self, table: EventTable, frame: pd.DataFrame, patient: Ints, matcher: Matcher, seen: SeenRows, odd: Refused
    ) -> Iterator[Chunk]:
        if not table.columns:
            kinds, found = self._kinds(table, frame, matcher)
            row, concept = expand(kinds, found)
            row, concept = self._once(frame, row, concept, seen)
            units, names = _column(frame, table.unit)
            values = _nothing(len(frame))
            if table.value in frame:
                values = values_of(frame[table.value], self.file.written, table.value, united=table.unit in frame)
            yield self._chunk(table, frame, patient, row, concept, values, units, names, odd, table.value, matcher)
            return
        first = self._once(frame, np.arange(len(frame)), np.full(len(frame), -1), seen)[0]  # of no one concept
        fresh = np.zeros(len(frame), dtype=bool)
        fresh[first] = True
        for column, spec in table.columns.items():
            coding = split(spec.code)
            assert coding is not None
            domain = spec.domain or table.domain
            concepts = matcher.choose(matcher.of_coding(*coding), frozenset({domain} if domain else ()))
            values = values_of(frame[column], self.file.written, column, united=bool(spec.unit))
            filled = np.flatnonzero((~np.isnan(values.number) | (values.why != 0)) & fresh)
            row = np.repeat(filled, len(concepts))
            concept = np.tile(np.array(concepts, dtype=np.int64), len(filled))
            units = np.zeros(len(frame), dtype=np.int64)
            yield self._chunk(table, frame, patient, row, concept, values, units, [spec.unit], odd, column, matcher)

    def _once(self, frame: pd.DataFrame, row: Ints, concept: Ints, seen: SeenRows) -> tuple[Ints, Ints]:
        """Return the events of rows that were not there before: the same row again is the same event."""
        used, place = np.unique(row, return_inverse=True)
        fresh = seen.new(row_digests(frame.take(used)))
        self._repeated += int((~fresh).sum())
        again = ~fresh[place]
        self.passed.count(concept[again], REPEATED)
        return row[~again], concept[~again]

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
            if coding is None or not known_system(coding[0]):
                bare = said[table.code] if coding is None else coding[1]
                self.passed.add(matcher.of_bare(bare), SYSTEM, int((joint == len(found)).sum()))
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
            return named_system(system, self.file.systems) or system, code
        return split(code)

    def _chunk(
        self,
        table: EventTable,
        frame: pd.DataFrame,
        patient: Ints,
        row: Ints,
        concept: Ints,
        values: Values,
        units: Ints,
        names: list[str],
        odd: Refused,
        column: str,
        matcher: Matcher,
    ) -> Chunk:
        used, place = np.unique(row, return_inverse=True)
        part = frame.take(used)
        when = self._dated(part[table.when], table.when, table.clock)
        odd.dates(table.when, part, when)
        known, adrift = self._known(table, part, when, odd)
        odd.numbers(column, frame, row[matcher.measured[concept]], values)
        moment = when.take(place)
        dated = ~np.isnat(moment.last)
        self.counts["events without a date"] += int((~dated).sum())
        self.passed.count(concept[~dated], NO_DATE)
        row, place, concept = row[dated], place[dated], concept[dated]
        unit, spelled, why, reasons = self._units(values.take(row), units[row], names)
        return Chunk(
            patient[row],
            moment.last[dated],
            known[place],
            concept,
            np.where(why == 0, values.number[row], np.nan),
            unit,
            spelled,
            values.limit[row],
            why,
            reasons,
            moment.adrift[dated] | adrift[place],
        )

    def _units(
        self, values: Values, units: Ints, names: list[str]
    ) -> tuple[Ints, tuple[str, ...], Ints, tuple[str, ...]]:
        """Return the unit of each value, of its column or written beside the number, and why it has none after all."""
        pairs, which = np.unique(units * len(values.units) + values.unit, return_inverse=True)
        spelled, clash = [], []
        for pair in pairs.tolist():
            apart, beside = names[pair // len(values.units)], values.units[pair % len(values.units)]
            spelled.append(apart or beside)
            clash.append(bool(apart and beside) and self._spelled(apart) != self._spelled(beside))
        why = np.where(np.array(clash or [False])[which] & (values.why == 0), len(values.reasons), values.why)
        return which.astype(np.int64), tuple(spelled) or ("",), why.astype(np.int64), (*values.reasons, TWO_UNITS)

    def _spelled(self, unit: str) -> str:
        return plain(self.spellings.get(unit.strip(), unit.strip()))

    def _dated(self, column: pd.Series, name: str, clock: str) -> Dated:
        if clock != "date":
            found, wrong = number(column, self.file.written, name)
            when = from_offsets(found, clock)
            return Dated(when, when, wrong, np.zeros(len(when), dtype=bool))
        return dates_of(column, self.file.written, name, self.file.zone)

    def _known(
        self, table: EventTable | NoteTable, frame: pd.DataFrame, when: Dated, odd: Refused
    ) -> tuple[Moments, Bools]:
        """Return when rows were entered, at the latest, and where that is adrift; when they happened where nothing tells."""
        if not table.recorded:
            return when.last, np.zeros(len(frame), dtype=bool)
        entered = self._dated(frame[table.recorded], table.recorded, table.clock)
        odd.dates(table.recorded, frame, entered)
        known = np.where(np.isnat(entered.last), when.last, np.maximum(when.last, entered.last))
        return known, entered.adrift

    def notes(self, asked: Asked) -> Iterator[Texts]:
        """Yield the notes of the patients asked for; NaT where they have no date."""
        place = {one: rank for rank, one in enumerate(asked.ids)}
        present: set[str] = set()
        for table in self.file.notes:
            path, seen, odd = self._inside(table.file), SeenRows(), Refused()
            recorded = [table.recorded] if table.recorded else []
            for frame in batches(path, [table.patient, table.text, *recorded], [table.when], whole=True):
                patient = _placed(frame[table.patient], place, present)
                mine = np.flatnonzero(patient >= 0)
                fresh = seen.new(row_digests(frame.take(mine)))
                self._repeated += int((~fresh).sum())
                yield self._texts(table, frame.take(mine[fresh]), patient[mine[fresh]], odd)
            self.refused += self._told(odd, table.file)
        self._finish(present)

    def _texts(self, table: NoteTable, frame: pd.DataFrame, patient: Ints, odd: Refused) -> Texts:
        when = dated([""] * len(frame))
        if table.when in frame:
            when = self._dated(frame[table.when], table.when, table.clock)
            odd.dates(table.when, frame, when)
        return Texts(patient, when.last, self._known(table, frame, when, odd)[0], frame[table.text].fillna("").tolist())

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
            style = self.file.written.dates
            out.birth[rows >= 0] = np.array([middle(text, style) for text in said] or [middle("")])[births]
            self._count_births(taken, spec.birth, out.birth[rows >= 0])
        if spec.age in frame:
            out.age[rows >= 0] = number(taken[spec.age], self.file.written, spec.age)[0]
        if spec.sex in frame:
            sexes, said = labels(taken[spec.sex])
            out.sex[rows >= 0] = np.array([SEXES.get(text.casefold(), -1) for text in said] or [-1])[sexes]
        return out

    def _count_births(self, frame: pd.DataFrame, column: str, births: Moments) -> None:
        """Refuse dates of birth of another style than the declared one."""
        assert self.file.persons is not None
        nothing = np.array([str(cell).strip() in MISSING for cell in frame[column].fillna("")], dtype=bool)
        none = np.zeros(len(frame), dtype=bool)
        odd = Refused()
        odd.dates(column, frame, Dated(births, births, np.isnat(births) & ~nothing, none))
        self.refused += self._told(odd, self.file.persons.file)

    def _persons(self, spec: PersonTable) -> pd.DataFrame:
        path = self._inside(spec.file)
        frame = read_table(path, [spec.patient], [spec.birth, spec.age, spec.sex]).drop_duplicates()
        check_ids(path, spec.patient, frame)
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
                for frame in batches(self._inside(file), [column]):
                    present.update(labels(frame[column])[1])
            self._present = present - {""}
        return self._present


def _placed(column: pd.Series, place: dict[str, int], present: set[str]) -> Ints:
    """Return each row's place among the patients asked for, -1 for none of them; add whoever is there to ``present``."""
    codes, texts = labels(column)
    present.update(texts)
    return np.array([place.get(text, -1) for text in texts] or [-1], dtype=np.int64)[codes]


def _column(frame: pd.DataFrame, name: str) -> tuple[Ints, list[str]]:
    if name not in frame:
        return np.zeros(len(frame), dtype=np.int64), [""]
    codes, texts = labels(frame[name])
    return codes, ["" if text in MISSING else text for text in texts] or [""]


def _answer(text: str) -> tuple[list[Coding], list[str]]:
    coding = split(text)
    return ([coding] if coding else []), [text]


def _nothing(rows: int) -> Values:
    return Values.of(np.full(rows, np.nan))
