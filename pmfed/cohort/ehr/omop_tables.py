"""The clinical tables of an OMOP database: which rows are asked for, and what each says happened."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from pmfed.cohort.contract.identity import SeenRows, digest
from pmfed.cohort.contract.numbers import LIMITS, NOTHING, UNDECLARED, Value, read_value
from pmfed.cohort.contract.uses import NO_DATE, Passed
from pmfed.cohort.contract.written import Written
from pmfed.cohort.ehr.clocks import Clock
from pmfed.cohort.ehr.codes import Coding, Matcher, system_of
from pmfed.cohort.ehr.concepts import OWN, Concepts
from pmfed.cohort.ehr.database import Database, DatabaseTable, among
from pmfed.cohort.ehr.events import Asked, Chunk, expand
from pmfed.cohort.ehr.resources import COMPARATOR
from pmfed.cohort.tables import count
from pmfed.errors import DataError

if TYPE_CHECKING:
    import sqlalchemy as sa


@dataclass(frozen=True)
class OmopKind:
    """A clinical table: what its events are, and how its columns begin."""

    table: str
    domain: str
    concept: str
    date: str
    numbers: bool = False

    @property
    def key(self) -> str:
        """The table's primary key."""
        return f"{self.table}_id"


KINDS = (
    OmopKind("condition_occurrence", "condition", "condition", "condition_start"),
    OmopKind("drug_exposure", "drug", "drug", "drug_exposure_start"),
    OmopKind("measurement", "measurement", "measurement", "measurement", numbers=True),
    OmopKind("observation", "observation", "observation", "observation", numbers=True),
    OmopKind("procedure_occurrence", "procedure", "procedure", "procedure"),
    OmopKind("visit_occurrence", "visit", "visit", "visit_start"),
    OmopKind("death", "death", "cause", "death"),
)

VISITS = {
    9201: ("inpatient",), 262: ("inpatient", "emergency"), 8717: ("inpatient",), 32037: ("inpatient",),
    9203: ("emergency",), 8870: ("emergency",), 9202: ("outpatient",), 8756: ("outpatient",), 581477: ("outpatient",),
    5083: ("outpatient",), 8940: ("outpatient",),
}  # fmt: skip
"""Kinds of visits by their standard concept."""

OPERATORS = {4171754: "<=", 4171755: ">=", 4171756: "<", 4172703: "=", 4172704: ">"}
"""What stands before a number, by its standard concept."""

MASK = (1 << 64) - 1


class Holder(Protocol):
    """The source that a table is part of: where it is, how it is written, and where what was seen is counted."""

    name: str
    database: Database
    written: Written
    zone: ZoneInfo | None
    counts: Counter[str]
    limits: list[str]
    passed: Passed
    refused: list[DataError]
    commas: list[DataError]


class Keys:
    """What makes a row one record: its primary key, or all of its columns where the table has none."""

    def __init__(self, table: DatabaseTable, key: str) -> None:
        import sqlalchemy as sa

        self.columns: list[sa.ColumnElement[Any]] = [table[key]]
        if (
            key not in table
        ):  # instants by their seconds: drivers show them where the process thinks it is, or not at all
            self.columns = [
                sa.extract("epoch", table[name]) if table.zoned(name) else table[name] for name in table.names
            ]

    def digests(self, rows: Sequence[Any], start: int) -> NDArray[np.uint64]:
        """Return 64 bits of each row's key, which begins at a column of the query."""
        return np.array([digest(repr(tuple(row[start:]))) & MASK for row in rows], dtype=np.uint64)


class TableReader:
    """Reads one clinical table."""

    def __init__(
        self, source: Holder, kind: OmopKind, matcher: Matcher, concepts: Concepts, people: dict[int, int]
    ) -> None:
        self.source, self.kind, self.matcher, self.concepts, self.people = source, kind, matcher, concepts, people
        self.table = source.database.tables[kind.table]
        self.clock = Clock(self.table, kind.date, source.written, source.zone)
        self._visits = {place for place, codes in enumerate(matcher.codes) for code in codes if code.system == "visit"}
        self._keys, self._seen, self._repeated, self._commas = Keys(self.table, kind.key), SeenRows(), 0, 0
        self._twice = self._shared_keys()
        self._rows: dict[int, int] = {}

    def _shared_keys(self) -> set[Any]:
        """Return the primary keys that more than one row has: none, in a sound database."""
        import sqlalchemy as sa

        if self.kind.key not in self.table:
            return set()
        key = self.table[self.kind.key]
        query = sa.select(key).where(self.table["person_id"].in_(among(list(self.people)))).group_by(key)
        return {one for rows in self.source.database.rows(query.having(sa.func.count() > 1)) for (one,) in rows}

    def query(self, asked: Asked) -> sa.Select[Any]:
        """Return the query for what may be asked for: exactly that, but for answers, which are compared later."""
        import sqlalchemy as sa

        kind, table = self.kind, self.table
        concept, source = table[f"{kind.concept}_concept_id"], table[f"{kind.concept}_source_concept_id"]
        written = table[f"{kind.concept}_source_value"]
        person = table["person_id"]
        nothing: sa.ColumnElement[Any] = sa.null()
        number = (
            table["value_as_number"]
            if table.written("value_as_number")
            else sa.cast(table["value_as_number"], sa.Double)
        )
        named, vocabulary = self._vocabulary(source)
        query = sa.select(
            person,
            *self.clock.columns,
            sa.func.coalesce(concept, 0),
            sa.func.coalesce(source, 0) if f"{kind.concept}_source_concept_id" in table else sa.literal(0),
            written if self.concepts.bare else nothing,
            vocabulary,
            table["value_as_concept_id"] if kind.numbers else nothing,
            self._text() if kind.numbers else nothing,
            number if kind.numbers else nothing,
            table["operator_concept_id"] if kind.numbers else nothing,
            table["unit_concept_id"] if kind.numbers else nothing,
            table["unit_source_value"] if kind.numbers else nothing,
            *self._keys.columns,
        ).select_from(named)
        query = query.where(person.in_(among(list(self.people))))
        if not np.isnat(asked.latest) and not table.written(f"{kind.date}_date"):
            date = table[f"{kind.date}_date"]
            query = query.where(sa.or_(date.is_(None), date <= sa.literal(_date(asked.latest))))
            if not np.isnat(asked.earliest) and asked.earliest > np.datetime64("0002-01-01"):
                query = query.where(sa.or_(date.is_(None), date >= sa.literal(_date(asked.earliest))))
        if kind.domain == "death" or (kind.domain == "visit" and self._visits):
            return query
        ids = among(self.concepts.ids)
        fits: list[sa.ColumnElement[bool]] = [concept.in_(ids)]
        if f"{kind.concept}_source_concept_id" in table:
            fits.append(source.in_(ids))
        if self.concepts.bare:
            fits += self._written(written)
        return query.where(sa.or_(*fits))

    def _vocabulary(self, source: sa.ColumnElement[Any]) -> tuple[Any, sa.ColumnElement[Any]]:
        """Return where to select from, and the code system of what the source wrote."""
        import sqlalchemy as sa

        own = self.table.clause
        if not self.concepts.mapped or f"{self.kind.concept}_source_concept_id" not in self.table:
            return own, sa.null()
        named = self.source.database.tables["concept"]
        return own.outerjoin(named.clause, named["concept_id"] == source), named["vocabulary_id"]

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
        rows = self._once(rows)
        columns = list(zip(*(row[:13] for row in rows), strict=True)) if rows else [()] * 13
        person, date, moment, concept, source, written, vocabulary, coded, text = columns[:9]
        value, operator, unit, unit_text = columns[9:]
        keys: dict[tuple[Any, ...], int] = {}
        shown = text if self.matcher.asks_answers else (None,) * len(rows)
        kinds = np.array(
            [
                keys.setdefault(key, len(keys))
                for key in zip(concept, source, written, vocabulary, coded, shown, strict=True)
            ],
            dtype=np.int64,
        )
        row, place = expand(kinds, [self._concepts(*key) for key in keys])
        patient = np.array([self.people[int(one)] for one in person], dtype=np.int64)
        when = self.clock.dated(date, moment)
        dated = ~np.isnat(when.last[row])
        self.source.counts["events without a date"] += int((~dated).sum())
        self.source.passed.count(place[~dated], NO_DATE)
        row, place = row[dated], place[dated]
        said = [self._value(*one) for one in zip(value, text, operator, unit, unit_text, strict=True)]
        measured = self.matcher.measured[place]
        self._commas += sum(said[one].why == UNDECLARED for one in np.unique(row[measured]).tolist())
        units = {unit: at for at, unit in enumerate(dict.fromkeys(one.unit for one in said))}
        reasons = {why: at for at, why in enumerate(dict.fromkeys(["", *(one.why for one in said)]))}
        return Chunk(
            patient[row],
            when.last[row],
            when.last[row],
            place,
            np.array([one.number for one in said], dtype=np.float64)[row],
            np.array([units[one.unit] for one in said], dtype=np.int64)[row],
            tuple(units) or ("",),
            np.array([one.limit for one in said], dtype=np.int64)[row],
            np.array([reasons[one.why] for one in said], dtype=np.int64)[row],
            tuple(reasons),
            when.adrift[row],
        )

    def _once(self, rows: Sequence[Any]) -> list[Any]:
        """Return the rows that are new: a primary key is one record, and so is a whole row of a table without one."""
        if self.kind.key in self.table:
            kept = []
            for row in rows:
                if row[13] in self._twice:
                    content = digest(repr(tuple(row[:13])))
                    if row[13] in self._rows:
                        self._repeated += 1
                        if self._rows[row[13]] != content:
                            raise DataError(
                                f"{self.source.name}: table '{self.kind.table}': two different rows have one "
                                f"{self.kind.key} (of {len(self._twice):,} that more than one row has).",
                                "A primary key is one record: was the table filled twice? Keep the newest rows.",
                            )
                        continue
                    self._rows[row[13]] = content
                kept.append(row)
            return kept
        fresh = self._seen.new(self._keys.digests(rows, 13))
        self._repeated += int((~fresh).sum())
        return [row for row, new in zip(rows, fresh.tolist(), strict=True) if new]

    def finish(self) -> None:
        """Tell what was seen, once every row was read."""
        where = f"{self.source.name}: table '{self.kind.table}'"
        self.source.refused += self.clock.errors(where)
        if self._repeated:
            self.source.counts[f"rows that {self.kind.table} holds again"] += self._repeated
            self.source.limits.append(f"{where}: {count(self._repeated, 'row')} repeating another row counted once.")
        if self._commas:
            self.source.commas.append(
                DataError(
                    f"{where}: {count(self._commas, 'value')} with a comma or a blank that may part thousands or decimals.",
                    'Say how numbers are written: decimal = "," under [written] where the source is described.',
                )
            )

    def _value(self, number: Any, text: Any, operator: Any, unit: Any, unit_text: Any) -> Value:
        """Return the value of a row: its number, or what its text says where there is none."""
        written = self.source.written
        if isinstance(number, str) or number is None:
            said = number if str(number or "").strip() else text
            found = NOTHING if said is None else read_value(str(said), written.decimal, written.thousands)
        else:
            found = Value(float(number)) if math.isfinite(number) else NOTHING
        sign = OPERATORS.get(int(operator)) if operator else "="
        if sign is None and not found.why and not math.isnan(found.number):
            return Value(math.nan, why=COMPARATOR)
        limit = LIMITS[sign or "="] or found.limit
        return found._replace(limit=limit, unit=self._unit(unit, unit_text) or found.unit)

    def _concepts(
        self, concept: Any, source: Any, written: Any, vocabulary: Any, coded: Any, text: Any
    ) -> tuple[int, ...]:
        """Return which of the study's concepts a kind of row is."""
        known = self.concepts
        places = [*known.concepts.get(int(concept), ()), *known.concepts.get(int(source), ())]
        own = system_of(str(vocabulary)) if vocabulary else ""
        marks = [*known.mapped.get(int(concept), ()), *known.pairs.get(int(concept), {}).get(int(coded or 0), ())]
        places += [place for system, place in marks if system != own]
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


def _date(moment: np.datetime64) -> Any:
    return moment.astype("datetime64[D]").item()
