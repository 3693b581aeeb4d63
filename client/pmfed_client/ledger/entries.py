"""What the rows of a ledger mean: runs, what they reserved and charged, and what counts for which patients.

Cohorts
-------
A cohort is a set of patients, named ``role`` or ``role:split``. Two cohorts are disjoint only when they are
different roles of one split, and neither is "all": there each patient is in one of them. Cohorts of different splits may share
patients, so the releases of each count in full for the other.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from pmfed.errors import LedgerError
from pmfed.privacy.accounting import Release
from pmfed.privacy.mechanism import SAMPLED_GAUSSIAN, Role
from pmfed.privacy.plan import PrivacyPlan
from pmfed.study import Study
from pmfed_client.ledger.chain import LedgerRow

Value = TypeVar("Value")

ACCOUNT = "patients"
"""The one population whose budget this folder keeps."""

Costs = Counter[tuple[float, float]]
"""(sampling rate, noise multiplier) -> number of releases."""


@dataclass(frozen=True)
class Entry:
    """One kind of release that a run plans to make on one cohort.

    Parameters
    ----------
    what
        The query; once per run.
    sampling_rate
        Chance of a patient to be in one release, above 0 and at most 1.
    noise_multiplier
        Standard deviation of the noise over ``clip``, above 0.
    clip
        Largest L2 norm of one patient's contribution.
    count
        How many such releases the whole run makes.

    Raises
    ------
    LedgerError
        The values are no private release: no noise, no finite clip, no sampling rate, nothing released.
    """

    what: str
    sampling_rate: float
    noise_multiplier: float
    clip: float
    count: int

    def __post_init__(self) -> None:
        numbers = (self.sampling_rate, self.noise_multiplier, self.clip)
        if not (all(map(math.isfinite, numbers)) and min(numbers) > 0 and self.sampling_rate <= 1):
            raise LedgerError(f"{self} is not a private release. Nothing was released.")
        if self.count < 1 or not self.what:
            raise LedgerError(f"{self} releases nothing. Nothing was released.")

    @property
    def parameters(self) -> str:
        """The parameters of its mechanism, as a row holds them."""
        told = {"bound": self.clip, "noise_multiplier": self.noise_multiplier, "sampling_rate": self.sampling_rate}
        return json.dumps(told, sort_keys=True, separators=(",", ":"), allow_nan=False)

    @property
    def costs(self) -> Costs:
        """What the whole entry costs."""
        return Counter({(self.sampling_rate, self.noise_multiplier): self.count})


@dataclass
class RunLine:
    """One entry of a run, and what was charged on it."""

    cohort: str
    entry: Entry
    covered: int = 0  # how many of the reserved releases the charges have used up
    charged: Costs = field(default_factory=Counter)
    beyond: Costs = field(default_factory=Counter)  # charges past the reservation, which the first pmfed allowed
    last: tuple[int, int] | None = None  # (round, attempt) of the last charge


@dataclass
class Run:
    """What one run reserved and charged; ``first`` and ``latest`` are hashes of its rows."""

    study: str
    budget: tuple[float, float]
    first: str
    latest: str = ""
    time: str = ""  # of the newest row
    approval: str | None = None
    rows: int = 0
    finished: bool = False
    ended: bool = False  # by the site, before the coordinator had asked for the receipt
    lines: dict[str, RunLine] = field(default_factory=dict)

    @property
    def began(self) -> bool:
        """Whether anything was charged."""
        return any(line.charged.total() for line in self.lines.values())

    def plan(self) -> dict[str, tuple[str, Entry]]:
        """Return what -> (cohort, entry)."""
        return {what: (line.cohort, line.entry) for what, line in self.lines.items()}


class Book:
    """All runs of a ledger, folded together row by row."""

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self._form: int | None = None  # of the newest row

    def fold(self, row: LedgerRow) -> None:
        """Take in the next row; LedgerError when it makes no sense after those before it."""
        try:
            self._fold(row)
        except (KeyError, TypeError, ValueError, LedgerError):
            raise LedgerError(
                f"row {row.seq} of the ledger makes no sense where it stands. Nothing was released.",
                "It was written by something else than pmfed, or by a newer one.",
            ) from None

    def _fold(self, row: LedgerRow) -> None:
        if self._form is not None and row.form is None:
            raise ValueError("an older row after a newer one")
        self._form = row.form
        if row.account not in (None, ACCOUNT):
            raise ValueError(row.account)
        if row.kind == "migrate":
            return
        if row.kind == "reserve":
            budget = _held(row.epsilon), _held(row.delta)
            entry = _entry(row)
            what = entry.what
            run = self.runs.setdefault(row.run, Run(row.study, budget, row.hash))
            run.budget, run.approval = budget, row.approval
            run.lines.setdefault(what, RunLine(_held(row.cohort), entry))  # a second time: only the budget is new
        elif row.kind == "charge":
            run = self.runs[row.run]
            entry = _entry(row)
            line, count = run.lines[entry.what], entry.count
            cost = entry.sampling_rate, entry.noise_multiplier
            left = line.entry.count - line.covered if cost[1] >= line.entry.noise_multiplier else 0
            line.covered += min(count, left)
            line.charged[cost] += count
            line.beyond[cost] += count - min(count, left)
            line.last = _held(row.round), _held(row.attempt)
        elif row.kind in ("refund", "finish", "end"):
            run = self.runs[row.run]
            run.finished = run.finished or row.kind != "refund"
            run.ended = run.ended or row.kind == "end"
        else:
            raise ValueError(row.kind)
        run.latest, run.time, run.rows = row.hash, row.time, run.rows + 1

    def costs(self, cohort: str, run: str | None = None, reserved: bool = True) -> Costs:
        """Return what counts for the patients of a cohort, of all runs or of one.

        Finished runs count with what was charged; with ``reserved``, others with their whole reservation and
        what was charged beyond it.
        """
        total: Costs = Counter()
        for name, one in self.runs.items():
            if run is not None and name != run:
                continue
            for line in one.lines.values():
                if may_share(cohort, line.cohort):
                    total += line.entry.costs + line.beyond if reserved and not one.finished else line.charged
        return total

    def unfinished(self) -> tuple[str, ...]:
        """Return the runs that may still charge."""
        return tuple(name for name, run in self.runs.items() if not run.finished)


def by_what(releases: Mapping[str, Iterable[Entry]]) -> dict[str, tuple[str, Entry]]:
    """Return what -> (cohort, entry) of a plan; LedgerError when it is empty or names one ``what`` twice."""
    found: dict[str, tuple[str, Entry]] = {}
    for cohort, entries in sorted(releases.items()):
        for entry in entries:
            if entry.what in found:
                raise LedgerError(f"'{entry.what}' is planned twice in one run. Nothing was released.")
            found[entry.what] = (cohort, entry)
    if not found:
        raise LedgerError("a run that reserves nothing may release nothing. Nothing was released.")
    return found


def _entry(row: LedgerRow) -> Entry:
    """Return what a row reserves or charges; ValueError where it holds anything that this pmfed does not know."""
    if row.form is None:
        numbers = _held(row.sampling_rate), _held(row.noise_multiplier), _held(row.clip)
        return Entry(_held(row.what), *numbers, _held(row.count))
    told = json.loads(_held(row.parameters))
    if row.mechanism != SAMPLED_GAUSSIAN or set(told) != {"bound", "noise_multiplier", "sampling_rate"}:
        raise ValueError("a mechanism that is not known here")
    numbers = float(told["sampling_rate"]), float(told["noise_multiplier"]), float(told["bound"])
    return Entry(_held(row.what), *numbers, _held(row.count))


def _held(value: Value | None) -> Value:
    if value is None:
        raise ValueError("a column is empty")
    return value


def may_share(one: str, other: str) -> bool:
    """Whether two cohorts may hold the same patient."""
    role, _, split = one.partition(":")
    other_role, _, other_split = other.partition(":")
    return role == other_role or split != other_split or "all" in (role, other_role)


def as_releases(costs: Costs) -> tuple[Release, ...]:
    """Return costs as the accounting takes them, in a fixed order."""
    return tuple(Release(rate, noise, count) for (rate, noise), count in sorted(costs.items()) if count > 0)


def cohorts(study: Study, fold: str = "") -> dict[Role, str]:
    """Return, by role, the names of a study's cohorts at a site.

    They hold a digest of everything that decides which patient is in which; ``fold`` stands for what the
    caller decides beyond the study (a fold of a cross-validation).

    Guarantee
    ---------
    Studies that split patients in the same way get the same names, and those that may not get different ones.
    """
    cut, cohort = study.evaluation, study.cohort
    how = [cut.split_key, cut.test_fraction] if cut.split_column is None else [cohort.table, cut.split_column]
    text = json.dumps([cohort.patient, how, fold])
    split = hashlib.sha256(text.encode()).hexdigest()[:12]
    return {"train": f"train:{split}", "held-out": f"held-out:{split}", "all": f"all:{split}"}


def entries(study: Study, plan: PrivacyPlan, fold: str = "") -> dict[str, tuple[Entry, ...]]:
    """Return what a run will charge, by cohort, from the very plan that will add the noise."""
    names = cohorts(study, fold)
    booked: dict[str, tuple[Entry, ...]] = {}
    for one in plan.mechanisms:
        entry = Entry(one.query, one.sampling_rate, one.noise_multiplier, one.bound, one.times)
        booked[names[one.role]] = (*booked.get(names[one.role], ()), entry)
    return booked
