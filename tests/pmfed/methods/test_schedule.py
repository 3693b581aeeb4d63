"""The price of a schedule, computed by another accountant; and a state that follows from answers and nothing else."""

from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import federation
import numpy as np
import pytest
import torch
from dp_accounting import dp_event
from dp_accounting.pld import pld_privacy_accountant
from pmfed_client.agent.order import Order

from pmfed.errors import ProtocolError, StudyError
from pmfed.methods import Ask, DecodedSum, method_for, plan_for, schedule
from pmfed.methods.gradient import Gradient
from pmfed.privacy.mechanism import AGAINST, Against, Mechanism, Role
from pmfed.privacy.plan import PrivacyPlan
from pmfed.queries.query import check_state
from pmfed.secagg.grid import Grid
from pmfed.stored import Stored
from pmfed.study import Study
from pmfed.wire import Request

TEXT = federation.STUDY.replace(", mean = 60, scale = 15", "")  # means and scales come first
TINY = Study.from_text(federation.STUDY, "study.toml")
PRIVATE = {"release": "private", "per_site": False}
OWN = {"method": "fine-tune", "steps": 4, "learning_rate": 0.3, "share": 0.3}
FEDAVG = {
    "algorithm": "fedavg",
    "local_steps": 2,
    "local_learning_rate": 0.1,
    "optimizer": {"name": "sgd", "learning_rate": 1.0},
}
STUDIES: dict[str, Study] = {
    "exact": TINY,
    "private": TINY.replace(evaluation=PRIVATE),
    "adam": TINY.replace(training={"optimizer": {"name": "adam", "learning_rate": 0.1}}),
    "statistics": Study.from_text(TEXT, "study.toml"),
    "fedavg": TINY.replace(training=FEDAVG),
    "control variates": TINY.replace(training=FEDAVG | {"control_variates": True}),
    "own models": Study.from_text(TEXT, "study.toml").replace(personal=OWN),
    "own models, private": TINY.replace(personal=OWN, evaluation=PRIVATE),
    "recalibrated": TINY.replace(recalibration={"share": 0.3}),
    "recalibrated, private": TINY.replace(recalibration={"share": 0.3}, evaluation=PRIVATE),
    "what stays": TINY.replace(personal={"method": "intercept", "learning_rate": 0.5}),
}
every_study = pytest.mark.parametrize("study", STUDIES.values(), ids=STUDIES)


# -- what a schedule costs ---------------------------------------------------------------------------------------------


def some_mechanisms(chance: random.Random) -> tuple[Mechanism, ...]:
    """Return a schedule of one to four queries, sampled or not, of whichever patients, with joint noise or a site's own."""
    found = []
    for place in range(chance.randint(1, 4)):
        sites = chance.randint(1, 8)
        shared = chance.random() < 0.7
        own = chance.random() < 0.3
        found.append(
            Mechanism(
                query=f"query-{place}",
                role=chance.choice(["train", "train", "held-out", "all"]),
                unit=chance.choice(["patient", "record"]),
                sampling_rate=1.0 if chance.random() < 0.4 else chance.uniform(0.01, 0.9),
                noise_multiplier=chance.uniform(4.0, 12.0),
                bound=chance.choice([0.3, 1.0, 2.5]),
                times=chance.choice([0, 1, 1, 3, 20]),
                sites=1 if own else sites,
                colluders=0 if own else chance.randint(0, sites - 1),
                shared=shared,
                local=shared and chance.random() < 0.3,
            )
        )
    return tuple(found)


def seen_noise(one: Mechanism, against: Against) -> float:
    """Return the noise that covers a patient, in bounds, from what each of all sites adds."""
    each = one.noise_std(one.sites)
    honest = {"public": one.sites, "colluders": one.sites - one.colluders, "others": 1}[against]
    together = each * math.sqrt(honest) if one.shared else each
    if one.local:
        together = min(together, one.local_std)
    return together / one.bound


def by_another_accountant(
    mechanisms: tuple[Mechanism, ...], counts: dict[str, int], delta: float, role: Role, against: Against
) -> float:
    """Return epsilon by dp-accounting's own privacy loss distributions, of its own events."""
    accountant = pld_privacy_accountant.PLDAccountant(value_discretization_interval=1e-4)
    for one in mechanisms:
        if one.role not in (role, "all") or not (times := counts.get(one.query, one.times)):
            continue
        event: dp_event.DpEvent = dp_event.GaussianDpEvent(seen_noise(one, against))
        if one.sampling_rate < 1:
            event = dp_event.PoissonSampledDpEvent(one.sampling_rate, event)
        accountant.compose(dp_event.SelfComposedDpEvent(event, times))
    return float(accountant.get_epsilon(delta))


@pytest.mark.parametrize("seed", range(20))
def test_a_schedule_costs_what_another_accountant_says(seed: int) -> None:
    chance = random.Random(seed)
    mechanisms, delta = some_mechanisms(chance), chance.choice([1e-3, 1e-5, 1e-6])
    plan = PrivacyPlan(mechanisms, delta)
    asked = chance.choice(mechanisms)
    counts = {asked.query: chance.randint(0, asked.times)}
    for role in plan.roles:
        if role == "all":
            continue
        against = chance.choice(AGAINST)
        for told in ({}, counts):
            expected = by_another_accountant(mechanisms, told, delta, role, against)
            assert plan.epsilon(told, against, role=role) == pytest.approx(expected, abs=2e-3), (role, against, told)


def test_the_schedules_that_are_tried_are_of_every_kind() -> None:
    tried = [one for seed in range(20) for one in some_mechanisms(random.Random(seed))]
    assert {one.role for one in tried} == {"train", "held-out", "all"}
    for name in ("shared", "local"):
        assert {getattr(one, name) for one in tried} == {True, False}
    assert {one.sampling_rate == 1 for one in tried} == {one.sites == 1 for one in tried} == {True, False}
    assert {one.colluders > 0 for one in tried} == {True, False}


@every_study
@pytest.mark.parametrize("role", ["train", "held-out"])
def test_the_plan_of_a_study_costs_what_another_accountant_says(study: Study, role: Role) -> None:
    plan = plan_for(study, 3)
    for against in AGAINST:
        expected = by_another_accountant(plan.mechanisms, {}, plan.delta, role, against)
        assert plan.epsilon(against=against, role=role) == pytest.approx(expected, abs=2e-3)
    if role == "train":
        assert 0.98 * study.privacy.epsilon < plan.epsilon() <= study.privacy.epsilon


def test_one_role_pays_for_itself_and_for_what_everybody_is_asked() -> None:
    step = Mechanism("step", "train", "patient", 0.2, 3.0, 1.0, 10, 3, 1)
    scores, tables = replace(step, query="scores", role="held-out", times=1), replace(step, query="tables", role="all")
    plan = PrivacyPlan((step, scores, tables), 1e-5)
    assert plan.of("train") == (step, tables)
    assert plan.of("held-out") == (scores, tables)
    assert plan.of("all") == plan.mechanisms
    assert plan.epsilon(role="held-out") == PrivacyPlan((scores, tables), 1e-5).epsilon(role="held-out")
    assert plan.epsilon(role="all") >= max(plan.epsilon(role=role) for role in ("train", "held-out"))


@every_study
def test_what_may_be_asked_is_fixed_in_advance(study: Study) -> None:
    """Sizes, rates, noise and counts follow from the study alone, whenever they are looked at."""
    for one, other in zip(schedule(study), schedule(Study.parse(study.canonical())), strict=True):
        assert type(one) is type(other)
        for name in ("name", "rate", "times", "bound", "noise", "size", "state", "unit", "exact", "charged_at_once"):
            assert getattr(one, name) == getattr(other, name), name
        assert one.grid(3) == other.grid(3)
    assert plan_for(study, 3) == plan_for(Study.parse(study.canonical()), 3)


# -- a state is a function of answers ----------------------------------------------------------------------------------


def an_answer(ask: Ask, seed: int, sites: int = 3) -> DecodedSum:
    """Return the sum that the sites of a world give to a query: whenever they are asked it, the same."""
    chance = np.random.default_rng([seed, ask.number, *ask.query.name.encode()])
    grid: Grid = ask.query.grid(sites)
    most = min(grid.limit, 5000)
    if ask.query.whose == "held-out":
        words = chance.integers(0, most, ask.query.size).astype(grid.word)
    else:
        words = chance.integers(-most, most, ask.query.size).astype(grid.word)
    own = {f"site-{number}": words for number in range(sites)} if ask.query.by_site else {}
    return DecodedSum(words, grid, sites, own)


def told(ask: Ask | None) -> tuple[str, int, bool] | None:
    return None if ask is None else (ask.query.name, ask.number, ask.progress)


def bytes_of(state: Any) -> dict[str, bytes]:
    return {name: np.asarray(array[:]).tobytes() for name, array in state.items()}


def gradient(study: Study, folder: Path, name: str) -> Gradient:
    (folder / name).mkdir()
    made = method_for(study, folder / name)
    assert isinstance(made, Gradient)
    return made


def follow(method: Gradient, seed: int, most: int = 1000) -> list[tuple[str, int, bool] | None]:
    """Give a method answers until it asks no more, or so many times; return what it asked."""
    asked: list[tuple[str, int, bool] | None] = []
    while (ask := method.next()) is not None and len(asked) < most:
        asked.append(told(ask))
        method.take(ask, an_answer(ask, seed))
    return [*asked, told(method.next())]


@every_study
def test_the_same_answers_make_the_same_asks_and_parameters(study: Study, tmp_path: Path) -> None:
    one, other = gradient(study, tmp_path, "one"), gradient(study, tmp_path, "other")
    order, counts = Order(schedule(study)), Counter[str]()
    torch.manual_seed(1)
    while (ask := one.next()) is not None:
        again = other.next()
        assert told(again) == told(ask) == told(one.next())  # looking changes nothing
        assert again is not None
        sent = one.sent(ask)
        check_state(ask.query, sent)  # a site takes what is sent
        assert bytes_of(sent) == bytes_of(other.sent(again))
        record = Request(
            kind="ask", query=ask.query.name, run="ab" * 16, study=study.fingerprint(), round=ask.number, sites=3
        )
        order.take(record)  # and answers in this order
        counts[ask.query.name] += 1
        answer = an_answer(ask, 7)
        one.take(ask, answer)
        torch.manual_seed(counts.total())  # chance elsewhere does not matter,
        np.random.seed(counts.total())
        other.take(again, answer)
        assert bytes_of(one.state()) == bytes_of(other.state())
        assert one.round == other.round
    assert other.next() is None
    assert (one.optimizer.result == other.optimizer.result).all()
    plan = plan_for(study, 3)
    assert one.result(plan) == other.result(plan)
    times = {query.name: query.times for query in schedule(study) if query.stage != "within"}
    assert set(counts) == set(times)
    assert all(counts[name] <= times[name] for name in times)
    assert counts["step"] == study.training.rounds == one.round


@every_study
def test_other_answers_make_another_model_and_the_same_asks(study: Study, tmp_path: Path) -> None:
    """What is asked, and how often, is fixed in advance; only the state adapts."""
    found = [gradient(study, tmp_path, str(seed)) for seed in range(2)]
    asked = [follow(method, seed) for seed, method in enumerate(found)]
    assert asked[0] == asked[1]
    assert not (found[0].optimizer.result == found[1].optimizer.result).any()
    assert (found[0].statistics is None) == (not study.needs_statistics)
    if found[0].statistics is not None and found[1].statistics is not None:
        assert not np.array_equal(found[0].statistics, found[1].statistics)


@every_study
@pytest.mark.parametrize("seen", [0, 1, 2, 4, 7])
def test_a_method_that_was_restored_goes_on_as_if_nothing_had_been(study: Study, seen: int, tmp_path: Path) -> None:
    """All that a method knows is in its state: a run taken up again from there comes to the same model."""
    steady, stopped = gradient(study, tmp_path, "steady"), gradient(study, tmp_path, "stopped")
    follow(steady, 3, seen)
    follow(stopped, 3, seen)
    kept: dict[str, Any] = {}
    for name, array in stopped.state().items():
        kept[name] = Stored(tmp_path, len(array), np.asarray(array[:]).dtype)
        kept[name][:] = np.asarray(array[:])
    again = gradient(study, tmp_path, "again")
    again.restore(kept)
    assert bytes_of(again.state()) == bytes_of(steady.state())
    rest = [follow(method, 3) for method in (steady, again)]
    # A look on the way may be missed by a restart, and one at the end be taken anew: they make no model.
    steps = [[one for one in asked if one and one[0] != "evaluation"] for asked in rest]
    assert steps[0] == steps[1]
    assert {one[:2] for one in rest[1] if one} <= {one[:2] for one in rest[0] if one} | {("evaluation", again.round)}
    assert again.round == steady.round == study.training.rounds
    assert bytes_of(again.state()) == bytes_of(steady.state())
    assert again.result(plan_for(study, 3)) == steady.result(plan_for(study, 3))


def test_a_run_cut_short_by_the_budget_still_comes_to_its_scores(tmp_path: Path) -> None:
    for name in ("exact", "private", "own models"):
        method = gradient(STUDIES[name], tmp_path, name)
        order, asked = Order(schedule(STUDIES[name])), []
        while (ask := method.next()) is not None:
            order.take(
                Request(kind="ask", query=ask.query.name, run="ab" * 16, study="5" * 64, round=ask.number, sites=3)
            )
            asked.append(told(ask))
            if (ask.query.name, ask.number) == ("step", 4):
                method.exhausted(ask.query)
            elif ask.query.name == "personal-evaluation" or (ask.query.name == "evaluation" and not ask.query.needed):
                method.lost(ask)
            else:
                method.take(ask, an_answer(ask, 1))
        assert method.round == 3
        assert [one for one in asked if one[0] == "step"][-1] == ("step", 4, False)
        looks = [one for one in asked if one[0] == "evaluation"]
        assert looks[-1][:2] == ("evaluation", 3)
        assert (("personal-evaluation", 3, False) in asked) == (name == "own models")
        assert method.evaluated is not None
        assert method.evaluated.total.any() == (name != "private")  # lost: zeros, not made up
        if looks[-1][2]:
            continue  # round 3 was looked at in its turn: that it was the last one only the ledger knows
        with pytest.raises(ProtocolError, match="out of order"):
            order.take(Request(kind="ask", query="step", run="ab" * 16, study="5" * 64, round=5, sites=3))


def test_a_schedule_that_costs_more_than_there_is_is_refused_before_anything_is_asked() -> None:
    study = Study.from_text(TEXT, "study.toml").replace(privacy={"statistics_noise": 1.0})
    with pytest.raises(StudyError, match=r"privacy\.statistics_noise: means and scales alone spend epsilon"):
        plan_for(study, 3)
