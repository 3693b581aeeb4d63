"""The best AUC really is the best: the law, what is believed of it from the records, and its AUC."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pmfed_simulations.hospitals.habits import HABITS
from pmfed_simulations.hospitals.history import EventHistory, Hospital, Scans, draw_hospital, draw_hospitals
from pmfed_simulations.hospitals.model import (
    FREQUENCIES,
    LABS,
    NAMES,
    clinical,
    draw_people,
    log_odds,
    smoking_law,
)
from pmfed_simulations.hospitals.real import STUDY, write_real_hospitals
from pmfed_simulations.hospitals.truth import Truth, auc, believed, expected_risk, find_truth
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from pmfed.cohort.split import held_out
from pmfed.study import Study

Floats = NDArray[np.float64]


@pytest.fixture(scope="module")
def hospitals() -> list[Hospital]:
    return draw_hospitals(5, 400, 1)


@pytest.fixture(scope="module")
def truth(hospitals: list[Hospital]) -> Truth:
    split = Study.read(STUDY).evaluation
    return find_truth(hospitals, split.split_key, split.test_fraction)


def error_of(value: float, outcome: NDArray[np.bool_]) -> float:
    """Return the standard error of an AUC (Hanley and McNeil 1982)."""
    events, others = outcome.sum(), (~outcome).sum()
    q1, q2 = value / (2 - value), 2 * value**2 / (1 + value)
    total = value * (1 - value) + (events - 1) * (q1 - value**2) + (others - 1) * (q2 - value**2)
    return float(np.sqrt(total / (events * others)))


def test_auc_agrees_with_independent_code(truth: Truth) -> None:
    split = Study.read(STUDY).evaluation
    test = held_out(list(truth.ids), split.split_key, split.test_fraction)
    assert (test == truth.held_out).all()
    for where, end in ((np.ones(len(test), dtype=bool), ""), (test, "_held_out")):
        for name, score in (("best_auc", truth.risk), ("reachable_auc", truth.expected)):
            independent = roc_auc_score(truth.outcome[where], score[where])
            assert getattr(truth, name + end) == pytest.approx(independent, abs=1e-9)


def test_the_auc_of_these_outcomes_is_that_of_the_law_within_sampling_error(truth: Truth) -> None:
    error = error_of(truth.law_auc, truth.outcome)
    assert error < 0.01
    assert abs(truth.best_auc - truth.law_auc) < 4 * error
    # The law's own figure, by tossing the coins of a large draw once instead of averaging over them.
    whole = sum(habit.weight for habit in HABITS)
    risk = np.concatenate(
        [
            draw_people(number, habit, round(100_000 * habit.weight / whole), 99)["risk"]
            for number, habit in enumerate(HABITS, 1)
        ]
    )
    tossed = np.random.default_rng(0).random(len(risk)) < risk
    assert abs(auc(tossed, risk) - truth.law_auc) < 5 * error_of(truth.law_auc, tossed)


def test_written_truth_is_that_of_the_files(tmp_path: Path) -> None:
    made = write_real_hospitals(tmp_path / "sites", sites=2, patients=40, seed=5)
    known = json.loads((tmp_path / "sites" / "truth.json").read_text())
    assert known["reachable_auc_held_out"] == pytest.approx(made.reachable_auc_held_out, nan_ok=True)
    assert known["law_auc"] == made.law_auc
    table = np.genfromtxt(tmp_path / "sites" / "truth.csv", delimiter=",", names=True, dtype=None, encoding="utf-8")
    assert tuple(table["ids"]) == made.ids
    risk = dict(zip(made.ids, made.risk, strict=True))
    for hospital in draw_hospitals(2, 40, 5):
        people = hospital.people
        again = expit(log_odds(people))
        mine = [one in risk for one in people["id"]]
        assert (np.array(mine) == hospital.cohort).all()
        np.testing.assert_allclose([risk[one] for one in people["id"][mine]], again[mine])


def test_belief_is_right_on_average(hospitals: list[Hospital]) -> None:
    """In units of its own uncertainty the truth lies around the belief as a standard normal number does."""
    for hospital in hospitals:
        belief, people = believed(hospital), hospital.people
        base = clinical(people)
        for name, lab in LABS.items():
            base = base + lab.effect * (people[name] - lab.middle) / lab.spread
            base = base + lab.rising * people[f"drift {name}"] / lab.drift
        z = {name: (people[name] - LABS[name].middle) / LABS[name].spread for name in ("hba1c", "systolic")}
        truths = (base, z["hba1c"], z["systolic"])
        for place, (value, mean) in enumerate(zip(truths, (belief.base, belief.hba1c, belief.systolic), strict=True)):
            distance = (value - mean) / np.sqrt(belief.spread[:, place, place])
            assert abs(distance.mean()) < 4 / np.sqrt(len(value))
            assert abs(distance.std() - 1) < 4 / np.sqrt(2 * len(value))
        # Off the diagonal too: the errors of base and HbA1c go together as the belief says.
        product = (base - belief.base) * (z["hba1c"] - belief.hba1c)
        assert abs((product - belief.spread[:, 0, 1]).mean()) < 4 * product.std() / np.sqrt(len(product))


def test_belief_is_of_what_was_recorded_before_the_index_date(hospitals: list[Hospital]) -> None:
    for hospital in hospitals:
        visits, scans, people = hospital.visits, hospital.scans, hospital.people
        visit = hospital.events.visit
        early = hospital.before(visits.owner[visit], visits.start[visit])
        sooner = hospital.before(scans.owner, scans.when)
        assert not early.all()
        known = replace(
            hospital,
            events=EventHistory(**{name: part[early] for name, part in vars(hospital.events).items()}),
            scans=Scans(**{name: part[sooner] for name, part in vars(scans).items()}),
        )
        belief, again = believed(hospital), believed(known)
        for name, part in vars(belief).items():
            np.testing.assert_array_equal(part, getattr(again, name), err_msg=name)
        # Smoking is known where it was asked for, and follows its law where not.
        asked = people["asked"]
        assert not asked.all()
        assert (belief.smoking[asked].argmax(axis=1) == people["smoking"][asked]).all()
        assert (belief.smoking[asked].max(axis=1) == 1).all()
        np.testing.assert_allclose(belief.smoking[~asked], smoking_law(people)[~asked])
        assert (np.isnan(belief.dosage) == ~hospital.calls.seen).all()


def test_expected_risk_is_the_average_of_risk(truth: Truth) -> None:
    """Among patients of whom the same is believed the risks differ, and their mean is what is expected."""
    for part in np.array_split(np.argsort(truth.expected), 6):
        apart = truth.risk[part] - truth.expected[part]
        assert abs(apart.mean()) < 4 * apart.std() / np.sqrt(len(part))
    for part in np.array_split(np.argsort(truth.risk), 5):
        error = np.sqrt((truth.risk[part] * (1 - truth.risk[part])).sum()) / len(part)
        assert abs(truth.outcome[part].mean() - truth.risk[part].mean()) < 4 * error


def test_nobody_orders_the_patients_better_than_the_expected_risk(hospitals: list[Hospital], truth: Truth) -> None:
    """A regression that is given the belief, fitted on these very patients, does not beat it by more than chance."""
    parts = [believed(hospital) for hospital in hospitals]
    columns = np.concatenate(
        [
            np.column_stack(
                [
                    one.base, one.hba1c, one.systolic, one.smoking[:, 1:], np.nan_to_num(one.lesion),
                    np.nan_to_num(one.dosage - 2 * FREQUENCIES),
                ]
            )[hospital.cohort]
            for hospital, one in zip(hospitals, parts, strict=True)
        ]
    )  # fmt: skip
    fitted = LogisticRegression(max_iter=500).fit(columns, truth.outcome).predict_proba(columns)[:, 1]
    assert roc_auc_score(truth.outcome, fitted) < truth.reachable_auc + 0.005


def test_expected_risk_of_one_patient_by_brute_force() -> None:
    """Draw levels by their law, keep those that could have given the measurements, average the risk."""
    hospital = draw_hospital(5, HABITS[4], 400, 1)
    people, visits, events = hospital.people, hospital.visits, hospital.events
    belief = believed(hospital)
    number = np.array([(visits.owner[events.visit] == one).sum() for one in range(hospital.size)])
    patient = int(np.flatnonzero(np.isnan(belief.lesion) & (number > 4) & people["asked"])[0])
    rng, draws = np.random.default_rng(0), 400_000
    drawn = {name: np.full(draws, people[name][patient]) for name in ("age", "male", "diabetes", "hypertension")}
    drawn |= {name: np.full(draws, people[name][patient]) for name in ("statin", "smoking")}
    weight = np.zeros(draws)
    index = people["index"][patient]
    for name, lab in LABS.items():
        centre = (
            lab.middle + lab.slope * (people["age"][patient] - 62) + lab.male * people["male"][patient]
            + lab.diabetes * people["diabetes"][patient] + lab.hypertension * people["hypertension"][patient]
            + lab.statin * people["statin"][patient]
        )  # fmt: skip
        drawn[name] = centre + lab.spread * rng.normal(size=draws)
        drawn[f"drift {name}"] = lab.drift * rng.normal(size=draws)
        for event in np.flatnonzero((visits.owner[events.visit] == patient) & (events.what == name)):
            when = visits.start[events.visit[event]]
            if when < index and (name in ("hba1c", "systolic") or lab.effect or lab.rising):
                years = (when.astype("datetime64[D]") - index) / np.timedelta64(1, "D") / 365.2425
                apart = events.value[event] - drawn[name] - drawn[f"drift {name}"] * years
                weight -= (apart / lab.within) ** 2 / 2
    known = belief.dosage[patient]
    guess = rng.binomial(2, FREQUENCIES, (draws, len(FREQUENCIES)))
    drawn["dosage"] = np.where(np.isnan(known), guess, np.nan_to_num(known))
    drawn["lesion"] = np.clip(rng.normal(size=draws), -2.2, 2.2)
    share = np.exp(weight - weight.max())
    assert share.sum() ** 2 / (share**2).sum() > 300  # enough draws count
    wanted = float((share * expit(log_odds(drawn))).sum() / share.sum())
    assert expected_risk(belief, 1)[patient] == pytest.approx(wanted, abs=0.03)


def test_ceilings_grow_with_what_is_known(truth: Truth) -> None:
    sets = {frozenset(name.split("+")): value for name, value in truth.ceilings.items()}
    assert len(sets) == 7
    assert all(sets[a] < sets[b] for a in sets for b in sets if a < b)
    assert sets[frozenset({"record", "genotype", "scan"})] == truth.best_auc
    assert truth.reachable_auc < truth.best_auc
    assert 0.86 < truth.law_auc < 0.93
    assert max(truth.prevalence.values()) - min(truth.prevalence.values()) > 0.05


def test_interactions() -> None:
    """An allele's effect depends on HbA1c or on the lesion, the lesion's on pressure; others depend on nothing."""
    plain: dict[str, NDArray[np.float64]] = {name: np.full(2, lab.middle) for name, lab in LABS.items()}
    plain |= {f"drift {name}": np.zeros(2) for name in LABS}
    plain |= {name: np.zeros(2) for name in ("male", "diabetes", "hypertension", "statin", "lesion")}
    plain |= {"age": np.full(2, 62.0), "smoking": np.zeros(2, dtype=int)}
    plain["dosage"] = np.tile(2 * FREQUENCIES, (2, 1))

    def allele(name: str, **others: float) -> float:
        dosage = plain["dosage"].copy()
        dosage[1, NAMES.index(name)] += 1
        changed = {key: np.full(2, value) for key, value in others.items()}
        low, high = log_odds(plain | changed | {"dosage": dosage})
        return float(high - low)

    def lesion(pressure: float) -> float:
        low, high = log_odds(plain | {"lesion": np.array([0.0, 1.0]), "systolic": np.full(2, pressure)})
        return float(high - low)

    assert allele("rs7903146", hba1c=5.7 + 0.6) - allele("rs7903146") == pytest.approx(0.30)
    assert allele("rs10757278", lesion=1.0) - allele("rs10757278") == pytest.approx(0.30)
    assert lesion(140) - lesion(128) == pytest.approx(0.35)
    assert allele("rs5186", hba1c=9, lesion=2, systolic=180) == pytest.approx(allele("rs5186")) == pytest.approx(0.5)
    assert allele("rs699", hba1c=9, lesion=2) == pytest.approx(0.0)


def test_hospitals_differ_in_case_mix_and_not_in_the_law(hospitals: list[Hospital]) -> None:
    shares = [hospital.people["diabetes"].mean() for hospital in hospitals]
    assert max(shares) > 0.6 > 0.3 > sorted(shares)[-2]
    for hospital in hospitals:
        people = hospital.people
        risk = people["risk"]
        assert (risk == expit(log_odds(people))).all()
        chances = smoking_law(people)
        np.testing.assert_allclose(chances.sum(axis=1), 1)
        error = np.sqrt((chances * (1 - chances)).sum(axis=0)) / hospital.size
        assert (np.abs(np.eye(3)[people["smoking"]].mean(axis=0) - chances.mean(axis=0)) < 4.5 * error).all()
