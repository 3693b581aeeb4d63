"""Tables of a cohort from one noised release: counts, shares, means, quantiles, missingness, survival, each with an interval.

Every interval holds the noise of the release and, for shares, means, quantiles and survival, the chance of having met these
patients and no others (parametric bootstrap over cells and noise: patients are drawn again, noise is added again).
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from pmfed.errors import StudyError
from pmfed.file_io import replace_file
from pmfed.methods.method import Ask, DecodedSum, Floats, Method, Section, Vectors
from pmfed.privacy.plan import PrivacyPlan
from pmfed.queries.cells import Bins, Categories, Cells, CellTable, Everybody, LifeTable, Moment, misfit
from pmfed.queries.query import Query
from pmfed.stored import Stored
from pmfed.study import Study

DRAWS = 400
BY = "without the event by "
QUANTILES = (0.25, 0.5, 0.75)
FEWEST = 4.0  # nothing is told of a stratum with fewer patients than so many standard deviations of the noise in a cell


@dataclass(frozen=True)
class Number:
    """What bins say of a number: of how many patients of each stratum it is known, and how it varies, (strata,) each."""

    known: Floats
    variance: Floats


Row = dict[str, Any]
"""One figure: table, stratum, figure, value, low, high; value None where the noise hides it."""


class Tables(Method):
    """Table 1, life tables and lengths of stay, in one charged release."""

    kind: ClassVar[str] = "tables"

    def __init__(self, study: Study, folder: Path) -> None:
        super().__init__(study, folder)
        self.query = Cells(study)
        self.total: Floats | None = None
        self.sites = 0

    @staticmethod
    def queries(study: Study) -> tuple[Query, ...]:
        if why := misfit(study):
            raise StudyError(f"{why}.")
        return (Cells(study),)

    def next(self) -> Ask | None:
        return Ask(self.query, 0) if self.total is None else None

    def take(self, ask: Ask, answer: DecodedSum) -> None:
        self.total, self.sites = answer.total, answer.sites

    def result(self, plan: PrivacyPlan) -> dict[str, Any]:
        assert self.total is not None
        std = plan["tables"].sum_std(self.sites)
        self.total = np.round(self.total, 4)  # as tables.json holds it: whoever checks a run comes to the same figures
        std = round(std, 6)
        return {"strata": list(self.query.strata), "noise_std": std, "figures": self.figures(std)}

    def figures(self, std: float) -> list[Row]:
        """Return every figure of the noised cells, in each of which the noise has this standard deviation."""
        assert self.total is not None
        return [
            figure
            for table, cells in self.query.split(self.total)
            for figure in figures(table, cells, self.query.strata, std, self._numbers)
        ]

    @cached_property
    def _numbers(self) -> dict[str, Number]:
        """What the other tables say of each number, by its name."""
        assert self.total is not None
        tables = dict(self.query.split(self.total))
        (everybody,) = (cells[:, 0] for table, cells in tables.items() if isinstance(table, Everybody))
        # Less noise than in the sum of the bins: two cells instead of all.
        return {
            table.name: Number(
                np.maximum(everybody - cells[:, -1], 0.0), np.array([_variance(table, row) for row in cells])
            )
            for table, cells in tables.items()
            if isinstance(table, Bins)
        }

    def write(self) -> None:
        """Write tables.json, the noised cells with their names."""
        assert self.total is not None
        told = {
            "study": self.study.fingerprint(),
            "strata": list(self.query.strata),
            "tables": [
                {"name": table.name, "label": table.label, "unit": table.unit, "kind": type(table).__name__,
                 "cells": list(table.cells), "counts": np.round(cells, 4).tolist()}
                for table, cells in self.query.split(self.total)
            ],
        }  # fmt: skip
        replace_file(self.folder / "tables.json", (json.dumps(told, indent=1) + "\n").encode())

    @classmethod
    def fingerprints(cls, run: Path) -> dict[str, str]:
        return {"tables.json": str(json.loads((run / "tables.json").read_text(encoding="utf-8"))["study"])}

    @classmethod
    def wrong(cls, run: Path, study: Study, plan: PrivacyPlan, result: Mapping[str, Any]) -> Iterator[str]:
        """Compute the figures anew from the noised cells; they must be those that were published."""
        told = json.loads((run / "tables.json").read_text(encoding="utf-8"))
        anew = cls(study, run)
        cells = [np.array(table["counts"], dtype=np.float64).ravel() for table in told["tables"]]
        total = np.concatenate(cells) if cells else np.zeros(0)
        if len(total) != anew.query.size or tuple(told["strata"]) != anew.query.strata:
            yield "tables.json: holds other tables than the study asks for"
            return
        anew.total = total
        if anew.figures(float(result["noise_std"])) != result["figures"]:
            yield "result.json: its figures are not what the cells of tables.json come to"

    def files(self, result: Mapping[str, Any]) -> dict[str, bytes]:
        """Return what else belongs into RUN/: the figures as CSV, for a spreadsheet."""
        text = io.StringIO()
        table = csv.writer(text)
        table.writerow(("table", "stratum", "figure", "value", "low", "high"))
        for row in result["figures"]:
            table.writerow([row[key] for key in ("table", "stratum", "figure", "value", "low", "high")])
        return {"figures.csv": text.getvalue().encode()}

    @classmethod
    def sections(cls, result: Mapping[str, Any]) -> list[Section]:
        found, strata = result["figures"], tuple(result["strata"])
        lines: dict[tuple[str, str, str], dict[str, Row]] = {}
        for row in found:
            lines.setdefault((row["name"], row["table"], row["figure"]), {})[row["stratum"]] = row
        rows, curves = [], {stratum: [(0.0, 1.0)] for stratum in strata}
        before = ""
        for (name, label, figure), cells in lines.items():
            unit = next(iter(cells.values()))["unit"]
            if figure.startswith(BY):
                for stratum, cell in cells.items():
                    if cell["value"] is not None:
                        curves[stratum].append((float(figure.removeprefix(BY)), cell["value"]))
            whose = f"{label}{f' ({unit})' if unit else ''}: " if name != before or figure == "mean" else "    "
            before = name
            rows.append((whose + figure, *(_shown(cells.get(stratum)) for stratum in strata)))
        note = (
            "Numbers are noised: each is followed by a 95 % interval that holds the noise of the release and, but for counts "
            "of patients, the chance of having met these patients. '–': the noise hides it."
        )
        drawn = {stratum: points for stratum, points in curves.items() if len(points) > 1}
        return [Section("Tables", note, ("", *strata), tuple(rows), drawn, "time", "share without the event")]

    def state(self) -> Vectors:
        return {} if self.total is None else {"total": self.total, "sites": np.array([self.sites], np.int64)}

    def restore(self, state: Mapping[str, Stored]) -> None:
        if "total" in state:
            self.total, self.sites = state["total"][:], int(state["sites"][0:1][0])


def _shown(row: Row | None) -> str:
    if row is None or row["value"] is None:
        return "–"
    digits = 0 if row["figure"] == "patients" else 1 if abs(row["value"]) >= 10 else 3
    return f"{row['value']:,.{digits}f} ({row['low']:,.{digits}f} to {row['high']:,.{digits}f})"


def figures(
    table: CellTable, cells: Floats, strata: tuple[str, ...], std: float, numbers: Mapping[str, Number]
) -> list[Row]:
    """Return the figures of one table.

    Parameters
    ----------
    table, cells
        What was counted, and the noised sums, (strata, cells).
    strata
        Their names.
    std
        Standard deviation of the noise in each cell.
    numbers
        What the other tables say of each number, by its name.
    """
    random = np.random.default_rng(0)  # the intervals describe sums that are published anyway
    found: list[Row] = []
    for place, stratum in enumerate(strata):
        row = cells[place]
        if isinstance(table, Moment):
            number = numbers[table.name]
            told = _mean(table, float(row[0]), float(number.known[place]), float(number.variance[place]), std)
        else:
            told = KINDS[type(table)](table, row, std, random)
        found += [
            {"table": table.label, "name": table.name, "unit": table.unit, "stratum": stratum, **one} for one in told
        ]
    return found


def _row(figure: str, value: float, low: float, high: float, digits: int) -> Row:
    if not np.isfinite([value, low, high]).all():
        return {"figure": figure, "value": None, "low": None, "high": None}
    return {"figure": figure, "value": round(value, digits), "low": round(low, digits), "high": round(high, digits)}


def _everybody(table: CellTable, row: Floats, std: float, random: np.random.Generator) -> list[Row]:
    count = float(row[0])
    return [_row("patients", max(0.0, count), max(0.0, count - 1.96 * std), max(0.0, count + 1.96 * std), 1)]


def _shares(table: CellTable, row: Floats, std: float, random: np.random.Generator) -> list[Row]:
    """Return the share of each category among those of whom it is known, and the share of whom it is not."""

    def share(cells: Floats) -> Floats:
        cells = np.clip(cells, 0.0, None)
        known = cells[..., :-1].sum(axis=-1, keepdims=True)
        of_known = cells[..., :-1] / np.where(known > 0, known, np.nan)
        missing = cells[..., -1:] / np.where((all_ := cells.sum(axis=-1, keepdims=True)) > 0, all_, np.nan)
        return np.concatenate([of_known, missing], axis=-1)

    return _within(_booted(row, std, random, share, table.cells, 4))


def _quantiles(table: CellTable, row: Floats, std: float, random: np.random.Generator) -> list[Row]:
    """Return quantiles of a number, linear within a bin, and the share of patients of whom it is not known."""
    assert isinstance(table, Bins)
    from pmfed.tasks.task import nonnegative  # torch, which a site's commands do without

    edges = np.array(table.edges)

    def told(cells: Floats) -> Floats:
        flat = cells.reshape(-1, cells.shape[-1])
        values = np.full((len(flat), len(QUANTILES) + 1), np.nan)
        for place, one in enumerate(flat):
            counts = nonnegative(one)
            mass, whole = counts[:-1], counts.sum()
            if mass.sum() > 0:
                below = np.append(0.0, np.cumsum(mass)) / mass.sum()
                values[place, :-1] = [_at(share, below, edges) for share in QUANTILES]
            if whole > 0:
                values[place, -1] = counts[-1] / whole
        return values.reshape(*cells.shape[:-1], -1)

    names = (*(f"quantile {share:g}" for share in QUANTILES), "missing")
    *quantiles, missing = _booted(row, std, random, told, names, 4)
    return [*_within(quantiles, table.edges[0], table.edges[-1]), *_within([missing])]


def _at(share: float, below: Floats, edges: Floats) -> float:
    place = min(int(np.searchsorted(below, share, side="left")), len(edges) - 1)
    if place == 0:
        return float(edges[0])
    low, high = below[place - 1], below[place]
    part = (share - low) / (high - low) if high > low else 0.0
    return float(edges[place - 1] + part * (edges[place] - edges[place - 1]))


def _survival(table: CellTable, row: Floats, std: float, random: np.random.Generator) -> list[Row]:
    """Return the share without the event at the end of each interval (life table, last seen counted half; Cutler, Ederer 1958).

    At-risk numbers are what the noised cells leave; a chance of the event is kept between 0 and 1, so the curve only falls.
    """
    from pmfed.tasks.task import nonnegative

    assert isinstance(table, LifeTable)

    def curve(cells: Floats) -> Floats:
        flat = cells.reshape(-1, cells.shape[-1])
        alive = np.full((len(flat), len(table.ends)), np.nan)
        for place, one in enumerate(flat):
            counts = nonnegative(one)
            event, seen = counts[0:-1:2], counts[1:-1:2]
            left = counts.sum() - np.append(0.0, np.cumsum(event + seen))[:-1]
            at_risk = left - seen / 2
            hazard = np.divide(event, at_risk, out=np.zeros_like(event), where=at_risk > 0)
            alive[place] = np.cumprod(1.0 - np.clip(hazard, 0.0, 1.0))
        return alive.reshape(*cells.shape[:-1], -1)

    return _within(_booted(row, std, random, curve, tuple(f"{BY}{end:g}" for end in table.ends), 4))


def _within(rows: list[Row], least: float = 0.0, most: float = 1.0) -> list[Row]:
    """Cut intervals off where the figure cannot lie."""
    return [
        row if row["value"] is None else {**row, "low": max(least, row["low"]), "high": min(most, row["high"])}
        for row in rows
    ]


def _booted(
    row: Floats, std: float, random: np.random.Generator, told: Callable[[Floats], Floats], names: tuple[str, ...],
    digits: int,
) -> list[Row]:  # fmt: skip
    """Return figures of cells with 95 % intervals; nothing where the noise hides the stratum."""
    if row.sum() <= FEWEST * std * np.sqrt(len(row)):
        return [_row(name, np.nan, np.nan, np.nan, digits) for name in names]
    from pmfed.tasks.task import redraw

    value = told(row)
    drawn = told(redraw(row, DRAWS, random) + random.normal(0.0, std, (DRAWS, len(row))))
    # The draws carry the noise twice, once from the cells and once anew: centred on the figure, their spread is an upper bound.
    low, high = np.nanpercentile(drawn, [2.5, 97.5], axis=0)
    middle = np.nanmedian(drawn, axis=0)
    return [
        _row(name, float(value[i]), float(value[i] + low[i] - middle[i]), float(value[i] + high[i] - middle[i]), digits)
        for i, name in enumerate(names)
    ]


def _variance(table: Bins, row: Floats) -> float:
    """Return the variance of a number between patients, from its bins, each taken as filled evenly."""
    from pmfed.tasks.task import nonnegative

    mass, edges = nonnegative(row)[:-1], np.array(table.edges)
    if mass.sum() <= 0:
        return float((edges[-1] - edges[0]) ** 2 / 4)  # the most there can be
    share, middles = mass / mass.sum(), (edges[1:] + edges[:-1]) / 2
    mean = float(share @ middles)
    return float(share @ ((middles - mean) ** 2 + np.diff(edges) ** 2 / 12))


def _mean(table: Moment, total: float, known: float, variance: float, std: float) -> list[Row]:
    """Return the mean of a number, from its sum and the number of patients it is known of."""
    middle, half = (table.minimum + table.maximum) / 2, (table.maximum - table.minimum) / 2
    if known < FEWEST * std or known < 1:
        return [_row("mean", np.nan, np.nan, np.nan, 4)]
    mean = float(np.clip(total / known, -1.0, 1.0))
    spread = variance / half**2 / known
    noise = (std / known) ** 2 * (1 + 2 * mean**2)  # of the sum, and of the two cells behind `known`
    width = 1.96 * float(np.sqrt(spread + noise))
    return [_row("mean", middle + half * mean, middle + half * (mean - width), middle + half * (mean + width), 4)]


KINDS: dict[type[CellTable], Callable[[CellTable, Floats, float, np.random.Generator], list[Row]]] = {
    Everybody: _everybody,
    Categories: _shares,
    Bins: _quantiles,
    LifeTable: _survival,
}
"""How each kind of table is told; the mean of a number is told with how many it is known of."""
