"""A study's codes into the concept ids of an OMOP database, by its own vocabulary tables."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pmfed.cohort.ehr.codes import Code, Matcher, read, split, system_of
from pmfed.cohort.ehr.database import Database, among
from pmfed.errors import DataError

if TYPE_CHECKING:
    import sqlalchemy as sa

OWN = frozenset({"omop", "visit", "death"})
"""Systems of codes that need no vocabulary."""


@dataclass(frozen=True)
class Concepts:
    """What the study's codes are in a database.

    Attributes
    ----------
    concepts
        Concept id -> places of the study's concepts that mean it.
    mapped
        Standard concept id -> what maps to it: (system of the code, place). An event whose source wrote another code of
        that system is something else, though it maps to the same.
    pairs
        Standard concept id -> concept id of the value -> the same, of codes that map to a concept with a value.
    answers
        Concept id -> (system, code), of the answers the study asks for.
    units
        Concept id -> UCUM code.
    bare
        Whether there is no vocabulary, so that codes are compared with what the source wrote.
    """

    concepts: dict[int, tuple[int, ...]]
    mapped: dict[int, tuple[tuple[str, int], ...]]
    pairs: dict[int, dict[int, tuple[tuple[str, int], ...]]]
    answers: dict[int, tuple[str, str]]
    units: dict[int, str]
    bare: bool

    @property
    def ids(self) -> list[int]:
        """Concept ids by which an event may be found."""
        return sorted({*self.concepts, *self.mapped, *self.pairs})


def resolve(database: Database, matcher: Matcher, limits: list[str]) -> Concepts:
    """Resolve the codes of some concepts.

    A code that is not standard is followed to the standard ones it maps to (``Maps to``): a study that asks for
    ICD10CM codes finds conditions that the hospital's ETL wrote as SNOMED. An event is found by its standard concept
    or by its source concept. A code that maps to a concept with a value ("history of", asthma) is found only with that
    value (``Maps to value``); one that maps to several concepts at once is none of them alone, and is found only by its
    source concept.

    Parameters
    ----------
    database
        With ``concept`` and, where there are any, ``concept_relationship`` and ``concept_ancestor``.
    matcher
        The study's concepts.
    limits
        Where it is said what the database cannot tell.

    Raises
    ------
    DataError
        A code of the system OMOP is no concept id, or the database cannot be read.
    """
    bare = not database.holds("concept")
    found: dict[int, set[int]] = {}
    for place, codes in enumerate(matcher.codes):
        for code in codes:
            if code.system == "omop":
                found.setdefault(_id(code), set()).add(place)
    if bare:
        if any(code.system not in OWN for codes in matcher.codes for code in codes):
            limits.append(
                f"{database.name}: has no table 'concept', so codes are compared with what the source wrote, whatever "
                "its code system."
            )
        return Concepts(_frozen(found), {}, {}, {}, {}, True)
    wanted = {code for codes in matcher.codes for code in codes} | set(_answers(matcher))
    answers: dict[int, tuple[str, str]] = {}
    direct: dict[int, set[int]] = {}
    for one, system, written in _named(database, sorted(code for code in wanted if code.system not in OWN)):
        answers[one] = (system, written)
        direct[one] = set(matcher.of_coding(system, written))
    systems = {one: system_of(system) for one, (system, _) in answers.items()}
    mapped: dict[int, set[tuple[str, int]]] = {}
    pairs: dict[int, dict[int, set[tuple[str, int]]]] = {}
    several = 0
    links = _mapped(database, [one for one, places in direct.items() if places])
    for one, (targets, values) in sorted(links.items()):
        marks = {(systems[one], place) for place in direct[one]}
        if len(targets) > 1:
            several += 1
        for target in targets if len(targets) == 1 else ():
            if values:
                for value in values:
                    pairs.setdefault(target, {}).setdefault(value, set()).update(marks)
            elif target != one:
                mapped.setdefault(target, set()).update(marks)
    if several:
        limits.append(
            f"{database.name}: {several:,} of the study's codes map to several concepts at once: they are found only where the "
            "source concept is filled in."
        )
    for one, places in direct.items():
        found.setdefault(one, set()).update(places)
    _descend(database, matcher, found, mapped, limits)
    return Concepts(
        _frozen(found),
        {one: tuple(sorted(marks)) for one, marks in mapped.items() if one > 0},
        {
            one: {value: tuple(sorted(marks)) for value, marks in inner.items()}
            for one, inner in pairs.items()
            if one > 0
        },
        answers,
        _units(database),
        False,
    )


def _id(code: Code) -> int:
    if code.prefix or not code.code.isdecimal():
        raise DataError(f"'OMOP:{code.code}' of the study is no concept id.", "A concept id is a whole number.")
    return int(code.code)


def _frozen(found: dict[int, set[int]]) -> dict[int, tuple[int, ...]]:
    return {one: tuple(sorted(places)) for one, places in found.items() if one > 0}  # 0 is "no matching concept"


def _named(database: Database, codes: list[Code]) -> list[tuple[int, str, str]]:
    """Return concept id, vocabulary and code of the concepts that codes name."""
    import sqlalchemy as sa

    if not codes:
        return []
    concept = database.tables["concept"]
    vocabulary, written = concept["vocabulary_id"], concept["concept_code"]
    own = sa.func.lower(sa.func.replace(sa.func.replace(vocabulary, "-", ""), " ", ""))
    plain = sa.func.upper(sa.func.replace(written, ".", ""))
    fits: list[sa.ColumnElement[bool]] = []
    for system in sorted({code.system for code in codes}):
        column = plain if system.startswith("icd") else written
        exact = sorted(code.code for code in codes if code.system == system and not code.prefix)
        starts = sorted(code.code for code in codes if code.system == system and code.prefix)
        alike: list[sa.ColumnElement[bool]] = [column.in_(exact)] if exact else []
        alike += [column.startswith(start, autoescape=True) for start in starts]
        fits.append(sa.and_(own == system, sa.or_(*alike)))
    query = sa.select(concept["concept_id"], vocabulary, written).where(sa.or_(*fits))
    return [(int(one), str(system), str(code)) for rows in database.rows(query) for one, system, code in rows]


def _mapped(database: Database, ids: list[int]) -> dict[int, tuple[set[int], set[int]]]:
    """Return per concept the standard ones it maps to, and the concepts of the value it maps to."""
    import sqlalchemy as sa

    found: dict[int, tuple[set[int], set[int]]] = {}
    if not ids or "concept_relationship" not in database.tables:
        return found
    table = database.tables["concept_relationship"]
    one, target, invalid = table["concept_id_1"], table["concept_id_2"], table["invalid_reason"]
    kind = table["relationship_id"]
    query = sa.select(one, target, kind).where(
        one.in_(among(ids)), kind.in_(["Maps to", "Maps to value"]), sa.or_(invalid.is_(None), invalid == "")
    )
    for rows in database.rows(query):
        for first, second, name in rows:
            found.setdefault(int(first), (set(), set()))[name == "Maps to value"].add(int(second))
    return found


def _descend(
    database: Database,
    matcher: Matcher,
    found: dict[int, set[int]],
    mapped: dict[int, set[tuple[str, int]]],
    limits: list[str],
) -> None:
    """Add what lies below the concepts that ask for it."""
    import sqlalchemy as sa

    wanting = {place for place, concept in enumerate(matcher.concepts) if concept.descendants}
    every = {one: set(places) for one, places in found.items()}
    for one, marks in mapped.items():
        every.setdefault(one, set()).update(place for _, place in marks)
    roots = {one: places & wanting for one, places in every.items() if places & wanting}
    if not wanting:
        return
    if not database.holds("concept_ancestor"):
        limits.append(
            f"{database.name}: has no rows in 'concept_ancestor', so descendants of codes are not known; only codes as "
            "listed count."
        )
        return
    table = database.tables["concept_ancestor"]
    above, below = table["ancestor_concept_id"], table["descendant_concept_id"]
    for rows in database.rows(sa.select(above, below).where(above.in_(among(sorted(roots))))):
        for root, one in rows:
            found.setdefault(int(one), set()).update(roots[int(root)])


def _answers(matcher: Matcher) -> Iterable[Code]:
    for concept in matcher.concepts:
        for text in concept.answers:
            if split(text):
                yield read(text)


def _units(database: Database) -> dict[int, str]:
    import sqlalchemy as sa

    concept = database.tables["concept"]
    query = sa.select(concept["concept_id"], concept["concept_code"]).where(concept["vocabulary_id"] == "UCUM")
    return {int(one): str(code) for rows in database.rows(query) for one, code in rows}
