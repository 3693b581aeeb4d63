"""Figures by subgroup and with worse inputs: those of the patients they name, and of no others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pmfed_client.agent.answers import Answers
from pmfed_client.agent.order import Order
from small import small_study

from pmfed.cohort import Cohort
from pmfed.errors import ProtocolError, StudyError
from pmfed.methods import noiseless_plan, plan_for, schedule
from pmfed.methods.evaluated import Evaluated
from pmfed.methods.figures import metrics_of
from pmfed.methods.further import further_figures, further_of
from pmfed.methods.recomputed import differences
from pmfed.privacy.noise import SecretSource
from pmfed.queries.scores import Scores
from pmfed.queries.subgroups import Subgroups
from pmfed.study import Study
from pmfed.wire import Request

FEATURES: dict[str, Any] = {
    "age": {"type": "numeric", "minimum": 0, "maximum": 120, "mean": 60, "scale": 15},
    "lactate": {"type": "numeric", "minimum": 0, "maximum": 30, "mean": 3, "scale": 2, "indicator": True},
    "sex": {"type": "categorical", "values": ["f", "m"]},
}
MODALITIES: dict[str, Any] = {
    "clinical": {"kind": "table", "table": "patients", "features": FEATURES},
    "labs": {"kind": "table", "table": "labs", "features": {"urea": {"type": "numeric", "minimum": 0, "maximum": 50}}},
}
GROUPS = {"clinical.sex": [], "clinical.age": [50, 70], "clinical.lactate": [2.5], "labs.urea": [25]}
WORSE = {"noise": 1.5, "withheld": ["clinical", "labs"]}


def study(**evaluation: Any) -> Study:
    asked = {"subgroups": GROUPS, "robustness": WORSE} | evaluation
    return small_study(MODALITIES, evaluation=asked, cohort={"record": "visit"})


def cohort(one: Study, patients: int = 400) -> tuple[Cohort, dict[str, Any]]:
    """Return patients of one or two records, and what each record's inputs were before they were encoded."""
    chance = np.random.default_rng(2)
    owner = np.sort(np.concatenate([np.arange(patients), chance.integers(0, patients, patients // 2)]))
    count = len(owner)
    age, lactate = chance.integers(30, 90, count).astype(float), chance.integers(0, 6, count) / 2 + 1
    lactate[chance.random(count) < 0.2] = np.nan
    sex, urea = chance.integers(-1, 2, count), chance.uniform(0, 50, count)
    there = chance.random(count) < 0.8
    inputs = {
        "clinical": np.column_stack(
            [(age - 60) / 15, np.nan_to_num((lactate - 3) / 2), np.isnan(lactate), sex == 0, sex == 1]
        ).astype(np.float32),
        "labs": np.where(there, (urea - 25) / 25, 0.0).astype(np.float32)[:, None],
    }
    present = {"clinical": np.ones(count, bool), "labs": there}
    targets = (chance.random(count) < 1 / (1 + np.exp(-(age - 60) / 8))).astype(np.float32)
    ids = tuple(f"{number:05d}" for number in range(patients))
    made = Cohort(ids, owner, np.arange(patients) % 2 == 0, inputs, present, targets)
    return made, {"age": age, "lactate": lactate, "sex": sex, "urea": np.where(there, urea, np.nan)}


def answers(one: Study, patients: Cohort) -> Answers:
    plan = noiseless_plan(one.replace(privacy={"colluders": 0}), 1)
    return Answers(one, plan, patients, lambda *_: SecretSource())


@pytest.fixture(scope="module")
def sent() -> dict[str, Any]:
    one = study()
    size = Scores(one).state["parameters"][1]
    found = np.random.default_rng(4).normal(0, 0.7, size).astype(np.float32)
    urea = np.array([0.5, 0.0, 0.1])  # moments from which a mean and a scale are solved
    found[-len(urea) :] = urea
    return {"parameters": found}


def test_a_subgroup_s_sum_is_that_of_its_records_alone(sent: dict[str, Any]) -> None:
    one = study()
    whole, natural = cohort(one)
    groups = Subgroups(one)
    total = answers(one, whole).exact(groups, sent)
    told = {grouping.name: dict(zip(grouping.cells, parts, strict=True)) for grouping, parts in groups.split(total)}
    age, lactate, sex, urea = (natural[key] for key in ("age", "lactate", "sex", "urea"))
    expected = {
        "clinical.age": {
            "below 50": age < 50,
            "50 to 70, or unknown": (age >= 50) & (age < 70),
            "70 or more": age >= 70,
        },
        "clinical.lactate": {"below 2.5": lactate < 2.5, "2.5 or more": lactate >= 2.5, "missing": np.isnan(lactate)},
        "clinical.sex": {"f": sex == 0, "m": sex == 1, "missing": sex < 0},
        "labs.urea": {"below 25": urea < 25, "25 or more": urea >= 25, "missing": np.isnan(urea)},
    }
    records = answers(one, whole).lent(Scores(one), sent)
    outputs, _ = records.outputs(slice(0, records.cohort.records))
    cells = Scores(one).task.rows(outputs, records.cohort.targets)
    held = ~whole.training[whole.owner]
    weight = (1 / np.bincount(whole.owner))[whole.owner][held]
    for name, masks in expected.items():
        for group, mask in masks.items():
            part = (cells * weight[:, None])[mask[held]].sum(axis=0)
            np.testing.assert_allclose(told[name][group], part, atol=1e-9, err_msg=f"{name} {group}")
        everybody = sum(told[name].values())
        np.testing.assert_allclose(everybody, answers(one, whole).exact(Scores(one), sent), atol=1e-9)


def test_figures_are_told_of_groups_that_are_large_enough(sent: dict[str, Any]) -> None:
    one = study()
    whole, _ = cohort(one, 60)
    sums = {query.name: answers(one, whole).exact(query, sent) for query in further_of(one)}
    found = further_figures(one, None, answers(one, whole).exact(Scores(one), sent), sums)
    by = {group["name"]: group for grouping in found["subgroups"]["by"] for group in grouping["groups"]}
    assert found["subgroups"]["all"]["patients"] == 30
    assert {bool(group["metrics"]) for group in by.values()} == {True, False}
    assert all(bool(group["metrics"]) == (group["patients"] >= 10) for group in by.values() if group["patients"] != 10)
    (parts,) = (parts for grouping, parts in Subgroups(one).split(sums["subgroups"]) if grouping.name == "labs.urea")
    assert by["below 25"]["metrics"].items() >= metrics_of(one, Evaluated(parts[0])).items()
    assert by["below 25"]["metrics"]["oe"] is not None
    assert [line["name"] for line in found["robustness"]["altered"]] == [
        "noisy-inputs", "without-clinical", "without-labs",
    ]  # fmt: skip


def test_noise_and_a_modality_that_is_withheld_do_what_they_say(sent: dict[str, Any]) -> None:
    one = study()
    whole, _ = cohort(one, 2000)
    site = answers(one, whole)
    noisy, without, _ = (query for query in further_of(one) if query.name != "subgroups")
    plain = site.lent(Scores(one), sent).cohort
    altered = site.lent(noisy, sent).cohort
    moved = altered.inputs["clinical"] - plain.inputs["clinical"]
    assert moved[:, :2].std(axis=0) == pytest.approx([1.5, 1.5], rel=0.06)
    assert (moved[:, 2:] == 0).all()  # no category, and not what says that a number is missing
    away = ~plain.present["labs"]
    assert (altered.inputs["labs"][away] == 0).all()
    gone = site.lent(without, sent).cohort
    assert not gone.present["clinical"].any()
    assert not gone.inputs["clinical"].any()
    assert gone.inputs["labs"] is plain.inputs["labs"]
    # the noise of a patient is that patient's: whoever stands beside them
    kept = whole.select(np.arange(whole.patients) >= 1000)
    few = answers(one, kept).lent(noisy, sent).cohort
    np.testing.assert_array_equal(few.inputs["clinical"], altered.inputs["clinical"][-few.records :])
    as_read = site.lent(noisy, sent).as_read()
    np.testing.assert_array_equal(as_read.inputs["clinical"], whole.select(~whole.training).inputs["clinical"])


def test_each_is_charged_and_costs_nothing_when_it_is_not_asked_for() -> None:
    private = study(release="private", release_noise=6.0)
    plan = plan_for(private, 4)
    names = ["subgroups", "noisy-inputs", "without-clinical", "without-labs"]
    assert [one.query for one in plan.mechanisms][-4:] == names
    assert plan["subgroups"].bound == pytest.approx(2 * plan["evaluation"].bound)  # four groupings
    assert {plan[name].role for name in names} == {"held-out"}
    bare = study(release="private", release_noise=6.0, subgroups={}, robustness=None)
    assert {one.query for one in plan_for(bare, 4).mechanisms}.isdisjoint(names)
    never = study(release="private", release_noise=6.0)
    assert bare.fingerprint() == Study.parse(bare.canonical()).fingerprint()
    assert "subgroups" not in bare.canonical()
    assert bare.fingerprint() != never.fingerprint()


def test_every_one_of_them_may_be_asked_about_the_finished_model_once() -> None:
    one = study(release="private")
    order = Order(schedule(one))

    def ask(query: str, round: int, attempt: int = 0) -> None:
        order.take(Request(kind="ask", query=query, run="ab" * 16, study=one.fingerprint(), round=round, attempt=attempt, sites=3))  # fmt: skip

    ask("step", 1)
    ask("step", 2)
    ask("evaluation", 2)
    for name in ("subgroups", "noisy-inputs", "without-labs"):
        ask(name, 2)
        with pytest.raises(ProtocolError, match="out of order"):
            ask(name, 2)
    with pytest.raises(ProtocolError, match="out of order"):
        ask("without-clinical", 1, 5)
    with pytest.raises(ProtocolError, match="what comes last"):
        ask("step", 2, 1)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"subgroups": {"clinical.weight": []}}, "'clinical.weight' is no category or number"),
        ({"subgroups": {"clinical.sex": [1.0]}}, "'clinical.sex' is a category"),
        ({"subgroups": {"clinical.age": []}}, "'clinical.age' is a number"),
        ({"subgroups": {"clinical.age": [70, 50]}}, "must ascend between 0 and 120"),
        ({"subgroups": {"clinical.age": [130]}}, "must ascend between 0 and 120"),
        ({"robustness": {"withheld": ["scans"]}}, "no modality 'scans'"),
    ],
)
def test_what_cannot_be_told_apart_is_refused_with_its_name(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(StudyError, match=said):
        schedule(study(**asked))


def test_the_only_modality_is_not_withheld() -> None:
    alone = small_study({"clinical": MODALITIES["clinical"]}, evaluation={"robustness": {"withheld": ["clinical"]}})
    with pytest.raises(StudyError, match="all that the model looks at"):
        schedule(alone)


def test_a_hidden_or_missing_group_is_told_as_such(sent: dict[str, Any]) -> None:
    """Noise lets a small group vanish, and never makes one of nothing."""
    one = study(release="private", release_noise=4.0)
    plan = plan_for(one, 4)
    query = Subgroups(one)
    noise = np.random.default_rng(0).normal(0, plan["subgroups"].sum_std(), query.size)
    found = further_figures(one, plan, np.ones(Scores(one).size), {"subgroups": noise})
    assert not any(group["metrics"] for grouping in found["subgroups"]["by"] for group in grouping["groups"])
    assert further_figures(one, plan, np.ones(Scores(one).size), {})["subgroups"]["by"] == []


def test_an_interval_may_differ_by_what_another_bootstrap_would_and_a_figure_by_nothing() -> None:
    true = {"test": {"auroc": 0.8, "auroc_low": 0.7, "auroc_high": 0.9}}
    assert list(differences("metrics", {"test": {"auroc": 0.8, "auroc_low": 0.71, "auroc_high": 0.9}}, true)) == []
    for key, value in (("auroc", 0.801), ("auroc_low", 0.75), ("auroc_high", 0.95), ("auroc", None)):
        (said,) = differences("metrics", {"test": true["test"] | {key: value}}, true)
        assert said.startswith(f"result.json: metrics.test.{key} is {value!r}; computed anew")
