"""OMOP CDM 5.4 as a source, https://ohdsi.github.io/CommonDataModel/cdm54.html."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pmfed.cohort.ehr.codes import Coding, Matcher
from pmfed.cohort.ehr.concepts import OWN, Concepts, resolve
from pmfed.cohort.ehr.database import Database, Table, among, open_database
from pmfed.cohort.ehr.described import OmopPlace, SourceFile
from pmfed.cohort.ehr.event_tables import SEXES
from pmfed.cohort.ehr.events import Asked, Chunk, Floats, Ints, Persons, Texts, expand
from pmfed.cohort.ehr.moments import DAY, Moments, middle
from pmfed.cohort.tables import count
from pmfed.errors import DataError

if TYPE_CHECKING:
    import sqlalchemy as sa


@dataclass(frozen=True)
class Kind:
    """A clinical table: what its events are, and how its columns begin."""

    table: str
    domain: str
    concept: str
    date: str
    numbers: bool = False


KINDS = (
    Kind("condition_occurrence", "condition", "condition", "condition_start"),
    Kind("drug_exposure", "drug", "drug", "drug_exposure_start"),
    Kind("measurement", "measurement", "measurement", "measurement", numbers=True),
    Kind("observation", "observation", "observation", "observation", numbers=True),
    Kind("procedure_occurrence", "procedure", "procedure", "procedure"),
    Kind("visit_occurrence", "visit", "visit", "visit_start"),
    Kind("death", "death", "cause", "death"),
)

VISITS = {
    9201: ("inpatient",), 262: ("inpatient", "emergency"), 8717: ("inpatient",), 32037: ("inpatient",),
    9203: ("emergency",), 8870: ("emergency",), 9202: ("outpatient",), 8756: ("outpatient",), 581477: ("outpatient",),
    5083: ("outpatient",), 8940: ("outpatient",),
}  # fmt: skip
"""Kinds of visits by their standard concept."""


class Omop:
    """An OMOP database as a source.

    Parameters
    ----------
    where
        A DuckDB file, a folder of CSV or Parquet tables, or an SQLAlchemy URL.
    file
        The site's description.
    """

    def __init__(self, where: Path | str, file: SourceFile) -> None:
        place = file.omop
        assert place is not None
        self.place: OmopPlace = place
        schemas = [schema for schema in (place.tables, place.vocabulary) if schema]
        self.database: Database = open_database(where, schemas)
        self.name = self.database.name
        self.counts: Counter[str] = Counter()
        self.limits: list[str] = []
        self.spellings = file.units
        self._people: dict[tuple[str, ...], dict[int, int]] = {}

    def _table(self, name: str) -> Table:
        if name not in self.database.tables:
            raise DataError(
                f"{self.name}: lacks the table '{name}', which the study needs.",
                "OMOP CDM 5.4 has this table, even where it is empty. Is 'schema' right, and may this user read the table?",
            )
        return self.database.tables[name]

    def patients(self) -> list[str]:
        """Return the ids of all patients, ascending."""
        import sqlalchemy as sa

        column = self._table("person")[self.place.patient]
        query = sa.select(column).where(column.is_not(None)).distinct()
        return sorted(str(one) for rows in self.database.rows(query) for (one,) in rows)

    def events(self, matcher: Matcher, asked: Asked) -> Iterator[Chunk]:
        """Yield the events that are one of the matcher's concepts."""
        kinds = [kind for kind in KINDS if any(_may_be(matcher, place, kind) for place in range(len(matcher.concepts)))]
        for kind in kinds:
            self._table(kind.table)
        people = self._place_of(asked)
        concepts = resolve(self.database, matcher, self.limits)
        for kind in kinds:
            reader = _Reader(self, kind, matcher, concepts, people)
            for rows in self.database.rows(reader.query(asked)):
                yield reader.chunk(rows)
            self._count_unmapped(kind, people)

    def _count_unmapped(self, kind: Kind, people: dict[int, int]) -> None:
        import sqlalchemy as sa

        if kind.domain in ("visit", "death"):
            return
        table = self._table(kind.table)
        concept = table[f"{kind.concept}_concept_id"]
        query = sa.select(sa.func.count()).where(
            table["person_id"].in_(among(list(people))), sa.or_(concept.is_(None), concept == 0)
        )
        for rows in self.database.rows(query):
            self.counts[f"events without a mapped code in {kind.table}"] += int(rows[0][0])

    def _place_of(self, asked: Asked) -> dict[int, int]:
        """Return person id -> place of the patient."""
        import sqlalchemy as sa

        if asked.ids in self._people:
            return self._people[asked.ids]
        person = self._table("person")
        column = person[self.place.patient]
        place = {one: rank for rank, one in enumerate(asked.ids)}
        if self.place.patient == "person_id":
            numbers = [int(one) for one in asked.ids if one.isdecimal() and str(int(one)) == one and len(one) < 19]
            query = sa.select(person["person_id"], column).where(column.in_(among(numbers)))
        else:
            query = sa.select(person["person_id"], column).where(column.in_(among(list(asked.ids))))
        found = [(int(number), place[str(one)]) for rows in self.database.rows(query) for number, one in rows]
        several = sum(number > 1 for number in Counter(rank for _, rank in found).values())
        several += sum(number > 1 for number in Counter(person for person, _ in found).values()) if not several else 0
        if several:
            raise DataError(
                f"{self.name}: table 'person': {count(several, 'patient')} with more than one row.",
                "Two people with one id cannot be told apart: give each an id of their own.",
            )
        self._people = {asked.ids: dict(found)}
        return self._people[asked.ids]

    def persons(self, asked: Asked) -> Persons:
        """Return who the patients are."""
        import sqlalchemy as sa

        people, person, out = self._place_of(asked), self._table("person"), Persons.nobody(len(asked.ids))
        names = ("year_of_birth", "month_of_birth", "day_of_birth", "gender_concept_id", "gender_source_value")
        query = sa.select(person["person_id"], *(person[name] for name in names)).where(
            person["person_id"].in_(among(list(people)))
        )
        for rows in self.database.rows(query):
            for number, year, month, day, gender, written in rows:
                place = people[int(number)]
                out.there[place] = True
                if year is not None:
                    parts = [
                        f"{int(year):04}",
                        *(f"{int(part):02}" for part in (month, day if month else None) if part),
                    ]
                    out.birth[place] = middle("-".join(parts))
                said = str(gender) if str(gender) in SEXES else str(written or "").strip().casefold()
                out.sex[place] = SEXES.get(said, -1)
        return out

    def notes(self, asked: Asked) -> Iterator[Texts]:
        """Yield the notes of the patients asked for."""
        import sqlalchemy as sa

        people, table = self._place_of(asked), self._table("note")
        person = table["person_id"]
        query = sa.select(person, *_dates(table, "note"), table["note_text"]).where(person.in_(among(list(people))))
        for rows in self.database.rows(query):
            persons, date, moment, text = zip(*rows, strict=True)
            when = _moments(date, moment)
            patient = np.array([people[int(one)] for one in persons], dtype=np.int64)
            yield Texts(patient, when, when, [one or "" for one in text])


class _Reader:
    """Reads one clinical table."""

    def __init__(self, source: Omop, kind: Kind, matcher: Matcher, concepts: Concepts, people: dict[int, int]) -> None:
        self.source, self.kind, self.matcher, self.concepts, self.people = source, kind, matcher, concepts, people
        self.table = source.database.tables[kind.table]
        self._visits = {place for place, codes in enumerate(matcher.codes) for code in codes if code.system == "visit"}

    def query(self, asked: Asked) -> sa.Select[Any]:
        """Return the query for what may be asked for: exactly that, but for answers, which are compared later."""
        import sqlalchemy as sa

        kind, table = self.kind, self.table
        concept, source = table[f"{kind.concept}_concept_id"], table[f"{kind.concept}_source_concept_id"]
        written = table[f"{kind.concept}_source_value"]
        person = table["person_id"]
        nothing: sa.ColumnElement[Any] = sa.null()
        query = sa.select(
            person,
            *_dates(table, kind.date),
            sa.func.coalesce(concept, 0),
            sa.func.coalesce(source, 0) if f"{kind.concept}_source_concept_id" in table else sa.literal(0),
            written if self.concepts.bare else nothing,
            sa.cast(table["value_as_number"], sa.Double) if kind.numbers else nothing,
            table["value_as_concept_id"] if kind.numbers and self.matcher.asks_answers else nothing,
            self._text() if self.matcher.asks_answers else nothing,
            table["unit_concept_id"] if kind.numbers else nothing,
            table["unit_source_value"] if kind.numbers else nothing,
        ).where(person.in_(among(list(self.people))))
        if not np.isnat(asked.latest):
            date = table[f"{kind.date}_date"]
            query = query.where(sa.or_(date.is_(None), date <= sa.literal(_date(asked.latest))))
            if not np.isnat(asked.earliest) and asked.earliest > np.datetime64("0002-01-01"):
                query = query.where(sa.or_(date.is_(None), date >= sa.literal(_date(asked.earliest))))
        if kind.domain == "death" or (kind.domain == "visit" and self._visits):
            return query
        ids = among(sorted(self.concepts.concepts))
        fits: list[sa.ColumnElement[bool]] = [concept.in_(ids)]
        if f"{kind.concept}_source_concept_id" in table:
            fits.append(source.in_(ids))
        if self.concepts.bare:
            fits += self._written(written)
        return query.where(sa.or_(*fits))

    def _text(self) -> sa.ColumnElement[Any]:
        """Return what an event says in words."""
        import sqlalchemy as sa

        names = [name for name in ("value_as_string", "value_source_value") if name in self.table]
        return sa.func.coalesce(*(self.table[name] for name in names)) if names else sa.null()

    def _written(self, written: sa.ColumnElement[Any]) -> list[sa.ColumnElement[bool]]:
        """Return which codes as the source wrote them may be meant; the matcher has the last word."""
        import sqlalchemy as sa

        codes = [code for codes in self.matcher.codes for code in codes if code.system not in OWN]
        plain = sa.func.upper(sa.func.replace(written, ".", ""))
        fits: list[sa.ColumnElement[bool]] = [
            plain.startswith(code.code.upper().replace(".", ""), autoescape=True) for code in codes if code.prefix
        ]
        exact = sorted({code.code.upper().replace(".", "") for code in codes if not code.prefix})
        return [*fits, plain.in_(among(exact))] if exact else fits

    def chunk(self, rows: Sequence[Any]) -> Chunk:
        """Return rows of the query as events."""
        person, date, moment, concept, source, written, value, coded, text, unit, unit_text = zip(*rows, strict=True)
        keys: dict[tuple[Any, ...], int] = {}
        kinds = np.array(
            [keys.setdefault(key, len(keys)) for key in zip(concept, source, written, coded, text, strict=True)],
            dtype=np.int64,
        )
        row, place = expand(kinds, [self._concepts(*key) for key in keys])
        units: dict[str, int] = {}
        spelled = [units.setdefault(self._unit(*pair), len(units)) for pair in zip(unit, unit_text, strict=True)]
        patient = np.array([self.people[int(one)] for one in person], dtype=np.int64)
        when = _moments(date, moment)
        dated = ~np.isnat(when[row])
        self.source.counts["events without a date"] += int((~dated).sum())
        row, place = row[dated], place[dated]
        values = np.array(value, dtype=np.float64)
        spelling = np.array(spelled, dtype=np.int64)
        return Chunk(patient[row], when[row], when[row], place, values[row], spelling[row], tuple(units))

    def _concepts(self, concept: Any, source: Any, written: Any, coded: Any, text: Any) -> tuple[int, ...]:
        """Return which of the study's concepts a kind of row is."""
        places = [*self.concepts.concepts.get(int(concept), ()), *self.concepts.concepts.get(int(source), ())]
        if self.kind.domain == "visit":
            kinds = VISITS.get(int(concept), ("other",))
            places += [place for kind in kinds for place in self.matcher.of_coding("VISIT", kind)]
        elif self.kind.domain == "death":
            places += self.matcher.of_coding("DEATH", "death")
        elif written is not None:
            places += [
                place
                for place in self.matcher.of_bare(str(written))
                if not all(code.system in OWN for code in self.matcher.codes[place])
            ]
        answers: list[Coding] = []
        if coded:
            answers = [("OMOP", str(int(coded)))]
            answers += [self.concepts.answers[int(coded)]] if int(coded) in self.concepts.answers else []
        return self.matcher.choose(places, frozenset({self.kind.domain}), answers, [] if text is None else [str(text)])

    def _unit(self, concept: Any, written: Any) -> str:
        return self.concepts.units.get(int(concept or 0)) or str(written or "").strip()


def _may_be(matcher: Matcher, place: int, kind: Kind) -> bool:
    """Return whether a concept may be in a table."""
    domain = matcher.concepts[place].domain
    if domain is not None and domain != kind.domain:
        return False
    systems = {code.system for code in matcher.codes[place]}
    if kind.domain in ("visit", "death"):
        return domain == kind.domain or kind.domain in systems
    return bool(systems - {"visit", "death"})


def _dates(table: Table, start: str) -> tuple[sa.ColumnElement[Any], sa.ColumnElement[Any]]:
    """Return a row's date and its moment, in seconds since 1970."""
    import sqlalchemy as sa

    def seconds(name: str) -> sa.ColumnElement[Any]:
        if name not in table:
            return sa.null()
        return sa.cast(sa.extract("epoch", sa.cast(table[name], sa.TIMESTAMP)), sa.Double)

    return seconds(f"{start}_date"), seconds(f"{start}_datetime")


def _moments(date: Sequence[Any], moment: Sequence[Any]) -> Moments:
    """Return when rows happened, at the latest: OMOP writes midnight where the time of day is not known."""
    days: Floats = np.array(date, dtype=np.float64)
    exact: Floats = np.array(moment, dtype=np.float64)
    timed = ~np.isnan(exact) & (exact % DAY != 0)
    seconds = np.where(timed, exact, np.where(np.isnan(days), exact, days) + DAY - 1)
    known = np.isfinite(seconds)
    out: Ints = np.full(len(seconds), np.iinfo(np.int64).min)
    out[known] = np.floor(seconds[known]).astype(np.int64)
    return out.view("datetime64[s]")


def _date(moment: np.datetime64) -> Any:
    return moment.astype("datetime64[D]").item()
