"""Every query of every method, through a site's own hands: bounded for hostile patients, planned, noised, and room for it.

A new method goes through all of this by standing in `METHODS`; it needs a study in `VARIANTS`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pmfed_client.agent.answers import Answers
from pmfed_client.agent.personal import Shelf
from pmfed_client.ledger.entries import entries
from scipy import stats

from pmfed.cohort import Cohort
from pmfed.cohort.split import set_aside
from pmfed.errors import PolicyError
from pmfed.methods import METHODS, plan_for, schedule
from pmfed.modality import Categorical, Table
from pmfed.models import load
from pmfed.privacy.gradients import PrivateStep
from pmfed.privacy.noise import LARGEST, SecretSource
from pmfed.queries import cells, scored, scores
from pmfed.queries.gradient import LocalSteps, OwnSteps, Step
from pmfed.queries.query import Query, RowSum, check_fits, check_state
from pmfed.study import Study
from pmfed.study.outcomes import outcomes as kinds
from pmfed.tasks import task_for

RARE = 1e-9
SITES, PATIENTS = 3, 14
RUN = "ab" * 16
ENGINE = (Step, LocalSteps, OwnSteps)
"""Summed by the gradient engine in privacy/ and by nothing else; no query that comes later belongs here."""

NUMBER = {"type": "numeric", "minimum": 0, "maximum": 10}
TABLE: dict[str, Any] = {
    "labs": {"kind": "table", "table": "t", "features": {one: {**NUMBER, "mean": 5, "scale": 2} for one in "abc"}}
}
UNSCALED: dict[str, Any] = {"labs": {"kind": "table", "table": "t", "features": dict.fromkeys("abc", NUMBER)}}
SEXES: dict[str, Any] = {
    "labs": {
        "kind": "table",
        "table": "t",
        "features": {"a": NUMBER, "sex": {"type": "categorical", "values": ["f", "m"]}},
    }
}
PICTURES: dict[str, Any] = {"pictures": {"kind": "images", "table": "t", "folder": "p", "size": [8, 8]}}
PRIVATE = {"release": "private"}
FEDAVG = {
    "algorithm": "fedavg",
    "local_steps": 3,
    "local_learning_rate": 0.1,
    "optimizer": {"name": "sgd", "learning_rate": 1.0},
}


def study(modalities: dict[str, Any] = TABLE, outcome: dict[str, Any] | None = None, **sections: Any) -> Study:
    said = {
        "study": {"name": "tiny", "title": "Tiny"},
        "cohort": {"table": "t", "expected_patients": 100},
        "outcome": {"column": "y", **(outcome or {"task": "binary", "classes": ["no", "yes"]})},
        "modalities": modalities,
        "privacy": {"epsilon": 4.0, "delta": 1e-3, "sampling_rate": 0.5} | sections.pop("privacy", {}),
    }
    if "method" not in sections:
        said["training"] = {"rounds": 4, "optimizer": {"learning_rate": 0.1}} | sections.pop("training", {})
    return Study.model_validate({**said, **sections})


VARIANTS: dict[str, Study] = {
    "exact": study(evaluation={"per_site": True}),
    "private": study(evaluation=PRIVATE),
    "statistics": study(UNSCALED, evaluation=PRIVATE),
    "statistics, fedavg": study(
        UNSCALED,
        evaluation=PRIVATE,
        training=FEDAVG,
    ),
    "fedavg, control variates": study(training=FEDAVG | {"control_variates": True}),
    "records": study(privacy={"unit": "record"}),
    "multiclass": study(outcome={"task": "multiclass", "classes": ["a", "b", "c"]}, evaluation=PRIVATE),
    "regression": study(outcome={"task": "regression", "minimum": 1.0, "maximum": 80.0}, evaluation=PRIVATE),
    "survival": study(
        outcome={"task": "survival", "event": "e", "classes": ["a", "b"], "intervals": [1.0, 2.0, 5.0]},
        evaluation=PRIVATE,
    ),
    "count": study(outcome={"task": "count", "maximum": 60, "baseline": 3}, evaluation=PRIVATE),
    "ordinal": study(outcome={"task": "ordinal", "classes": ["0", "I", "II", "III"]}, evaluation=PRIVATE),
    "multilabel": study(
        outcome={"column": "found", "task": "multilabel", "labels": ["a", "b", "c"]}, evaluation=PRIVATE
    ),
    "segmentation": study(
        PICTURES,
        {"task": "segmentation", "classes": ["a", "b"], "folder": "m", "cap": 3.0},
        model={"kind": "unet", "channels": [2, 4]},
        evaluation=PRIVATE,
    ),
    "fusion": study(UNSCALED | PICTURES, model={"kind": "fusion", "embedding": 4, "channels": [4]}),
    "fine-tune": study(
        personal={"method": "fine-tune", "steps": 3, "learning_rate": 0.1, "share": 0.4}, evaluation=PRIVATE
    ),
    "ditto": study(
        UNSCALED, personal={"method": "ditto", "steps": 2, "learning_rate": 0.1, "proximal": 0.5, "share": 0.4}
    ),
    "intercept": study(personal={"method": "intercept", "learning_rate": 0.1}, evaluation=PRIVATE),
    "head": study(
        TABLE | PICTURES,
        model={"kind": "fusion", "embedding": 4, "channels": [4]},
        personal={"method": "head", "learning_rate": 0.1},
    ),
}
SCALED = {**TABLE, **PICTURES, "more": {**SEXES["labs"]}}
VARIANTS |= {
    "recalibrated": study(UNSCALED, recalibration={}, evaluation=PRIVATE),
    "recalibrated, multiclass": study(outcome={"task": "multiclass", "classes": ["a", "b", "c"]}, recalibration={}),
    "recalibrated, survival": study(
        outcome={"task": "survival", "event": "e", "classes": ["a", "b"], "intervals": [1.0, 2.0, 5.0]},
        recalibration={"share": 0.3},
    ),
    "recalibrated, network": study(
        TABLE | PICTURES, model={"kind": "fusion", "embedding": 4, "channels": [4]}, recalibration={"part": 0.5}
    ),
    "subgroups and worse inputs": study(
        SCALED,
        model={"kind": "fusion", "embedding": 4, "channels": [4]},
        evaluation={
            "release": "private",
            "subgroups": {"more.sex": [], "labs.a": [3, 7], "more.a": [5]},
            "robustness": {"noise": 0.5, "withheld": ["labs", "pictures"]},
        },
    ),
    "subgroups, exact": study(
        TABLE,
        {"task": "survival", "event": "e", "classes": ["a", "b"], "intervals": [1.0, 2.0, 5.0]},
        evaluation={"subgroups": {"labs.a": [3]}, "robustness": {"noise": 0.5}, "per_site": True},
    ),
    "tables": study(
        UNSCALED, {"task": "regression", "minimum": 1.0, "maximum": 80.0}, method={"kind": "tables", "bins": 4}
    ),
    "tables, by sex": study(
        SEXES,
        {"task": "survival", "event": "e", "classes": ["a", "b"], "intervals": [1.0, 2.0, 5.0]},
        method={"kind": "tables", "stratum": "labs.sex"},
    ),
}
PAIRS = [(name, query.name) for name, one in VARIANTS.items() for query in schedule(one)]
every_query = pytest.mark.parametrize(("variant", "name"), PAIRS, ids=[f"{one}: {name}" for one, name in PAIRS])
every_study = pytest.mark.parametrize("variant", VARIANTS)


class Silent:
    """Draws everybody and adds no noise."""

    secret = False

    def gaussian(self, size: int, std: float) -> NDArray[np.float64]:
        return np.zeros(size)

    def uniform(self, size: int) -> NDArray[np.float64]:
        return np.zeros(size)


class Recorder(SecretSource):
    """Notes how much noise it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[NDArray[np.float64]] = []

    def gaussian(self, size: int, std: Any) -> NDArray[np.float64]:
        self.asked.append(np.broadcast_to(np.asarray(std, float), (size,)))
        return super().gaussian(size, std)


def hostile(study: Study, seed: int = 0) -> Cohort:
    """Return patients of one to three records, half of them for training; some of each half have values of every bad kind."""
    chance = np.random.default_rng(seed)
    owner = np.repeat(np.arange(PATIENTS), chance.integers(1, 4, PATIENTS))
    wild = np.array([np.nan, np.inf, -np.inf, 1e5, -1e5, 1e-45], np.float32)
    inputs, present = {}, {}
    for name, modality in study.modalities.items():
        values = chance.normal(0, 1, (len(owner), *modality.shape)).astype(np.float32)
        for patient in (2, 3, *range(8, PATIENTS)):
            theirs = values[owner == patient]
            values[owner == patient] = chance.choice(wild if patient < 5 else wild[3:], theirs.shape)
        if isinstance(modality, Table):  # categories are one of several by the way they are read
            column = 0
            for key in sorted(modality.features):
                spec = modality.features[key]
                width = len(spec.names(key))
                if isinstance(spec, Categorical):
                    values[:, column : column + width] = np.eye(width)[chance.integers(0, width, len(owner))]
                column += width
        inputs[name], present[name] = values, (chance.random(len(owner)) < 0.8) | (owner >= 8)
    return Cohort(
        ids=tuple(f"{number:04d}" for number in range(PATIENTS)),
        owner=owner,
        training=np.arange(PATIENTS) % 2 == 0,
        inputs=inputs,
        present=present,
        targets=outcomes(study, len(owner), chance),
    )


def outcomes(study: Study, count: int, chance: np.random.Generator) -> NDArray[Any]:
    pixels = (8, 8) if study.outcome.masks is not None else ()
    values = np.concatenate([study.outcome.typical(pixels)[1], study.outcome.extremes(pixels)])
    return values[chance.integers(0, len(values), count)]


def state_of(query: Query, seed: int = 1) -> dict[str, NDArray[Any]]:
    chance = np.random.default_rng(seed)
    found = {name: chance.normal(0, 0.5, size).astype(kind) for name, (kind, size) in query.state.items()}
    check_state(query, found)
    return found


def site(study: Study, cohort: Cohort, folder: Path, source: Any = None) -> Answers:
    source = Silent() if source is None else source
    return Answers(study, plan_for(study, SITES), cohort, lambda *_: source, Shelf(folder, RUN))


def query_of(variant: str, name: str) -> tuple[Study, Query]:
    one = VARIANTS[variant]
    return one, next(query for query in schedule(one) if query.name == name)


def role(cohort: Cohort, query: Query) -> NDArray[np.int64]:
    """Return the patients that a query sums over: of a network that is recalibrated, some are kept from its steps."""
    aside = set_aside(cohort.ids, query.study.evaluation.split_key, query.study.set_aside)
    steps = cohort.training if query.study.set_aside == 0 else cohort.training & (aside == (query.stage == "fit"))
    chosen = {"train": steps, "held-out": ~cohort.training, "all": np.ones(cohort.patients, bool)}
    return np.flatnonzero(chosen[query.whose])


def without(cohort: Cohort, patient: int) -> Cohort:
    return cohort.select(np.arange(cohort.patients) != patient)


# -- by registration -------------------------------------------------------------------------------------------------


def test_every_method_and_every_task_is_here() -> None:
    assert {one.method.kind for one in VARIANTS.values()} == set(METHODS)
    assert {one.outcome.task for one in VARIANTS.values()} == set(kinds())
    seen = {type(query) for one in VARIANTS.values() for query in schedule(one)}
    assert seen >= set(ENGINE)


def test_only_the_engine_s_own_queries_have_no_rows() -> None:
    """Whatever else a method asks for is made of rows, which the site bounds."""
    for variant, name in PAIRS:
        _, query = query_of(variant, name)
        assert isinstance(query, RowSum) == (not isinstance(query, ENGINE)), (variant, name)


@every_study
def test_the_plan_has_a_mechanism_for_every_query_that_is_not_exact_and_none_besides(variant: str) -> None:
    one = VARIANTS[variant]
    plan, queries = plan_for(one, SITES), schedule(one)
    assert [mechanism.query for mechanism in plan.mechanisms] == [query.name for query in queries if not query.exact]
    charged = {entry.what: entry for booked in entries(one, plan).values() for entry in booked}
    assert set(charged) == {mechanism.query for mechanism in plan.mechanisms}
    for query in queries:
        if query.exact:
            continue
        found = plan[query.name]
        assert (found.role, found.sampling_rate, found.bound, found.unit) == (
            query.whose, query.rate, query.bound, query.unit,
        )  # fmt: skip
        assert found.times == query.times * query.charged_at_once
        assert found.private
        assert 0 < found.noise_multiplier < math.inf
        assert query.noise in (None, found.noise_multiplier)
        booked = charged[query.name]
        assert (booked.sampling_rate, booked.noise_multiplier, booked.clip, booked.count) == (
            found.sampling_rate, found.noise_multiplier, found.bound, query.times * query.charged_at_once,
        )  # fmt: skip
        own = isinstance(query, OwnSteps)
        assert (found.sites, found.colluders) == ((1, 0) if own else (SITES, one.privacy.colluders))
    assert plan.epsilon() <= one.privacy.epsilon


# -- bounds ------------------------------------------------------------------------------------------------------------


def test_rows_are_hostile_where_it_matters(tmp_path: Path) -> None:
    """These patients would not be bounded by themselves: some gradients are far too long, others not finite."""
    one = VARIANTS["exact"]
    clipped, batch = engine_of(site(one, hostile(one), tmp_path), schedule(one)[0], hostile(one))
    loose = replace(clipped.mechanism, noise_multiplier=0.0, bound=math.inf)
    engine = PrivateStep(clipped.model, task_for(one).loss, loose)
    whole = engine.clipped_sum(batch.inputs, batch.present, batch.targets, batch.owner)
    assert whole.dropped
    assert np.linalg.norm(whole.vector) > 1e3


@every_query
def test_removing_a_patient_moves_the_exact_sum_by_the_bound_at_most(variant: str, name: str, tmp_path: Path) -> None:
    one, query = query_of(variant, name)
    cohort = hostile(one)
    whole = exact(one, query, cohort, tmp_path)
    assert whole.any()
    assert np.isfinite(whole).all()
    moved = []
    for patient in role(cohort, query):
        change = whole - exact(one, query, without(cohort, int(patient)), tmp_path)
        records = int((cohort.owner == patient).sum()) if query.unit == "record" else 1
        # The engine adds up in float32.
        close = 1e-4 if isinstance(query, ENGINE) else 1e-9
        assert np.linalg.norm(change) <= records * query.bound * (1 + close), patient
        if not isinstance(query, ENGINE):
            assert np.abs(change).max() <= query.weight * (1 + 1e-9)
        moved.append(float(np.linalg.norm(change)))
    assert max(moved) > 0.1 * query.bound  # nor is it a bound for nobody
    others = np.setdiff1d(np.arange(cohort.patients), role(cohort, query))
    for patient in others:  # who is not asked about does not matter at all
        same = exact(one, query, without(cohort, int(patient)), tmp_path)
        np.testing.assert_allclose(same, whole, rtol=1e-6, atol=1e-6 * query.bound)


def engine_of(answers: Answers, query: Query, cohort: Cohort) -> tuple[PrivateStep, Any]:
    """Return what sums gradients for a query, and its site's training patients."""
    trainer = answers.trainer
    assert trainer is not None
    sent = state_of(trainer.query)["parameters"]
    batch, _ = trainer._prepare(sent)
    if isinstance(query, OwnSteps):
        assert trainer.own is not None
        return trainer.own._private, batch
    return trainer.private, batch


def exact(study: Study, query: Query, cohort: Cohort, folder: Path) -> NDArray[np.float64]:
    """Return a query's sum before any noise, from the very code that sums at a site."""
    answers = site(study, cohort, folder)
    if not isinstance(query, ENGINE):
        return answers.exact(query, state_of(query))
    engine, batch = engine_of(answers, query, cohort)
    return engine.clipped_sum(batch.inputs, batch.present, batch.targets, batch.owner).vector


@pytest.mark.parametrize(
    ("variant", "name"), [pair for pair in PAIRS if pair[1] not in ("personal", "step") or "fedavg" not in pair[0]]
)
def test_what_leaves_is_that_sum_on_the_grid(variant: str, name: str, tmp_path: Path) -> None:
    """With everybody drawn and no noise added; so nothing comes in behind the bound."""
    one, query = query_of(variant, name)
    if isinstance(query, OwnSteps):
        assert query.size == 0
        return
    cohort = hostile(one)
    answers, grid = site(one, cohort, tmp_path), query.grid(SITES)
    state = state_of(query)
    total = exact(one, query, cohort, tmp_path / "other")
    if isinstance(query, Step):
        assert answers.trainer is not None
        load(answers.trainer.model, answers.trainer.parts.join(state["parameters"][: answers.trainer.size]))
        engine, batch = engine_of(answers, query, cohort)
        total = engine.clipped_sum(batch.inputs, batch.present, batch.targets, batch.owner).vector
        total = total[~answers.trainer.parts.mask]
    sums = answers.answer(query, state, SITES, 1, 0)
    shapes = answers.shapes(query, SITES)
    assert {key: (words.dtype, words.shape) for key, words in sums.items()} == {
        key: (np.dtype(word), (length,)) for key, (word, length) in shapes.items()
    }
    assert set(sums) == ({"sum", "site"} if query.by_site else {"sum"})
    assert len(total) == query.size == shapes["sum"][1]
    for words in sums.values():
        np.testing.assert_allclose(grid.decode(words), total, atol=0.51 * grid.unit + 1e-6 * np.abs(total).max())


ROWS = [pair for pair in PAIRS if not isinstance(query_of(*pair)[1], ENGINE)]


def rows_of(study: Study, query: Query, cohort: Cohort, folder: Path) -> NDArray[np.float64]:
    answers, state = site(study, cohort, folder), state_of(query)
    lent = answers.lent(query, state)
    found = [np.zeros((0, query.size)), *query.rows(lent, state)]
    return np.concatenate(found)


@pytest.mark.parametrize(("variant", "name"), ROWS)
def test_no_row_depends_on_another_and_there_is_one_for_each(variant: str, name: str, tmp_path: Path) -> None:
    one, query = query_of(variant, name)
    cohort = hostile(one)
    asked = role(cohort, query)
    among = rows_of(one, query, cohort, tmp_path)
    assert among.shape == (len(asked), query.size)
    assert (np.linalg.norm(among, axis=1) <= query.bound * (1 + 1e-9)).all()  # a right query needs no clip
    for place, patient in enumerate(asked):
        alone = rows_of(one, query, cohort.select(np.arange(cohort.patients) == patient), tmp_path)
        np.testing.assert_allclose(alone, among[place : place + 1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("variant", "name"), ROWS)
@pytest.mark.parametrize("records", [1, 2, 5])
def test_chunks_of_any_size_add_up_to_the_same(
    variant: str, name: str, records: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, query = query_of(variant, name)
    cohort = hostile(one)
    whole = exact(one, query, cohort, tmp_path)
    monkeypatch.setattr(scored, "RECORDS", records)
    monkeypatch.setattr(cells, "PATIENTS", records)
    np.testing.assert_allclose(exact(one, query, cohort, tmp_path), whole, rtol=1e-4, atol=1e-4)


class Greedy(scores.Scores):
    """A query that lies about its rows: what it makes of a patient is far too long, and not even a number."""

    def rows(self, patients: Any, state: Any) -> Iterator[NDArray[np.float64]]:
        rows = np.full((patients.cohort.patients, self.size), 1e6)
        rows[::3], rows[1::3] = 1e300, np.nan
        yield rows[:2]
        yield rows[2:]


class Twice(scores.Scores):
    """A query that counts everybody twice."""

    def rows(self, patients: Any, state: Any) -> Iterator[NDArray[np.float64]]:
        for _ in range(2):
            yield from super().rows(patients, state)


def test_a_wrong_query_is_less_accurate_and_never_less_private(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = VARIANTS["private"]
    query, cohort = Greedy(one), hostile(one)
    with caplog.at_level(logging.WARNING):
        whole = site(one, cohort, tmp_path).exact(query, state_of(query))
    assert "left out of a sum: their rows are not finite" in caplog.text
    for patient in role(cohort, query):
        less = site(one, without(cohort, int(patient)), tmp_path).exact(query, state_of(query))
        assert np.linalg.norm(whole - less) <= len(role(cohort, query)) * query.bound
    count = len(role(cohort, query))
    assert np.linalg.norm(whole) <= count * query.bound * (1 + 1e-9)
    with pytest.raises(ValueError, match="more rows than patients"):
        site(one, cohort, tmp_path).exact(Twice(one), state_of(query))


# -- the grid ------------------------------------------------------------------------------------------------------------


@every_query
@pytest.mark.parametrize("sites", [2, 3, 40, 1000])
def test_the_grid_has_room_for_everybody_at_one_site(variant: str, name: str, sites: int) -> None:
    one, query = query_of(variant, name)
    expected = one.cohort.expected_patients
    for grid in (
        query.grid(sites),
        type(query)(one.replace(cohort={"expected_patients": 10**7}, privacy={"delta": 1e-9})).grid(sites),
    ):
        assert grid.sites == sites
        assert grid.unit == query.grid_unit
    if isinstance(query, LocalSteps):  # its move is bounded by the grid itself
        return
    grid = query.grid(sites)
    assert grid.patients(query.weight, 0.0) >= 2 * expected
    words = grid.encode(np.full(2, expected * query.weight))
    total = np.zeros(2, grid.word)
    for _ in range(min(sites, 50)):
        total = grid.add(total, words)
    assert grid.decode(total)[0] == pytest.approx(min(sites, 50) * expected * query.weight, rel=1e-3)


@every_query
def test_a_site_of_more_patients_than_fit_is_refused_whoever_they_are(variant: str, name: str) -> None:
    one, query = query_of(variant, name)
    plan = plan_for(one, SITES)
    if query.exact or isinstance(query, LocalSteps):
        return
    mechanism = plan[query.name]
    sites = mechanism.sites
    most = query.grid(sites).patients(query.weight, LARGEST * mechanism.noise_std(sites))
    assert most >= one.cohort.expected_patients
    check_fits(query, mechanism, most, sites, LARGEST)
    with pytest.raises(PolicyError, match="could overflow"):
        check_fits(query, mechanism, most + 1, sites, LARGEST)


def test_noise_finer_than_the_grid_is_refused(tmp_path: Path) -> None:
    one = VARIANTS["private"].replace(evaluation={"release_noise": 2e-3})
    query = next(query for query in schedule(one) if query.name == "evaluation")
    with pytest.raises(PolicyError, match=r"units of the grid.*Nothing was released"):
        site(one, hostile(one), tmp_path).answer(query, state_of(query), SITES, 1, 0)


# -- nobody ----------------------------------------------------------------------------------------------------------------


@every_query
def test_an_empty_cohort_releases_noise_and_nothing_else(variant: str, name: str, tmp_path: Path) -> None:
    one, query = query_of(variant, name)
    cohort = hostile(one)
    nobody = cohort.select(np.zeros(cohort.patients, bool))
    state, grid, source = state_of(query), query.grid(SITES), Recorder()
    answers = site(one, nobody, tmp_path, source)
    if isinstance(query, OwnSteps):
        assert answers.trainer is not None
        answers.trainer.learn_own(state_of(answers.trainer.query)["parameters"], 1, 0)
        mechanism = answers.plan[query.name]
        assert len(source.asked) == one.tuned.steps  # type: ignore[union-attr]
        assert all((std == mechanism.noise_multiplier * mechanism.bound).all() for std in source.asked)
        return

    def asked(turn: int) -> Answers:
        """Return the site; one with control variates as if started again: what moved it in one turn corrects the next."""
        return site(one, nobody, tmp_path / str(turn), source) if one.training.control_variates else answers

    seen = np.stack([grid.decode(asked(turn).answer(query, state, SITES, 1, turn)["sum"]) for turn in range(25)])
    if query.exact:
        assert not seen.any()
        return
    mechanism = answers.plan[query.name]
    std = mechanism.noise_multiplier * mechanism.bound
    if isinstance(query, LocalSteps):
        divisor = mechanism.sampling_rate * one.cohort.expected_patients / SITES
        std *= (one.training.local_learning_rate or 0.0) * math.sqrt(one.training.local_steps) / divisor
        seen = seen * (1 + 1e-7)
    elif mechanism.shared:
        std /= math.sqrt(SITES - one.privacy.colluders)
    size = float((seen**2).sum()) / (std**2 + grid.unit**2 / 12)
    assert min(stats.chi2.cdf(size, seen.size), stats.chi2.sf(size, seen.size)) > RARE
    assert len(np.unique(seen, axis=0)) == len(seen)
