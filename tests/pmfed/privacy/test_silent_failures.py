"""Seventeen ways to lose privacy without any error message, and what stands against each.

One group of tests per way, by number. docs/privacy.md has the whole table: the guard in the code, the tests here and those
elsewhere (gradients, ledger, wire, grid, audit), which are not repeated here. Number 15 is the masks': `tests/pmfed/secagg`.
"""

from __future__ import annotations

import ast
import math
import os
import pickle
import random
import re
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import federation
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pmfed_client.agent.trainer import Trainer
from pmfed_client.ledger.entries import entries
from pmfed_client.ledger.ledger import Entry, Ledger
from pmfed_client.site.site import Site
from pmfed_server.checkpoint import read_checkpoint
from pmfed_server.rounds import Rounds
from pmfed_simulations.canaries import Roll, Silent, site_source
from pmfed_simulations.grid import LocalGrid
from scipy import stats
from torch import Tensor, nn

from pmfed.cohort import Cohort, read_cohort
from pmfed.errors import PolicyError, RunError, StudyError
from pmfed.methods import DecodedSum, plan_for
from pmfed.methods.gradient import Gradient
from pmfed.models import build, flatten, load
from pmfed.privacy.accounting import Release, epsilon
from pmfed.privacy.gradients import PrivateStep
from pmfed.privacy.mechanism import Mechanism
from pmfed.privacy.noise import SecretSource, Source
from pmfed.privacy.plan import PrivacyPlan
from pmfed.privacy.sampling_check import sampling_check
from pmfed.queries.gradient import step_of
from pmfed.study import Study
from pmfed.study.model import ModelSpec
from pmfed.study.outcome import Outcome
from pmfed.study.outcomes import outcome_of, outcomes
from pmfed.tasks import task_for

RARE = 1e-9
KINDS = get_args(ModelSpec.model_fields["kind"].annotation)
FIELDS: dict[str, dict[str, Any]] = {
    "binary": {"classes": ("a", "b")},
    "multiclass": {"classes": ("a", "b", "c")},
    "regression": {"minimum": 1.0, "maximum": 80.0, "scale": 9.0},
    "survival": {"classes": ("a", "b"), "event": "e", "intervals": (1.0, 2.0, 5.0)},
    "segmentation": {"classes": ("a", "b"), "folder": "m"},
    "count": {"maximum": 40},
    "ordinal": {"classes": ("a", "b", "c", "d")},
    "multilabel": {"labels": ("a", "b", "c")},
}
TASKS = tuple(outcomes())
TINY = Study.from_text(federation.STUDY, "study.toml")
FEDAVG = {
    "algorithm": "fedavg",
    "local_steps": 1,
    "local_learning_rate": 0.1,
    "optimizer": {"name": "sgd", "learning_rate": 1.0},
}
ROOT = Path(__file__).parents[3]
PACKAGES = ("pmfed", "client", "server", "simulations")

Records = tuple[dict[str, Tensor], dict[str, Tensor], Tensor]
every_task = pytest.mark.parametrize("task", TASKS)
every_kind = pytest.mark.parametrize("kind", KINDS)
every_way = pytest.mark.parametrize("way", ["auto", "vmap"])
UNET = "unet"  # the one model of segmentation, which no other model can do
every_pair = pytest.mark.parametrize(
    ("task", "kind"), [(t, k) for t in TASKS for k in KINDS if (t == "segmentation") == (k == UNET)]
)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    site = Site.read(federation.write_federation(tmp_path_factory.mktemp("tiny") / "f") / "sites" / "north")
    return read_cohort(TINY, site.sources, site.name)


def an_outcome(task: str) -> Outcome:
    """Return an outcome of a task. A new one needs a line in FIELDS."""
    return outcome_of(column="y", task=task, **FIELDS[task])


def some_task(kind: str) -> str:
    return "segmentation" if kind == UNET else "binary"


def some_kind(task: str) -> str:
    return UNET if task == "segmentation" else "linear"


def study_of(task: str, kind: str) -> Study:
    numbers = {name: {"type": "numeric", "minimum": -9, "maximum": 9, "mean": 0, "scale": 1} for name in "abc"}
    return Study.model_validate(
        {
            "study": {"name": "s", "title": "S"},
            "cohort": {"table": "t", "expected_patients": 100},
            "outcome": an_outcome(task).model_dump(),
            "modalities": ({} if kind == UNET else {"labs": {"kind": "table", "table": "t", "features": numbers}})
            | {"pictures": {"kind": "images", "table": "t", "folder": "p", "size": (8, 8)}},
            "model": {"kind": kind, "hidden": (5,), "embedding": 4, "channels": (2, 4)},
            "training": {"rounds": 20, "optimizer": {"name": "sgd", "learning_rate": 1.0}},
            "privacy": {"epsilon": 2.0, "delta": 1e-3},
        }
    )


def mechanism_of(clip: float) -> Mechanism:
    return Mechanism("step", "train", "patient", 0.2, 0.0 if math.isinf(clip) else 2.0, clip, 20, 5, 1)


def records_of(study: Study, count: int) -> Records:
    chance = torch.Generator().manual_seed(count)
    inputs = {
        "labs": torch.randn(count, 3, generator=chance),
        "pictures": torch.randn(count, 1, 8, 8, generator=chance),
    }
    inputs = {name: inputs[name] for name in study.modalities}
    present = {name: torch.rand(count, generator=chance) < 0.7 for name in inputs}
    return inputs, present, task_for(study).targets(drawn(study.outcome, count))


def drawn(outcome: Outcome, count: int) -> NDArray[Any]:
    """Return outcomes as the kind itself makes them up: typical ones and extremes."""
    pixels = outputs_of(outcome)
    values = np.concatenate([outcome.typical(pixels)[1], outcome.extremes(pixels)])
    return values[np.random.default_rng(count).integers(0, len(values), count)]


def outputs_of(outcome: Outcome) -> tuple[int, ...]:
    """Return the axes of an outcome beyond that of records: the pixels of a mask."""
    return (8, 8) if outcome.masks is not None else ()


def some(records: Records, chosen: Any) -> Records:
    inputs, present, targets = records
    return {k: v[chosen] for k, v in inputs.items()}, {k: v[chosen] for k, v in present.items()}, targets[chosen]


def model_of(study: Study, seed: int = 3) -> nn.Module:
    """Return the study's model away from its start, where a linear one knows nothing."""
    model = build(study)
    start = flatten(model)
    load(model, start + np.random.default_rng(seed).normal(0, 0.3, len(start)).astype(np.float32))
    return model


class Nobody(SecretSource):
    """Draws nobody; its noise is real."""

    def uniform(self, size: int) -> NDArray[np.float64]:
        return np.full(size, 1 - 2.0**-53)


def trainer_of(cohort: Cohort, source: Source | None = None, study: Study = TINY, **changes: Any) -> Trainer:
    """Return a site's trainer; ``changes`` are of its mechanisms."""
    plan = plan_for(study, 3)
    plan = replace(plan, mechanisms=tuple(replace(one, **changes) for one in plan.mechanisms))
    return Trainer(study, plan, cohort, site_source() if source is None else lambda *_: source)


def steps_of(trainer: Trainer, count: int, sites: int) -> NDArray[np.float64]:
    """Return what so many rounds release, decoded."""
    grid, sent = step_of(trainer.study).grid(sites), flatten(trainer.model)
    return np.stack([grid.decode(trainer.step(sent, sites, number, 0)) for number in range(1, count + 1)])


# -- the table ------------------------------------------------------------------------------------------------------------


def test_every_number_has_guards_and_tests_that_exist() -> None:
    """In docs/privacy.md; number 15 is the masks' and only points there."""
    text = (ROOT / "docs" / "privacy.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| [^|]+ \| ([^|]+) \| ([^|]+) \|$", text, flags=re.M)
    assert [int(number) for number, _, _ in rows] == list(range(1, 18))
    for number, guards, tests in rows:
        named = [re.findall(r"`(\w+)\.(\w+)`", cell) for cell in (guards, tests)]
        assert all(named) or number == "15"
        for file, guard in named[0]:
            files = [
                path for one in PACKAGES for path in (ROOT / one).rglob("*.py") if file in (path.stem, path.parent.name)
            ]
            assert any(re.search(rf"\b{guard}\b", path.read_text(encoding="utf-8")) for path in files), (
                number,
                file,
                guard,
            )
        for file, test in named[1]:
            (path,) = (ROOT / "tests").rglob(f"{file}.py")
            assert f"def {test}" in path.read_text(encoding="utf-8"), (number, file, test)


# -- 1: a loss that broadcasts ----------------------------------------------------------------------------------------


@every_task
def test_01_every_task_s_loss_is_one_number_per_record(task: str) -> None:
    study = study_of(task, some_kind(task))
    for count in (1, 2, 7):
        outputs = torch.zeros(count, study.outcome.outputs, *outputs_of(study.outcome))
        losses = task_for(study).loss(outputs, records_of(study, count)[2])
        assert losses.shape == (count,)


@every_kind
@every_way
def test_01_any_other_shape_is_refused_whatever_model_and_strategy(kind: str, way: Any) -> None:
    study = study_of(some_task(kind), kind)
    for wrong in (
        lambda o, t: (o.flatten(1)[:, :1] - t.reshape(len(t), -1)[:, 0]) ** 2,
        lambda o, t: (o - t[:, None]) ** 2,
        lambda o, t: ((o[:, 0] - t) ** 2).mean(),
    ):
        for count in (1, 5):
            with pytest.raises(StudyError, match="one number per record"):
                PrivateStep(model_of(study), wrong, mechanism_of(1.0), way).clipped_sum(
                    *records_of(study, count), np.arange(count)
                )


# -- 2: a loss or a model in which one patient knows another ----------------------------------------------------------


def test_02_the_tasks_that_are_tested_are_those_that_a_study_can_name() -> None:
    assert FIELDS.keys() == outcomes().keys()


@every_task
def test_02_loss_and_slope_of_a_record_are_the_same_alone_and_among_others(task: str) -> None:
    study = study_of(task, some_kind(task))
    targets = records_of(study, 9)[2]
    shape = (9, study.outcome.outputs, *outputs_of(study.outcome))
    outputs = torch.randn(shape, generator=torch.Generator().manual_seed(1)).requires_grad_()
    losses = task_for(study).loss(outputs, targets)
    (slopes,) = torch.autograd.grad(losses.sum(), outputs)
    for k in range(9):
        alone = outputs[k : k + 1].detach().requires_grad_()
        loss = task_for(study).loss(alone, targets[k : k + 1])
        torch.testing.assert_close(loss[0], losses[k], rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(torch.autograd.grad(loss.sum(), alone)[0][0], slopes[k], rtol=1e-6, atol=1e-7)


@every_pair
@every_way
def test_02_a_patient_adds_what_it_would_add_alone(task: str, kind: str, way: Any) -> None:
    study = study_of(task, kind)
    records, owner = records_of(study, 12), np.repeat(np.arange(6), 2)
    step = PrivateStep(model_of(study), task_for(study).loss, mechanism_of(math.inf), way)
    whole = step.clipped_sum(*records, owner).vector
    for patient in range(6):
        mine = owner == patient
        rest = step.clipped_sum(*some(records, ~mine), owner[~mine]).vector
        alone = step.clipped_sum(*some(records, mine), owner[mine]).vector
        assert np.linalg.norm(whole - rest - alone) <= 1e-4 * np.linalg.norm(alone)


# -- 3: a step that was cut off -----------------------------------------------------------------------------------------


class CutOff(Exception):  # noqa: N818 - no error of ours
    """Something went wrong in the middle of a step."""


@every_kind
@every_way
def test_03_a_step_that_is_cut_off_leaves_nothing_to_the_next(kind: str, way: Any) -> None:
    study = study_of(some_task(kind), kind)
    calls = [0, math.inf]

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        calls[0] += 1
        if calls[0] > calls[1]:
            raise CutOff
        return task_for(study).loss(outputs, targets)

    records, owner = records_of(study, 24), np.arange(24)
    step = PrivateStep(model_of(study), loss, mechanism_of(1.0), way)
    step.clipped_sum(*records, owner)
    step._chunk = 4  # six parts
    first = step.clipped_sum(*records, owner)
    calls[:] = [0, 3]
    with pytest.raises(CutOff):
        step.clipped_sum(*records, owner)
    calls[1] = math.inf
    again = step.clipped_sum(*records, owner)
    assert (again.vector == first.vector).all()
    assert again.contributors == 24


# -- 4: what a model remembers ------------------------------------------------------------------------------------------


@every_kind
@every_way
def test_04_no_model_we_ship_remembers_patients(kind: str, way: Any) -> None:
    study = study_of(some_task(kind), kind)
    model = model_of(study)
    before = {name: b.clone() for name, b in model.named_buffers()}
    PrivateStep(model, task_for(study).loss, mechanism_of(1.0), way).clipped_sum(*records_of(study, 6), np.arange(6))
    assert not [part for part in model.modules() if isinstance(part, nn.modules.batchnorm._NormBase)]
    assert all(torch.equal(b, before[name]) for name, b in model.named_buffers())
    assert all(p.requires_grad for p in model.parameters())


@every_way
@pytest.mark.parametrize("how", [{}, {"affine": False}, {"track_running_stats": False}])
def test_04_a_batch_norm_in_training_mode_is_refused_frozen_or_not(way: Any, how: dict[str, bool]) -> None:
    study = study_of("binary", "fusion")
    model = model_of(study)
    model.encoders["labs"].append(nn.BatchNorm1d(4, **how).requires_grad_(False))  # type: ignore[operator, union-attr]
    with pytest.raises(StudyError, match="training mode"):
        PrivateStep(model, task_for(study).loss, mechanism_of(1.0), way)
    step = PrivateStep(model.eval(), task_for(study).loss, mechanism_of(1.0), way)
    model.train()
    with pytest.raises(StudyError, match="training mode"):
        step.clipped_sum(*records_of(study, 6), np.arange(6))


# -- 5: noise that follows a seed ---------------------------------------------------------------------------------------


def test_05_a_restart_with_every_seed_the_same_makes_other_noise(cohort: Cohort) -> None:
    found = []
    for _ in range(2):
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)
        found.append(steps_of(trainer_of(cohort.select(np.zeros(cohort.patients, bool))), 150, 3))
    one, two = found
    for a, b in ((one, two), (one[1:], one[:-1]), (one[:, 1:], one[:, :-1])):
        correlation = float((a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum()))
        assert stats.norm.sf(abs(correlation) * math.sqrt(a.size)) > RARE


def test_05_nothing_at_a_site_draws_from_a_generator_that_can_be_seeded() -> None:
    known = {
        "client/pmfed_client/agent/augment.py": {
            "np.random.default_rng"
        },  # each unit's copies, from a secret seed of its own
        "pmfed/models/__init__.py": {"torch.random.manual_seed"},  # the public initial weights
        "pmfed/methods/tables.py": {"np.random.default_rng", "random.normal"},  # the same, of noised tables
        # invented patients, of whom a study is tried and its steps chosen
        "pmfed/cohort/invented.py": {
            "np.random.default_rng",
            "random.integers",
            "random.normal",
            "random.random",
            "random.uniform",
        },
        # inputs made worse to see what a model says then, by each patient's own id: it hides nobody, the sums are noised after it
        "pmfed/queries/altered.py": {"np.random.default_rng", "random.standard_normal"},
        "pmfed/models/plugin.py": {
            "torch.rand",
            "torch.random.manual_seed",
        },  # invented records that a plug-in's network is tried on
        "pmfed/tasks/plugin.py": {"torch.randn"},  # the same, of a plug-in's outcome
        "pmfed/tasks/agreement.py": {"np.random.default_rng", "random.normal"},  # a band around what is published
        "pmfed/tasks/surfaces.py": {"random.normal"},  # the same
        # invented inputs that an exported model is compared on
        "pmfed/runs/exports/network.py": {"np.random.default_rng", "random.random", "random.uniform"},
        "pmfed/tasks/task.py": {
            "np.random.default_rng",
            "random.multinomial",
            "random.normal",
        },  # intervals of what is published
    }
    draws = re.compile(
        r"((np|numpy|torch)\.)?random\.(?!fork_rng)[a-z]\w*"
        r"|torch\.(rand(n|int|perm)?(_like)?|normal|bernoulli|multinomial|manual_seed)"
    )
    for name, names in names_used("pmfed", "client"):
        assert {one for one in names if draws.fullmatch(one)} == known.get(name, set()), name


# -- 6: an accountant that forgets --------------------------------------------------------------------------------------


def test_06_after_a_kill_and_a_restart_epsilon_is_the_joint_one_of_everything(tmp_path: Path) -> None:
    wide = (50.0, 1e-5)
    plans = {run: {"train": (Entry("step", 0.2, sigma, 1.0, 10),)} for run, sigma in (("one", 3.0), ("two", 4.0))}

    def work(run: str, rounds: range) -> None:
        ledger = Ledger(tmp_path / "ledger.db")
        ledger.reserve(run, "study", plans[run], wide)
        for number in rounds:
            ledger.charge(run, "step", number, 0, plans[run]["train"][0].noise_multiplier)
        os.kill(os.getpid(), signal.SIGKILL)

    for run, rounds in (("one", range(4)), ("one", range(4, 10)), ("two", range(7))):
        child = os.fork()
        if child == 0:
            work(run, rounds)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
    with Ledger(tmp_path / "ledger.db") as ledger:
        told = ledger.spent("train", 1e-5)
    assert told == epsilon((Release(0.2, 3.0, 10), Release(0.2, 4.0, 7)), 1e-5)
    assert told > 1.1 * epsilon((Release(0.2, 3.0, 10),), 1e-5)


# -- 7 and 16: who is drawn ---------------------------------------------------------------------------------------------


def shuffled(patients: int, rate: float, source: Source) -> NDArray[np.int64]:
    return np.sort(np.argsort(source.uniform(patients))[: round(rate * patients)])


def per_batch(patients: int, rate: float, source: Source) -> NDArray[np.int64]:
    """Draw at one over the number of batches, as Opacus does: 64 of 100 make two batches, so a half."""
    return np.flatnonzero(source.uniform(patients) < 1 / math.ceil(1 / rate))


@pytest.mark.parametrize(
    ("rate", "training"), [(0.5, {}), (0.07, {}), (0.3, {**FEDAVG, "local_steps": 4}), (0.64, {}), (1.0, {})]
)
def test_07_and_16_patients_are_drawn_alone_and_at_the_rate_that_the_ledger_is_charged(
    cohort: Cohort, rate: float, training: dict[str, Any]
) -> None:
    study = TINY.replace(privacy={"sampling_rate": rate}, training=training)
    plan = plan_for(study, 3)
    drawn = draws(study, plan, cohort)
    charged = next(entry for booked in entries(study, plan).values() for entry in booked if entry.what == "step")
    found = sampling_check(drawn, charged.sampling_rate)
    assert found.passed, found
    assert charged.count == study.steps


@pytest.mark.parametrize("wrong", [shuffled, per_batch])
def test_07_and_16_other_draws_are_noticed(cohort: Cohort, wrong: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    study = TINY.replace(privacy={"sampling_rate": 0.64})
    monkeypatch.setattr("pmfed_client.agent.trainer.poisson", wrong)
    assert not sampling_check(draws(study, plan_for(study, 3), cohort), 0.64).passed


def draws(study: Study, plan: PrivacyPlan, cohort: Cohort) -> NDArray[np.bool_]:
    roll = Roll(study, plan, cohort, 300)
    for number in range(1, 301):
        roll.step(np.zeros(1, np.float32), 3, number, 0)
    return np.stack(roll.drawn)


# -- 8: empty batches, true counts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [{}, FEDAVG])
def test_08_a_batch_of_nobody_is_noise_like_any_other(cohort: Cohort, training: dict[str, Any]) -> None:
    """The same noise whatever the size of cohort: nothing is divided by a count."""
    study = TINY.replace(training=training)
    for mask in (np.ones(cohort.patients, bool), np.arange(cohort.patients) < 5):
        trainer = trainer_of(cohort.select(mask), Nobody(), study)
        noise, std = steps_of(trainer, 150, 3), trainer.mechanism.noise_multiplier  # by hand: the clip is 1
        std *= FEDAVG["local_learning_rate"] * 3 / (0.5 * 144) if training else 1 / math.sqrt(3 - 1)
        size = float((noise**2).sum()) / (std**2 + step_of(study).grid(3).unit ** 2 / 12)
        assert min(stats.chi2.cdf(size, noise.size), stats.chi2.sf(size, noise.size)) > RARE


def test_08_the_coordinator_divides_by_the_public_number(tmp_path: Path) -> None:
    study = TINY.replace(training={"optimizer": {"name": "sgd", "learning_rate": 1.0}})
    moved = []
    for sites in (1, 3):
        with LocalGrid(None, {}) as grid:  # type: ignore[arg-type]
            rounds = Rounds(grid, study, plan_for(study, 3), tmp_path, run="0" * 32, sites=3, patience=1.0)
        assert isinstance(rounds.method, Gradient)
        optimizer, ask = rounds.method.optimizer, rounds.method.next()
        assert ask is not None
        before, words = optimizer.parameters[:], ask.query.grid(sites)
        rounds.method.take(ask, DecodedSum(np.full(len(before), round(72 / words.unit), words.word), words, sites))
        moved.append(before - optimizer.parameters[:])
    assert moved[0] == pytest.approx(np.ones(len(before)))  # 72 / (0.5 * 144)
    assert moved[0] == pytest.approx(moved[1])


# -- 9: who is clipped ------------------------------------------------------------------------------------------------------


@every_kind
@every_way
def test_09_a_patient_a_thousand_times_too_loud_adds_exactly_the_clip(kind: str, way: Any) -> None:
    study = study_of(some_task(kind), kind)
    inputs, present, _ = records_of(study, 8)
    present = {name: torch.ones_like(seen) for name, seen in present.items()}
    step = PrivateStep(model_of(study), lambda o, t: t * o.flatten(1).mean(1), mechanism_of(0.7), way)
    quiet = torch.full((8,), 0.3)
    for loud in (1e3, 1e6):
        targets = quiet.clone()
        targets[5] = loud
        whole = step.clipped_sum(inputs, present, targets, np.arange(8)).vector
        others = np.arange(8) != 5
        rest = step.clipped_sum(*some((inputs, present, targets), others), np.arange(7)).vector
        assert np.linalg.norm(whole - rest) == pytest.approx(0.7, rel=1e-4)


@pytest.mark.parametrize("training", [{}, FEDAVG])
def test_09_so_it_is_in_what_a_site_releases(cohort: Cohort, training: dict[str, Any]) -> None:
    study = TINY.replace(training=training, privacy={"clip": 0.3})
    loud = replace(cohort, inputs={name: block.copy() for name, block in cohort.inputs.items()})
    patient = int(np.flatnonzero(cohort.training)[0])
    loud.inputs["clinical"][loud.owner == patient] *= 1000
    whole, rest = (
        steps_of(trainer_of(one, Silent(), study), 1, 3)[0]
        for one in (loud, loud.select(np.arange(cohort.patients) != patient))
    )
    unit = FEDAVG["local_learning_rate"] * 3 / (0.5 * 144) if training else 1.0
    assert np.linalg.norm(whole - rest) == pytest.approx(0.3 * unit, rel=2e-2)  # on the grid


# -- 11: shares of noise ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("enrolled", "here", "colluders"), [(5, 5, 2), (5, 4, 2), (4, 2, 1), (3, 3, 0)])
def test_11_without_the_noise_of_who_colludes_or_drops_out_enough_is_left(
    cohort: Cohort, enrolled: int, here: int, colluders: int
) -> None:
    """Measured on what leaves: the sum over here - t sites, the fewest whose noise is counted on."""
    empty = cohort.select(np.zeros(cohort.patients, bool))
    sites = [trainer_of(empty, sites=enrolled, colluders=colluders) for _ in range(here - colluders)]
    left = sum(steps_of(site, 200, here) for site in sites)
    step = sites[0].mechanism
    size = float((np.asarray(left) ** 2).sum()) / (step.noise_multiplier * step.bound) ** 2
    assert stats.chi2.cdf(size, np.asarray(left).size) > RARE


# -- 12: sums that overflow ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sites", "epsilon"), [(20_000, 2.0), (9_000, 0.015)])
def test_12_a_cohort_whose_sum_could_overflow_is_refused_before_anyone_is_drawn(
    cohort: Cohort, sites: int, epsilon: float
) -> None:
    """A word of 32 bits leaves each of 20,000 sites room for 26 clips; each of 9,000 for 58, half of it for noise."""
    study = TINY.replace(cohort={"expected_patients": 10}, privacy={"delta": 1e-6, "epsilon": epsilon})

    class Watched(Silent):
        def uniform(self, size: int) -> NDArray[np.float64]:
            raise AssertionError("somebody was drawn")

    plan = plan_for(study, sites)
    assert int(cohort.training.sum()) > 26
    with pytest.raises(PolicyError, match=r"could overflow\. Nothing was released"):
        Trainer(study, plan, cohort, lambda *_: Watched()).step(flatten(build(study)), sites, 1, 0)
    few = cohort.select(np.arange(cohort.patients) < 10)
    Trainer(study, plan, few, lambda *_: Silent()).step(flatten(build(study)), sites, 1, 0)


# -- 17: pickles ---------------------------------------------------------------------------------------------------------------


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.path),)


def test_17_a_pickle_in_the_place_of_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "round-00001.safetensors").write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    with pytest.raises(RunError, match="none of the 1 checkpoints"):
        read_checkpoint(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_17_nothing_that_executes_what_it_reads_is_in_the_code() -> None:
    modules = (
        "pickle",
        "cPickle",
        "_pickle",
        "dill",
        "cloudpickle",
        "joblib",
        "shelve",
        "marshal",
        "torch.serialization",
    )
    calls = (
        "torch.load",
        "torch.save",
        "torch.jit.load",
        "np.load",
        "np.save",
        "numpy.load",
        "pd.read_pickle",
        "eval",
        "exec",
    )
    for name, names in names_used(*PACKAGES):
        found = {one for one in names if one in calls or one.split(".")[0] in modules or one in modules}
        found |= {
            one for one in names if one.endswith((".load_checkpoint", ".save_checkpoint", "allow_pickle", ".to_pickle"))
        }
        assert not found, f"{name}: {found}"


def names_used(*packages: str) -> Iterator[tuple[str, set[str]]]:
    """Yield every file of our code with the dotted names it uses, by the full names of what it imports."""
    for package in packages:
        for path in sorted((ROOT / package).rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            names: set[str] = set()
            for node in ast.walk(tree):
                if isinstance(node, ast.Import):
                    names |= {one.name for one in node.names}
                elif isinstance(node, ast.ImportFrom):
                    names |= {f"{node.module}.{one.name}" for one in node.names}
                elif isinstance(node, ast.keyword) and node.arg:
                    names.add(f".{node.arg}")
                elif isinstance(node, ast.Attribute | ast.Name):
                    names.add(ast.unparse(node))
            yield str(path.relative_to(ROOT)), names
