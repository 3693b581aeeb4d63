"""Tables of a cohort: one cell per table and patient, all tables in one sum."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, singledispatch
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pmfed.cohort.encode import middle_and_half, transformed
from pmfed.modality import Numeric
from pmfed.privacy.mechanism import Role
from pmfed.queries.query import Floats, RowSum, SitePatients, starts_of
from pmfed.study import Study, counted
from pmfed.study.counted import Event, OneOf, Quantity, Time
from pmfed.study.method import TablesMethod

if TYPE_CHECKING:
    from pmfed.cohort import Cohort

MISSING = "missing"
PATIENTS = 4096  # whose rows are held at a time
ROUNDED = 1e-6  # of a number's range: inputs are float32, and who is exactly at an edge must not fall below it


@dataclass(frozen=True)
class CellTable(ABC):
    """One table: what it counts, and in which cells.

    Attributes
    ----------
    name, label, unit
        ``MODALITY.FEATURE`` or ``outcome``; for people; of its numbers.
    cells
        Names of the cells of one stratum.
    """

    name: str
    label: str
    unit: str
    cells: tuple[str, ...]

    @abstractmethod
    def rows(self, cohort: Cohort) -> Floats:
        """Return what each record adds, (R, cells): of L2 norm at most 1, whatever the record holds."""


@dataclass(frozen=True)
class Everybody(CellTable):
    """How many patients there are."""

    def rows(self, cohort: Cohort) -> Floats:
        return np.ones((cohort.records, 1))


@dataclass(frozen=True)
class Categories(CellTable):
    """Patients by category, the last cell for those of whom it is not known; ``source`` says where it stands."""

    source: Inputs | Targets

    def rows(self, cohort: Cohort) -> Floats:
        known = self.source.one_hot(cohort, len(self.cells) - 1)
        return np.column_stack([known, 1.0 - known.sum(axis=1)])


@dataclass(frozen=True)
class Bins(CellTable):
    """Patients by a number's bin between public ``edges``, the last cell for those of whom it is not known."""

    source: Inputs | Targets
    edges: tuple[float, ...]

    def rows(self, cohort: Cohort) -> Floats:
        values = self.source.values(cohort)
        known = np.isfinite(values)
        values = values + ROUNDED * (self.edges[-1] - self.edges[0])
        place = np.clip(np.searchsorted(self.edges, values, side="right") - 1, 0, len(self.edges) - 2)
        return _one_hot(np.where(known, place, len(self.edges) - 1), len(self.cells))


@dataclass(frozen=True)
class Moment(CellTable):
    """The sum of a number, brought to -1..1 by its public bounds; 0 where it is not known."""

    source: Inputs | Targets
    minimum: float
    maximum: float

    def rows(self, cohort: Cohort) -> Floats:
        middle, half = (self.minimum + self.maximum) / 2, (self.maximum - self.minimum) / 2
        return np.nan_to_num(np.clip((self.source.values(cohort) - middle) / half, -1.0, 1.0), nan=0.0)[:, None]


@dataclass(frozen=True)
class LifeTable(CellTable):
    """Patients by the interval in which they had the event, or were last seen without it; the last cell for the rest."""

    ends: tuple[float, ...]

    def rows(self, cohort: Cohort) -> Floats:
        time, event = cohort.targets[:, 0].astype(np.float64), cohort.targets[:, 1] > 0.5
        place = np.searchsorted(np.array(self.ends), time, side="right")
        beyond = place >= len(self.ends)
        return _one_hot(np.where(beyond, 2 * len(self.ends), 2 * place + ~event), len(self.cells))


@dataclass(frozen=True)
class Inputs:
    """Where a feature stands among a modality's inputs."""

    modality: str
    column: int
    spec: Numeric | None = None

    def one_hot(self, cohort: Cohort, size: int) -> Floats:
        """Return which category each record has, (R, size); zeros where it is not known."""
        block = cohort.inputs[self.modality][:, self.column : self.column + size].astype(np.float64)
        return np.nan_to_num(block) * cohort.present[self.modality][:, None]

    def values(self, cohort: Cohort) -> Floats:
        """Return the number of each record in its own unit, (R,); NaN where it is not known."""
        assert self.spec is not None
        block = cohort.inputs[self.modality]
        middle, half = middle_and_half(self.spec)
        scaled = block[:, self.column].astype(np.float64)
        known = cohort.present[self.modality]
        if self.spec.mean is not None and self.spec.scale is not None:
            middle, half = self.spec.mean, self.spec.scale
            if self.spec.indicator:  # or a missing number counts as the mean
                known = known & (block[:, self.column + 1] < 0.5)
        else:
            scaled = np.clip(scaled, -1.0, 1.0)
        natural = middle + half * np.where(known, scaled, np.nan)
        natural = np.expm1(natural) if self.spec.transform == "log1p" else natural
        return np.clip(natural, self.spec.minimum, self.spec.maximum)


@dataclass(frozen=True)
class Targets:
    """A column of the outcome."""

    column: int = 0

    def one_hot(self, cohort: Cohort, size: int) -> Floats:
        """Return the class of each record, (R, size); zeros where it is not known."""
        values = self.values(cohort)
        known = np.isfinite(values)
        return _one_hot(np.where(known, values, 0).astype(np.int64), size) * known[:, None]

    def values(self, cohort: Cohort) -> Floats:
        """Return the outcome of each record in its own unit, (R,); NaN where it is not known."""
        return cohort.targets.reshape(cohort.records, -1)[:, self.column].astype(np.float64)


class Cells(RowSum):
    """All tables of a study, stratum by stratum: one release.

    Guarantee
    ---------
    A patient's row is the mean over the patient's records of rows that have one cell, or one number in -1..1, per table:
    each table's part has norm at most 1, and all together the square root of their number, which is the bound.
    """

    name: ClassVar[str] = "tables"
    whose: ClassVar[Role] = "all"

    @cached_property
    def spec(self) -> TablesMethod:
        assert isinstance(self.study.method, TablesMethod)
        return self.study.method

    @cached_property
    def tables(self) -> tuple[CellTable, ...]:
        """What is counted, in the order of the sum; what splits the tables is not counted once more."""
        others = (one for one in self._all if one.name != self.spec.stratum)
        return (Everybody("patients", "Patients", "", ("patients",)), *others)

    @cached_property
    def _all(self) -> tuple[CellTable, ...]:
        return (*_outcome(self.study), *_features(self.study))

    @cached_property
    def strata(self) -> tuple[str, ...]:
        """Names of the strata, in the order of the sum."""
        return ("all",) if self._split is None else self._split.cells

    @cached_property
    def _split(self) -> Categories | None:
        if self.spec.stratum is None:
            return None
        return next(one for one in self._all if isinstance(one, Categories) and one.name == self.spec.stratum)

    @property
    def bound(self) -> float:
        return float(np.sqrt(len(self.tables)))

    @property
    def size(self) -> int:
        return len(self.strata) * sum(len(one.cells) for one in self.tables)

    @property
    def grid_unit(self) -> float:
        return 2.0**-10

    @property
    def weight(self) -> float:
        return 1.0

    @property
    def label(self) -> str:
        return "tables"

    def leaves(self) -> str:
        split = "" if self._split is None else f", split by {self._split.label} into {len(self.strata)}"
        names = ", ".join(dict.fromkeys(one.label for one in self.tables))
        return (
            f"once {len(self.tables)} tables{split}, {self.size} numbers in all, with noise, under a mask: how many patients "
            f"there are in each cell of {names}"
        )

    def rows(self, patients: SitePatients, state: Mapping[str, NDArray[Any]]) -> Iterator[Floats]:
        cohort = patients.cohort
        starts = starts_of(cohort)
        for first in range(0, cohort.patients, PATIENTS):
            chosen = np.zeros(cohort.patients, dtype=bool)
            chosen[first : first + PATIENTS] = True
            few = cohort.select(chosen)
            stratum = np.ones((few.records, 1)) if self._split is None else self._split.rows(few)
            parts = [(stratum[:, :, None] * one.rows(few)[:, None, :]).reshape(few.records, -1) for one in self.tables]
            begins = starts[first : first + few.patients] - starts[first]
            counts = np.diff(np.append(begins, few.records))
            yield np.add.reduceat(np.concatenate(parts, axis=1), begins, axis=0) / counts[:, None]

    def split(self, total: Floats) -> Iterator[tuple[CellTable, Floats]]:
        """Yield each table with its part of a sum, (strata, cells)."""
        start = 0
        for one in self.tables:
            size = len(self.strata) * len(one.cells)
            yield one, total[start : start + size].reshape(len(self.strata), len(one.cells))
            start += size


def misfit(study: Study) -> str:
    """Return why tables cannot be made of a study, key first; empty when they can."""
    spec = study.method
    assert isinstance(spec, TablesMethod)
    if study.outcome.columns and not study.outcome.counted:
        return f"outcome.task: a {study.outcome.task} outcome is not counted in tables"
    for name, modality in study.modalities.items():
        if not modality.countable:
            return f"modalities.{name}.kind: tables are made of tables and events, not of '{modality.kind}'"
        for one in modality.countable:
            if one.scaled:
                return f"modalities.{name}.features.{one.key}.mean: a table counts within the bounds; leave 'mean' and 'scale' out"
    known = {one.name: one for one in (*_outcome(study), *_features(study))}
    if spec.stratum is not None and not isinstance(known.get(spec.stratum), Categories):
        names = ", ".join(name for name, one in known.items() if isinstance(one, Categories)) or "there is none"
        return f"method.stratum: '{spec.stratum}' is no categorical feature or outcome of the study ({names})"
    binned = {one.name for one in (*_outcome(study), *_features(study)) if isinstance(one, Bins)}
    if strange := sorted(set(spec.edges) - binned):
        return f"method.edges.{strange[0]}: the study has no number of that name"
    return ""


def _outcome(study: Study) -> Iterator[CellTable]:
    columns = study.outcome.counted
    several = sum(not isinstance(one, Event) for one in columns) > 1
    for place, one in enumerate(columns):
        yield from _tables_of(one, study, f"outcome.{one.label}" if several else "outcome", place)


@singledispatch
def _tables_of(one: counted.Counted, study: Study, name: str, place: int) -> Iterator[CellTable]:
    """Yield the tables of a column of outcomes."""
    raise NotImplementedError(f"{type(one).__name__} is not counted")


@_tables_of.register
def _(one: OneOf, study: Study, name: str, place: int) -> Iterator[CellTable]:
    yield Categories(name, one.label, one.unit, (*one.classes, MISSING), Targets(place))


@_tables_of.register
def _(one: Event, study: Study, name: str, place: int) -> Iterator[CellTable]:
    yield from ()  # it is counted with its time


@_tables_of.register
def _(one: Quantity, study: Study, name: str, place: int) -> Iterator[CellTable]:
    yield from _number(study, name, one.label, one.unit, Targets(place), Numeric(minimum=one.minimum, maximum=one.maximum))  # fmt: skip


@_tables_of.register
def _(one: Time, study: Study, name: str, place: int) -> Iterator[CellTable]:
    starts = (0.0, *one.intervals[:-1])
    cells = [
        f"{what}, {low:g} to {high:g}"
        for low, high in zip(starts, one.intervals, strict=True)
        for what in ("event", "last seen")
    ]
    yield LifeTable(name, one.label, one.unit, (*cells, f"beyond {one.intervals[-1]:g}"), one.intervals)


def inputs_of(study: Study) -> Iterator[tuple[str, str, str, tuple[str, ...] | Numeric, Inputs]]:
    """Yield name, label, unit, what it is (the cells of a category, or a number) and place of every plain input."""
    for name, modality in sorted(study.modalities.items()):
        for one in modality.countable:
            source = Inputs(name, one.column, one.number)
            what = one.number if one.number is not None else (*one.values, MISSING)
            yield f"{name}.{one.key}", one.key, one.unit, what, source


def _features(study: Study) -> Iterator[CellTable]:
    for name, label, unit, what, source in inputs_of(study):
        if isinstance(what, Numeric):
            yield from _number(study, name, label, unit, source, what)
        else:
            yield Categories(name, label, "", what, source)


def _number(
    study: Study, name: str, label: str, unit: str, source: Inputs | Targets, spec: Numeric
) -> Iterator[CellTable]:
    method = study.method
    assert isinstance(method, TablesMethod)
    if name in method.edges:
        edges = tuple(sorted({spec.minimum, *method.edges[name], spec.maximum}))
    else:
        low, high = float(transformed(spec, spec.minimum)), float(transformed(spec, spec.maximum))
        even = np.linspace(low, high, method.bins + 1)
        edges = tuple(float(edge) for edge in (np.expm1(even) if spec.transform == "log1p" else even))
    cells = (*(f"{low:.4g} to {high:.4g}" for low, high in pairwise(edges)), MISSING)
    yield Bins(name, label, unit, cells, source, edges)
    yield Moment(name, label, unit, ("sum",), source, spec.minimum, spec.maximum)


def _one_hot(place: NDArray[np.integer[Any]], size: int) -> Floats:
    rows = np.zeros((len(place), size))
    rows[np.arange(len(place)), place] = 1.0
    return rows
