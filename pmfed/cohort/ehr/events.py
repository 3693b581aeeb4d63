"""The one table of time-stamped events that every source of health records yields, in chunks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pmfed.cohort.contract.numbers import Value
from pmfed.cohort.contract.times import NEVER, Moments
from pmfed.cohort.contract.uses import Passed
from pmfed.cohort.ehr.codes import Matcher
from pmfed.errors import DataError

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

CHUNK = 50_000
FEMALE, MALE = 0, 1


def _no_ints() -> Ints:
    return np.zeros(0, dtype=np.int64)


def _no_bools() -> NDArray[np.bool_]:
    return np.zeros(0, dtype=np.bool_)


@dataclass(frozen=True, repr=False)
class Asked:
    """Whose events are asked for, and from when to when.

    Attributes
    ----------
    ids : tuple of P str
        Patients, each once.
    earliest, latest
        Sources may leave out what lies outside, and need not.
    """

    ids: tuple[str, ...]
    earliest: np.datetime64 = NEVER
    latest: np.datetime64 = NEVER


@dataclass(frozen=True, eq=False, repr=False)
class Chunk:
    """N events of patients. An event that is several of the study's concepts is there once for each.

    Attributes
    ----------
    patient : (N,) int64
        Place in `Asked.ids`.
    when : (N,) datetime64[s]
        When it happened, at the latest; never NaT.
    known : (N,) datetime64[s]
        When it was entered, at the latest; ``when`` where the source does not tell.
    concept : (N,) int64
        Place among the concepts asked for.
    value : (N,) float64
        NaN without a number.
    unit : (N,) int64
        Place in ``units``.
    units
        Units as the source writes them, "" for none.
    limit : (N,) int64
        -1 or 1 where the value is only a limit (``<``, ``>``).
    why : (N,) int64
        Place in ``reasons``: why something that is written is no number; 0 where there is one or nothing is written.
    adrift : (N,) bool
        Whether ``when`` may be `times.EAST` + `times.WEST` seconds too late: nobody said where the hospital is.
    """

    patient: Ints
    when: Moments
    known: Moments
    concept: Ints
    value: Floats
    unit: Ints
    units: tuple[str, ...] = ("",)
    limit: Ints = field(default_factory=_no_ints)
    why: Ints = field(default_factory=_no_ints)
    reasons: tuple[str, ...] = ("",)
    adrift: NDArray[np.bool_] = field(default_factory=_no_bools)

    def __post_init__(self) -> None:
        for name in ("limit", "why", "adrift"):
            if len(getattr(self, name)) != len(self.patient):
                object.__setattr__(self, name, np.zeros(len(self.patient), dtype=getattr(self, name).dtype))

    def __len__(self) -> int:
        return len(self.patient)

    def take(self, rows: Ints | NDArray[np.bool_]) -> Chunk:
        """Return some of the events."""
        return Chunk(
            self.patient[rows],
            self.when[rows],
            self.known[rows],
            self.concept[rows],
            self.value[rows],
            self.unit[rows],
            self.units,
            self.limit[rows],
            self.why[rows],
            self.reasons,
            self.adrift[rows],
        )


@dataclass(frozen=True, eq=False, repr=False)
class Persons:
    """What a source knows of P patients.

    Attributes
    ----------
    there : (P,) bool
        Whether the source has the patient at all.
    birth : (P,) datetime64[s]
        NaT where unknown.
    age : (P,) float64
        Age in years where the source tells it instead of the date of birth; NaN elsewhere.
    sex : (P,) int64
        0 female, 1 male, -1 other or unknown.
    listed
        Whether the source lists its patients. Where it does not, ``there`` only says that there is a row about them,
        which may be one from after the index date: no input may depend on it.
    """

    there: NDArray[np.bool_]
    birth: Moments
    age: Floats
    sex: Ints
    listed: bool = True

    @classmethod
    def nobody(cls, patients: int, listed: bool = True) -> Persons:
        """Return the answer of a source that knows none of them."""
        return cls(
            np.zeros(patients, dtype=bool),
            np.full(patients, NEVER),
            np.full(patients, np.nan),
            np.full(patients, -1, dtype=np.int64),
            listed,
        )


@dataclass(frozen=True, eq=False, repr=False)
class Texts:
    """N notes of patients: place of the patient, when written and entered, and the text."""

    patient: Ints
    when: Moments
    known: Moments
    text: list[str]


class EventSource(Protocol):
    """Where a hospital keeps health records.

    Attributes
    ----------
    name
        What messages call it.
    counts
        What was seen on the way.
    limits
        What it cannot tell of what was asked, as sentences.
    spellings
        What the hospital's own spellings of units mean.
    passed
        Rows of the concepts asked for that were passed over, with the reason.
    refused, commas
        What cannot be read without a word of the site, known once ``events`` has ended: dates, and numbers that could be
        read two ways, which matter only where they are among the values that would count.
    """

    name: str
    counts: Counter[str]
    limits: list[str]
    spellings: dict[str, str]
    passed: Passed
    refused: list[DataError]
    commas: list[DataError]

    def patients(self) -> list[str]:
        """Return the ids of all patients."""

    def events(self, matcher: Matcher, asked: Asked) -> Iterator[Chunk]:
        """Yield the events that are one of the matcher's concepts."""

    def notes(self, asked: Asked) -> Iterator[Texts]:
        """Yield written notes."""

    def persons(self, asked: Asked) -> Persons:
        """Return who the patients are; after ``events`` it costs nothing more."""


@dataclass
class EventRows:
    """Events gathered one by one, for sources that read record after record.

    ``origin`` is a number of the source's own that says which record an event comes from.
    """

    patient: list[int] = field(default_factory=list)
    when: list[int] = field(default_factory=list)
    known: list[int] = field(default_factory=list)
    concept: list[int] = field(default_factory=list)
    value: list[float] = field(default_factory=list)
    unit: list[int] = field(default_factory=list)
    limit: list[int] = field(default_factory=list)
    why: list[int] = field(default_factory=list)
    adrift: list[bool] = field(default_factory=list)
    origin: list[int] = field(default_factory=list)
    units: dict[str, int] = field(default_factory=lambda: {"": 0})
    reasons: dict[str, int] = field(default_factory=lambda: {"": 0})

    def add(
        self,
        patient: int,
        when: int,
        known: int,
        concepts: Sequence[int],
        value: Value,
        adrift: bool = False,
        origin: int = 0,
    ) -> None:
        """Add an event, once for each concept it is."""
        unit = self.units.setdefault(value.unit, len(self.units))
        why = self.reasons.setdefault(value.why, len(self.reasons))
        for concept in concepts:
            self.patient.append(patient)
            self.when.append(when)
            self.known.append(known)
            self.concept.append(concept)
            self.value.append(value.number)
            self.unit.append(unit)
            self.limit.append(value.limit)
            self.why.append(why)
            self.adrift.append(adrift)
            self.origin.append(origin)

    def __len__(self) -> int:
        return len(self.patient)

    def chunk(self) -> tuple[Chunk, Ints]:
        """Return what was gathered, with the origin of each event, and start anew."""
        lists = (self.patient, self.when, self.known, self.concept, self.unit, self.limit, self.why, self.origin)
        patient, when, known, concept, unit, limit, why, origin = (np.array(part, dtype=np.int64) for part in lists)
        out = Chunk(
            patient,
            when.view("datetime64[s]"),
            known.view("datetime64[s]"),
            concept,
            np.array(self.value, dtype=np.float64),
            unit,
            tuple(self.units),
            limit,
            why,
            tuple(self.reasons),
            np.array(self.adrift, dtype=np.bool_),
        )
        for part in (*lists, self.value, self.adrift):
            part.clear()
        return out, origin


def expand(kinds: Ints, found: Sequence[tuple[int, ...]]) -> tuple[Ints, Ints]:
    """Return row and concept of every event that is a concept.

    Parameters
    ----------
    kinds : (N,) int64
        Which kind of event each row is.
    found
        Per kind the concepts it is.
    """
    sizes = np.array([len(places) for places in found] or [0], dtype=np.int64)
    flat = np.array([place for places in found for place in places], dtype=np.int64)
    starts = np.cumsum(sizes) - sizes
    times = sizes[kinds]
    rows = np.repeat(np.arange(len(kinds)), times)
    nth = np.arange(len(rows)) - np.repeat(np.cumsum(times) - times, times)
    return rows, flat[starts[kinds[rows]] + nth]
