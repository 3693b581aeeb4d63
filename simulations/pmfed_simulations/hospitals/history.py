"""What happens to the patients of a virtual hospital, and what of it the hospital records.

All that a model may use lies before a patient's index date. What lies after it would give the outcome away: the
infarction itself, troponin, larger lesions, statins begun later. It is recorded all the same, as hospitals do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pmfed_simulations.hospitals.codes import MEASURED, VISITS
from pmfed_simulations.hospitals.habits import HABITS, Habits
from pmfed_simulations.hospitals.model import FURTHEST, LABS, PANEL, YEAR, Bools, Floats, Ints, draw_people

Moments = NDArray[np.datetime64]

FEWEST = 40  # patients of the smallest hospital: enough that 20 remain for training, as its policy wants
BACK = 1095  # days before the index date from which there are records
SI_SINCE = np.datetime64("2017-07-01")  # where the laboratory changed its units
DAY = np.timedelta64(86_400, "s")
KINDS = tuple(VISITS)
CALLED_QUALITY = 20  # a call of a lower quality than this is as good as missing


@dataclass(frozen=True, eq=False, repr=False)
class Visits:
    """V visits: whose, when, of which kind (a place in ``KINDS``); by patient and time, at most one a day."""

    owner: Ints
    start: Moments
    kind: Ints


@dataclass(frozen=True, eq=False, repr=False)
class EventHistory:
    """E events at visits, by visit.

    Attributes
    ----------
    visit : (E,) int64
    what : (E,) str
        A name of ``DIAGNOSES`` or ``MEASURED``, ``statin`` or ``smoking``.
    value : (E,) float64
        What is written, in the model's own unit: rounding is part of it. Of smoking the answer's place, of a statin
        the drug's, else NaN.
    written : (E,) float64
        The number itself, in the hospital's unit.
    conventional : (E,) bool
        Whether the unit is a conventional one instead of SI.
    """

    visit: Ints
    what: NDArray[np.str_]
    value: Floats
    written: Floats
    conventional: Bools


@dataclass(frozen=True, eq=False, repr=False)
class Scans:
    """S series of one picture: whose, when, the burden it shows, and whether it shows the lesion at all."""

    owner: Ints
    when: Moments
    burden: Floats
    lesion: Bools


@dataclass(frozen=True, eq=False, repr=False)
class Calls:
    """Genotypes of P patients at V variants: ``sequenced`` (P,), ``quality`` (P, V), -1 where a call failed."""

    sequenced: Bools
    quality: Ints

    @property
    def seen(self) -> Bools:
        """(P, V) which calls can be used."""
        return self.sequenced[:, None] & (self.quality >= CALLED_QUALITY)


@dataclass(frozen=True, eq=False)
class Hospital:
    """A virtual hospital with all it knows. Its repr shows no patient."""

    number: int
    seed: int
    habits: Habits
    people: dict[str, NDArray[Any]] = field(repr=False)
    visits: Visits = field(repr=False)
    events: EventHistory = field(repr=False)
    scans: Scans = field(repr=False)
    calls: Calls = field(repr=False)

    @property
    def name(self) -> str:
        """What it is called in files."""
        return f"hospital-{self.number}"

    @property
    def size(self) -> int:
        """How many patients its sources hold."""
        return len(self.people["id"])

    @property
    def cohort(self) -> Bools:
        """(P,) who gave consent and whose outcome is known."""
        found: Bools = (self.people["consent"] == "yes") & self.people["followed"]
        return found

    def before(self, owner: Ints, when: Moments) -> Bools:
        """Return which moments are before the index date of their patient."""
        found: Bools = when < self.people["index"][owner]
        return found

    def rng(self, purpose: int) -> np.random.Generator:
        """Return the draws of one purpose; 0 to 3 are taken."""
        return np.random.default_rng([self.seed, self.number, purpose])


def draw_hospitals(sites: int, patients: int, seed: int) -> list[Hospital]:
    """Draw hospitals of ``patients`` on average; beyond five the habits of the first five come round again."""
    habits = [HABITS[number % len(HABITS)] for number in range(sites)]
    counts = sizes([habit.weight for habit in habits], patients)
    return [
        draw_hospital(number, habit, size, seed)
        for number, (habit, size) in enumerate(zip(habits, counts, strict=True), 1)
    ]


def sizes(weights: Sequence[float], patients: int) -> list[int]:
    """Return how many patients hospitals have, ``patients`` on average; none has fewer than ``FEWEST``."""
    share = patients * len(weights) / sum(weights)
    return [max(FEWEST, round(share * weight)) for weight in weights]


def draw_hospital(number: int, habits: Habits, size: int, seed: int) -> Hospital:
    """Draw one hospital; it does not depend on the others."""
    people = draw_people(number, habits, size, seed)
    rng = np.random.default_rng([seed, number, 1])
    end = _ends(people, rng)
    visits = _visits(people, habits, end, rng)
    events = _events(people, habits, visits, end, rng)
    scans = _scans(people, habits, np.random.default_rng([seed, number, 2]))
    return Hospital(number, seed, habits, people, visits, events, scans, _calls(people, habits, seed, number))


def _ends(people: dict[str, NDArray[Any]], rng: np.random.Generator) -> Ints:
    """Add ``event day`` and ``death day`` (days after the index date, 0 for none); return the last day of records."""
    size = len(people["id"])
    days = rng.integers(1, round(5 * YEAR), size)
    people["event day"] = np.where(people["outcome"] & people["followed"], days, 0)
    fatal = (people["event day"] > 0) & (rng.random(size) < 0.12)
    people["death day"] = np.where(fatal, people["event day"] + rng.integers(0, 30, size), 0)
    return np.where(fatal, people["event day"], round(5 * YEAR))


def _visits(people: dict[str, NDArray[Any]], habits: Habits, end: Ints, rng: np.random.Generator) -> Visits:
    size = len(people["id"])
    earlier = np.repeat(np.arange(size), 1 + rng.poisson(habits.visits * BACK / YEAR, size))
    later = np.repeat(np.arange(size), 1 + rng.poisson(2.0, size))
    day = np.concatenate([-rng.integers(1, BACK + 1, len(earlier)), rng.integers(1, round(5 * YEAR), len(later))])
    owner = np.concatenate([earlier, later])
    alive = day < end[owner]
    struck = np.flatnonzero(people["event day"])
    owner, day = np.append(owner[alive], struck), np.append(day[alive], people["event day"][struck])
    once = np.unique(np.stack([owner, day], axis=1), axis=0)
    owner, day = once[:, 0], once[:, 1]
    minute = rng.integers(8 * 60, 17 * 60, len(owner))
    kind = rng.choice(len(KINDS), len(owner), p=[0.85, 0.08, 0.07])
    kind[day == people["event day"][owner]] = KINDS.index("inpatient")
    start = (people["index"][owner] + day).astype("datetime64[s]") + minute * np.timedelta64(60, "s")
    return Visits(owner, start, kind)


def _events(
    people: dict[str, NDArray[Any]], habits: Habits, visits: Visits, end: Ints, rng: np.random.Generator
) -> EventHistory:
    size, number = len(people["id"]), len(visits.owner)
    owner = visits.owner
    day = ((visits.start.astype("datetime64[D]") - people["index"][owner]) / np.timedelta64(1, "D")).astype(np.int64)
    first = np.zeros(number, dtype=bool)
    first[np.searchsorted(owner, np.arange(size))] = True  # always before the index date: every patient has one
    later = day > 0
    rows, what, value = list[Ints](), list[str](), list[Floats]()

    def add(name: str, happened: Bools, values: Floats | None = None) -> None:
        rows.append(np.flatnonzero(happened))
        what.append(name)
        value.append(np.full(number, np.nan) if values is None else values)

    for name in ("diabetes", "hypertension"):
        begun = (rng.random(size) < 0.1) & (people[name] == 0)  # diagnosed after the index date
        again = rng.random(number) < 0.4
        add(name, np.where(people[name][owner] == 1, first | again, later & begun[owner] & again))
    begun = (rng.random(size) < 0.2) & (people["statin"] == 0)
    again = rng.random(number) < 0.6
    drug = rng.integers(0, 2, size).astype(np.float64)[owner]
    add("statin", np.where(people["statin"][owner] == 1, first | again, later & begun[owner] & again), drug)
    people["asked"] = rng.random(size) >= habits.unasked
    asked = people["asked"][owner] & (first | (rng.random(number) < 0.25))
    add("smoking", asked, people["smoking"][owner].astype(np.float64))
    for name, lab in LABS.items():
        ever = (rng.random(size) >= habits.never)[owner]
        level = people[name][owner] + people[f"drift {name}"][owner] * day / YEAR + lab.within * rng.normal(size=number)
        add(name, ever & (rng.random(number) < habits.measured), np.clip(level, lab.low, lab.high))
    struck = (people["event day"][owner] == day) & (day > 0)
    add("infarction", struck)
    add("troponin", struck, rng.uniform(200, 20_000, number))

    visit = np.concatenate(rows)
    names = np.repeat(what, [len(one) for one in rows])
    values = np.concatenate([one[row] for one, row in zip(value, rows, strict=True)])
    order = np.argsort(visit, kind="stable")
    visit, names, values = visit[order], names[order], values[order]
    early = visits.start[visit] < SI_SINCE
    conventional = {"SI": np.zeros_like(early), "conventional": np.ones_like(early), "both": early}[
        habits.records.units
    ]
    written = values.copy()
    for name, units in MEASURED.items():
        for second, (_, unit) in enumerate(units):
            here = (names == name) & (conventional == bool(second))
            written[here] = np.round(values[here] * unit.per, unit.decimals)
            values[here] = written[here] / unit.per
    return EventHistory(visit, names, values, written, conventional)


def _scans(people: dict[str, NDArray[Any]], habits: Habits, rng: np.random.Generator) -> Scans:
    size = len(people["id"])
    earlier = np.repeat(
        np.arange(size), rng.choice([1, 2, 3], size, p=[0.7, 0.2, 0.1]) * (rng.random(size) < habits.covered)
    )
    later = np.flatnonzero(rng.random(size) < 0.2)
    other = np.flatnonzero(rng.random(size) < 0.1)  # of another part of the body
    owner = np.concatenate([earlier, later, other]) if habits.scanner else np.zeros(0, dtype=np.int64)
    after = np.concatenate([np.zeros(len(earlier)), np.ones(len(later)), np.zeros(len(other))])[: len(owner)] > 0
    lesion = np.concatenate([np.ones(len(earlier) + len(later)), np.zeros(len(other))])[: len(owner)] > 0
    day = np.where(after, rng.integers(1, 1500, len(owner)), -rng.integers(1, BACK + 1, len(owner)))
    second = rng.integers(8 * 3600, 18 * 3600, len(owner))
    when = (people["index"][owner] + day).astype("datetime64[s]") + second * np.timedelta64(1, "s")
    grown = np.where(after & people["outcome"][owner], 1.0, 0.0)  # which a model must not see
    burden = np.clip(people["lesion"][owner] + grown, -FURTHEST, FURTHEST)
    order = np.lexsort((when, owner))
    return Scans(owner[order], when[order], burden[order], lesion[order])


def _calls(people: dict[str, NDArray[Any]], habits: Habits, seed: int, number: int) -> Calls:
    rng = np.random.default_rng([seed, number, 3])
    shape = (len(people["id"]), len(PANEL))
    sequenced = rng.random(shape[0]) < habits.covered
    laboratory = habits.laboratory
    if laboratory is None:
        return Calls(np.zeros(shape[0], dtype=bool), np.full(shape, -1))
    quality = rng.integers(CALLED_QUALITY + 10, 100, shape)
    failed = rng.random(shape) < laboratory.failed
    quality[failed] = np.where(rng.random(shape) < 0.5, -1, rng.integers(3, CALLED_QUALITY, shape))[failed]
    return Calls(sequenced, quality)
