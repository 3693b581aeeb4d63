"""OMOP CDM 5.4 as a source, https://ohdsi.github.io/CommonDataModel/cdm54.html."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pmfed.cohort.contract.identity import SeenRows
from pmfed.cohort.contract.times import middle
from pmfed.cohort.contract.uses import Passed
from pmfed.cohort.ehr.clocks import Clock
from pmfed.cohort.ehr.codes import Matcher
from pmfed.cohort.ehr.concepts import resolve
from pmfed.cohort.ehr.database import Database, DatabaseTable, among, open_database
from pmfed.cohort.ehr.described import OmopPlace, SourceFile
from pmfed.cohort.ehr.event_tables import SEXES
from pmfed.cohort.ehr.events import Asked, Chunk, Persons, Texts
from pmfed.cohort.ehr.omop_tables import KINDS, Keys, OmopKind, TableReader
from pmfed.cohort.tables import count
from pmfed.errors import DataError

_ID = re.compile(r"-?[1-9][0-9]{0,18}|0")


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
        self.database: Database = open_database(where, schemas, file.written, place.timeout)
        self.name = self.database.name
        self.counts: Counter[str] = Counter()
        self.limits: list[str] = []
        self.spellings = file.units
        self.passed, self.refused, self.commas = Passed(), list[DataError](), list[DataError]()
        self.written, self.zone = file.written, file.zone
        if (person := self.database.tables.get("person")) and self.database.session.may_write(
            person.schema, person.clause.name
        ):
            self.limits.append(f"{self.name}: this user may change its tables: give pmfed one who may only read.")
        self._people: dict[tuple[str, ...], dict[int, int]] = {}

    def _table(self, name: str) -> DatabaseTable:
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
            reader = TableReader(self, kind, matcher, concepts, people)
            for rows in self.database.rows(reader.query(asked)):
                yield reader.chunk(rows)
            reader.finish()
            self._count_unmapped(kind, people)

    def _count_unmapped(self, kind: OmopKind, people: dict[int, int]) -> None:
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
            numbers = [int(one) for one in asked.ids if _ID.fullmatch(one) and -(2**63) <= int(one) < 2**63]
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
        clock, keys, seen = Clock(table, "note", self.written, self.zone), Keys(table, "note_id"), SeenRows()
        query = sa.select(person, *clock.columns, table["note_text"], *keys.columns).where(
            person.in_(among(list(people)))
        )
        for rows in self.database.rows(query):
            fresh = np.flatnonzero(seen.new(keys.digests(rows, 4)))
            self.counts["rows repeating another row"] += len(rows) - len(fresh)
            persons, date, moment, text = (
                zip(*(rows[one][:4] for one in fresh.tolist()), strict=True) if len(fresh) else ((),) * 4
            )
            when = clock.dated(date, moment).last
            patient = np.array([people[int(one)] for one in persons], dtype=np.int64)
            yield Texts(patient, when, when, [one or "" for one in text])
        self.refused += clock.errors(f"{self.name}: table 'note'")


def _may_be(matcher: Matcher, place: int, kind: OmopKind) -> bool:
    """Return whether a concept may be in a table."""
    domain = matcher.concepts[place].domain
    if domain is not None and domain != kind.domain:
        return False
    systems = {code.system for code in matcher.codes[place]}
    if kind.domain in ("visit", "death"):
        return domain == kind.domain or kind.domain in systems
    return bool(systems - {"visit", "death"})
