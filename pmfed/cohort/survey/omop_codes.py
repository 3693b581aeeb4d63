"""Which codes an OMOP database holds, counted by the database itself."""

from __future__ import annotations

from collections.abc import Iterator

from pmfed.cohort.ehr.database import Database, among
from pmfed.cohort.ehr.omop_tables import KINDS, OmopKind
from pmfed.cohort.survey.code_found import CodeFound
from pmfed.cohort.survey.names import MANY, harmless


def listed_codes(database: Database) -> Iterator[CodeFound]:
    """Yield the standard codes of ten patients or more, the most frequent first."""
    found: list[tuple[int, CodeFound]] = []
    for kind in KINDS:
        if kind.table in database.tables and kind.domain not in ("visit", "death"):
            found += _of(database, kind)
    for _, code in sorted(found, key=lambda one: (-one[0], one[1].code)):
        yield code


def _of(database: Database, kind: OmopKind) -> Iterator[tuple[int, CodeFound]]:
    import sqlalchemy as sa

    table = database.tables[kind.table]
    concept = table[f"{kind.concept}_concept_id"]
    unit = table["unit_source_value"] if kind.numbers else sa.null()
    number = sa.cast(table["value_as_number"], sa.Text) if kind.numbers else sa.null()
    rows_of = sa.select(
        concept.label("concept"),
        sa.cast(unit, sa.Text).label("unit"),
        table["person_id"].label("person"),
        sa.cast(number, sa.Text).label("number"),
    )
    each = rows_of.where(concept.is_not(None), concept != 0).subquery()
    people = sa.func.count(sa.distinct(each.c.person))
    query = sa.select(each.c.concept, each.c.unit, people, sa.func.count(), sa.func.count(each.c.number))
    query = query.group_by(each.c.concept, each.c.unit).having(people >= MANY)
    told: dict[int, tuple[int, int, int, str]] = {}  # people, rows, numbers, unit of most people
    for rows in database.rows(query):
        for one, written, who, events, numbers in rows:
            before = told.get(int(one), (0, 0, 0, ""))
            spelled = str(written or "").strip() if who > before[0] else before[3]
            told[int(one)] = (max(before[0], int(who)), before[1] + int(events), before[2] + int(numbers), spelled)
    named = _named(database, list(told))
    for one, (who, events, numbers, spelled) in told.items():
        code, words = named.get(one, (f"OMOP:{one}", ""))
        yield who, CodeFound(code, words, kind.numbers and 2 * numbers > events, spelled if harmless(spelled) else "")


def _named(database: Database, ids: list[int]) -> dict[int, tuple[str, str]]:
    """Return concept -> ``SYSTEM:CODE`` and name, of those that the vocabulary has."""
    import sqlalchemy as sa

    if "concept" not in database.tables or not ids:
        return {}
    concept = database.tables["concept"]
    query = sa.select(
        concept["concept_id"], concept["vocabulary_id"], concept["concept_code"], concept["concept_name"]
    ).where(concept["concept_id"].in_(among(ids)))
    found = {}
    for rows in database.rows(query):
        for one, system, code, name in rows:
            if system and code and harmless(f"{system}:{code}"):
                found[int(one)] = (f"{system}:{code}", name if name and harmless(name) else "")
    return found
