"""How well anybody could predict the virtual patients: the best AUC, with everything known and from what is recorded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import rankdata

from pmfed.cohort.split import held_out
from pmfed_simulations.hospitals.habits import HABITS
from pmfed_simulations.hospitals.history import Hospital
from pmfed_simulations.hospitals.model import (
    FREQUENCIES,
    LABS,
    PANEL,
    SMOKING_EFFECT,
    YEAR,
    Bools,
    Columns,
    Floats,
    Ints,
    burdens,
    clinical,
    combined,
    draw_people,
    expected_level,
    smoking_law,
)

MODALITIES = ("record", "genotype", "scan")
DRAWS = 500  # of what a predictor does not see; moves an AUC by less than 0.001
LAW_DRAW = 60_000  # patients; moves an AUC by less than 0.001
PER_PATIENT = ("ids", "sites", "outcome", "held_out", "risk", "expected")
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(15)


@dataclass(frozen=True, eq=False)
class Truth:
    """What only the maker of the patients knows. Arrays have one entry per patient of the cohorts: those who gave
    consent and whose outcome is known, in the order of ``ids``.

    Attributes
    ----------
    ids, sites
        Patient ids, unique over all hospitals, and the hospital of each.
    outcome, held_out
        Whether the event happened; whether the study's keyed hash holds the patient out.
    risk
        Probability the outcome was drawn with.
    expected
        Probability of the event given all that the hospital recorded before the index date. On average over
        patients, no model orders them better.
    law_auc
        AUC of ``risk`` over patients without number: the best possible, free of the chance of these outcomes.
    best_auc, best_auc_held_out
        AUC of ``risk`` on these outcomes: the best possible with everything known. NaN when all have one outcome.
    reachable_auc, reachable_auc_held_out
        AUC of ``expected`` on these outcomes: the best possible from what is recorded.
    ceilings
        AUC over all patients when some modalities are known without error and the others not at all, e.g.
        ``"record+scan"``.
    prevalence, patients, in_sources
        Per hospital: share of events and number of patients in the cohort, and number of patients in its sources.
    """

    seed: int
    ids: tuple[str, ...] = field(repr=False)
    sites: tuple[str, ...] = field(repr=False)
    outcome: Bools = field(repr=False)
    held_out: Bools = field(repr=False)
    risk: Floats = field(repr=False)
    expected: Floats = field(repr=False)
    law_auc: float
    best_auc: float
    best_auc_held_out: float
    reachable_auc: float
    reachable_auc_held_out: float
    ceilings: dict[str, float]
    prevalence: dict[str, float]
    patients: dict[str, int]
    in_sources: dict[str, int]

    @classmethod
    def of(
        cls,
        seed: int,
        cohorts: Mapping[str, Columns],
        in_sources: Mapping[str, int],
        split: tuple[str, float],
        expected: Floats,
        known: Mapping[str, Floats],
        law_auc: float,
    ) -> Truth:
        """Return the truth of some cohorts.

        Parameters
        ----------
        seed
            Of all draws.
        cohorts
            Hospital -> ``id``, ``outcome`` and ``risk`` of its cohort.
        in_sources
            Hospital -> patients in its sources.
        split
            The study's key and fraction: see `pmfed.cohort.split.held_out`.
        expected
            As the attribute; all hospitals, one after the other.
        known
            Set of modalities -> what ``expected`` is when these are known without error and the others not at all.
        law_auc
            As the attribute.
        """
        people = joined([{key: one[key] for key in ("id", "outcome", "risk")} for one in cohorts.values()])
        outcome, risk = people["outcome"], people["risk"]
        test = held_out(people["id"].tolist(), *split)
        return cls(
            seed=seed,
            ids=tuple(people["id"].tolist()),
            sites=tuple(name for name, one in cohorts.items() for _ in one["id"]),
            outcome=outcome,
            held_out=test,
            risk=risk,
            expected=expected,
            law_auc=law_auc,
            best_auc=auc(outcome, risk),
            best_auc_held_out=auc(outcome[test], risk[test]),
            reachable_auc=auc(outcome, expected),
            reachable_auc_held_out=auc(outcome[test], expected[test]),
            ceilings={name: auc(outcome, one) for name, one in known.items()},
            prevalence={name: float(one["outcome"].mean()) for name, one in cohorts.items()},
            patients={name: len(one["id"]) for name, one in cohorts.items()},
            in_sources=dict(in_sources),
        )

    def to_json(self) -> str:
        """Return the numbers that are not per patient; an AUC that does not exist is null."""
        summary = {name: value for name, value in vars(self).items() if name not in PER_PATIENT}
        return json.dumps({name: None if value != value else value for name, value in summary.items()}, indent=2) + "\n"


@dataclass(frozen=True, eq=False, repr=False)
class Belief:
    """What is believed of P patients, given some of their data.

    Attributes
    ----------
    base : (P,)
        What the health record adds to the log odds, but for smoking; its mean.
    hba1c, systolic : (P,)
        Mean of the two values that interact, in spreads above the middle.
    spread : (P, 3, 3)
        Covariance of the three.
    smoking : (P, 3)
        Chances of never, former and current.
    dosage, lesion : (P, V), (P,)
        Genotypes and burden, NaN where unknown.
    record : (P,) bool
        False where the whole health record is unknown: then another patient's stands for it.
    """

    base: Floats
    hba1c: Floats
    systolic: Floats
    spread: Floats
    smoking: Floats
    dosage: Floats
    lesion: Floats
    record: Bools


def find_truth(hospitals: Sequence[Hospital], split_key: str, test_fraction: float) -> Truth:
    """Return what is known of the cohorts of some hospitals, under the split of a study."""
    seed = hospitals[0].seed
    cohorts = {one.name: {key: part[one.cohort] for key, part in one.people.items()} for one in hospitals}
    people = joined(list(cohorts.values()))
    belief = Belief(**joined([vars(_chosen(believed(one), one.cohort)) for one in hospitals]))
    return Truth.of(
        seed,
        cohorts,
        {one.name: one.size for one in hospitals},
        (split_key, test_fraction),
        expected_risk(belief, seed),
        {"+".join(some): expected_risk(_complete(people, some), seed) for some in sets(MODALITIES)},
        _law_auc(len(hospitals), seed),
    )


def sets(names: Sequence[str]) -> list[tuple[str, ...]]:
    """Return all sets of some names but the empty one, the small ones first."""
    return [some for count in range(1, len(names) + 1) for some in combinations(names, count)]


def joined(parts: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """Return the columns of several groups of patients as one."""
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def believed(hospital: Hospital) -> Belief:
    """Return what a hospital's files say of all its patients before their index dates.

    A value's level and yearly change are normal beforehand and measured with normal errors, so they are normal
    afterwards: Bayes' rule for a straight line.
    """
    people, size = hospital.people, hospital.size
    owner, when = hospital.visits.owner, hospital.visits.start
    events = hospital.events
    whose, moment = owner[events.visit], when[events.visit]
    early = hospital.before(whose, moment)
    years = (moment.astype("datetime64[D]") - people["index"][whose]) / np.timedelta64(1, "D") / YEAR
    base, spread = clinical(people), np.zeros((size, 3, 3))
    z: dict[str, Floats] = {}
    for name, lab in LABS.items():
        here = early & (events.what == name)
        prior = expected_level(lab, people)
        t, above = years[here], events.value[here] - prior[whose[here]]
        sums = [np.bincount(whose[here], part, size) / lab.within**2 for part in (t**0, t, t * t, above, t * above)]
        precision = np.empty((size, 2, 2))
        precision[:, 0, 0], precision[:, 1, 1] = sums[0] + lab.spread**-2, sums[2] + lab.drift**-2
        precision[:, 0, 1] = precision[:, 1, 0] = sums[1]
        covariance = np.linalg.inv(precision)
        level, drift = np.einsum("pij,jp->ip", covariance, np.stack(sums[3:]))
        z[name] = (prior + level - lab.middle) / lab.spread
        base = base + lab.effect * z[name] + lab.rising * drift / lab.drift
        weights = np.array([lab.effect / lab.spread, lab.rising / lab.drift])
        spread[:, 0, 0] += np.einsum("i,pij,j->p", weights, covariance, weights)
        if name in ("hba1c", "systolic"):
            place = 1 if name == "hba1c" else 2
            spread[:, 0, place] = spread[:, place, 0] = covariance[:, 0] @ weights / lab.spread
            spread[:, place, place] = covariance[:, 0, 0] / lab.spread**2
    smoking = np.where(people["asked"][:, None], np.eye(3)[people["smoking"]], smoking_law(people))
    dosage = np.where(hospital.calls.seen, people["dosage"], np.nan)
    scans = hospital.scans
    pictured = np.zeros(size, dtype=bool)
    pictured[scans.owner[scans.lesion & hospital.before(scans.owner, scans.when)]] = True
    lesion = np.where(pictured, people["lesion"], np.nan)
    return Belief(base, z["hba1c"], z["systolic"], spread, smoking, dosage, lesion, np.ones(size, dtype=bool))


def _complete(people: Columns, known: Sequence[str]) -> Belief:
    """Return the belief of who knows some modalities without error, and the others not at all."""
    size = len(people["age"])
    z = {name: (people[name] - lab.middle) / lab.spread for name, lab in LABS.items()}
    base = clinical(people)
    for name, lab in LABS.items():
        base = base + lab.effect * z[name] + lab.rising * people[f"drift {name}"] / lab.drift
    nothing = np.full(size, np.nan)
    return Belief(
        base=base,
        hba1c=z["hba1c"],
        systolic=z["systolic"],
        spread=np.zeros((size, 3, 3)),
        smoking=np.eye(3)[people["smoking"]],
        dosage=people["dosage"].astype(np.float64) if "genotype" in known else np.full((size, len(PANEL)), np.nan),
        lesion=people["lesion"] if "scan" in known else nothing,
        record=np.full(size, "record" in known),
    )


def _chosen(belief: Belief, mask: Bools) -> Belief:
    return Belief(**{name: part[mask] for name, part in vars(belief).items()})


def expected_risk(belief: Belief, seed: int) -> Floats:
    """Return the probability of the event, averaged over what is not known: (P,).

    Genotypes, lesion and smoking are drawn by their laws. Given these the log odds are normal, and the average over
    them is an integral by Gauss and Hermite. A predictor is not told the hospital, and would gain nothing: the
    laws of what is hidden are the same everywhere.
    """
    rng = np.random.default_rng([seed, 0, 1])
    unknown = np.isnan(belief.lesion) | np.isnan(belief.dosage).any(axis=1) | ~belief.record
    unknown |= belief.smoking.max(axis=1) < 1
    out = np.empty(len(unknown))
    out[~unknown] = _drawn_risk(belief, np.flatnonzero(~unknown), rng)
    rows = np.flatnonzero(unknown)
    out[rows] = sum(_drawn_risk(belief, rows, rng) for _ in range(DRAWS)) / DRAWS
    return out


def _drawn_risk(belief: Belief, rows: Ints, rng: np.random.Generator) -> Floats:
    """Return the probability for some patients, with what is unknown drawn once, but for the record's values."""
    size = len(rows)
    dosage, lesion = belief.dosage[rows], belief.lesion[rows]
    drawn = (rng.random((2, *dosage.shape), dtype=np.float32) < FREQUENCIES).sum(axis=0)
    dosage = np.where(np.isnan(dosage), drawn, dosage)
    lesion = np.where(np.isnan(lesion), burdens(rng, size), lesion)
    whose = np.where(belief.record[rows], rows, rng.integers(len(belief.base), size=size))
    smoking = (rng.random((size, 1)) > np.cumsum(belief.smoking[whose], axis=1)[:, :2]).sum(axis=1)
    values = (belief.base[whose] + SMOKING_EFFECT[smoking], belief.hba1c[whose], belief.systolic[whose])
    mean = combined(*values, dosage, lesion)
    spread = belief.spread[whose]
    if not spread.any():
        return np.asarray(expit(mean), dtype=np.float64)
    # The log odds are linear in the three, so differences give their factors.
    one, nil = np.ones(size), np.zeros(size)
    start = combined(nil, nil, nil, dosage, lesion)
    axes = ((one, nil, nil), (nil, one, nil), (nil, nil, one))
    w = np.stack([combined(*axis, dosage, lesion) - start for axis in axes], axis=1)
    deviation = np.sqrt(np.maximum(np.einsum("pi,pij,pj->p", w, spread, w), 0.0))
    return np.asarray(expit(mean[:, None] + deviation[:, None] * _NODES) @ _WEIGHTS / _WEIGHTS.sum(), dtype=np.float64)


def _law_auc(sites: int, seed: int) -> float:
    """Return the AUC of the risk over a large draw of other patients, averaged over their outcomes."""
    habits = [HABITS[number % len(HABITS)] for number in range(sites)]
    whole = sum(habit.weight for habit in habits)
    drawn = [
        draw_people(number, habit, round(LAW_DRAW * habit.weight / whole), seed + 1)["risk"]
        for number, habit in enumerate(habits, 1)
    ]
    return mean_auc(np.concatenate(drawn))


def mean_auc(risk: Floats) -> float:
    """Return the AUC of the risk itself, averaged over the outcomes that may follow from it."""
    risk = np.sort(risk)
    below = np.cumsum(1 - risk)  # expected non-events among those of lower risk
    return float((risk * below).sum() / (risk.sum() * below[-1]))


def auc(outcome: Bools, score: Floats) -> float:
    """Return the area under the ROC curve; NaN when only one class is there."""
    events, others = int(outcome.sum()), int((~outcome).sum())
    pairs_won = rankdata(score)[outcome].sum() - events * (events + 1) / 2
    return float(pairs_won / (events * others)) if events and others else float("nan")
