"""Hospitals differ: the pull of FedProx, and parts of a model that stay at the site."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import federation
import numpy as np
import pytest
import torch
from pmfed_client.agent.answers import Answers
from pmfed_client.agent.personal import Own, Shelf
from pmfed_client.agent.trainer import Trainer
from pydantic import ValidationError
from safetensors.numpy import load_file
from small import scores

from pmfed.cohort import Cohort, read_cohort
from pmfed.errors import StudyError
from pmfed.methods import plan_for
from pmfed.models import build, flatten, load, shared_start
from pmfed.models.parts import stay_mask
from pmfed.privacy.gradients import PrivateStep
from pmfed.privacy.noise import SecretSource
from pmfed.privacy.plan import PrivacyPlan
from pmfed.queries.gradient import step_of
from pmfed.study import Study
from pmfed.tasks import task_for

STUDY = Study.from_text(federation.STUDY, "study.toml")
NORTH = federation.SITES[0]
SITES = len(federation.SITES)
FEDPROX = {
    "algorithm": "fedavg",
    "local_steps": 5,
    "local_learning_rate": 0.8,
    "proximal": 1.0,
    "optimizer": {"name": "sgd", "learning_rate": 1.0},
}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    folder = federation.write_federation(tmp_path_factory.mktemp("f") / "f") / "sites" / NORTH
    return read_cohort(STUDY, {"patients": folder / "patients.csv"}, NORTH)


def trainer(study: Study, cohort: Cohort, plan: PrivacyPlan) -> Trainer:
    return Trainer(study, plan, cohort, lambda *_: SecretSource())


def noiseless(study: Study) -> PrivacyPlan:
    return plan_for(study, SITES).without_noise()


def gradient(study: Study, cohort: Cohort, at: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the sum of training patients' gradients, by plain autograd. One record each."""
    model, task, training = build(study), task_for(study), cohort.select(cohort.training)
    load(model, at.astype(np.float32))
    inputs = {name: torch.from_numpy(values) for name, values in training.inputs.items()}
    present = {name: torch.from_numpy(seen) for name, seen in training.present.items()}
    loss = task.loss(model(inputs, present), task.targets(training.targets)).sum()
    parts = torch.autograd.grad(loss, list(model.parameters()))
    return torch.cat([part.reshape(-1) for part in parts]).double().numpy()


# -- FedProx -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("proximal", [0.0, 0.4, 1.2])
def test_local_steps_follow_the_gradient_and_the_pull(cohort: Cohort, proximal: float) -> None:
    study = STUDY.replace(training={**FEDPROX, "proximal": proximal}, privacy={"sampling_rate": 1.0})
    start = flatten(build(study))
    sent = trainer(study, cohort, noiseless(study)).step(start, SITES, 1, 0)
    expected = STUDY.cohort.expected_patients / SITES
    at = start.astype(np.float64)
    for _ in range(5):
        at = at - 0.8 * (gradient(study, cohort, at) / expected + proximal * (at - start))
    np.testing.assert_allclose(step_of(study).grid(SITES).decode(sent), at - start, atol=1e-5)


def test_the_pull_is_free_and_keeps_a_site_near(cohort: Cohort) -> None:
    near, far = (STUDY.replace(training={**FEDPROX, "proximal": mu}) for mu in (1.0, 0.0))
    assert plan_for(near, SITES) == plan_for(far, SITES)
    start = flatten(build(near))

    def moved(study: Study) -> float:
        sums = trainer(study, cohort, noiseless(study)).step(start, SITES, 1, 0)
        return float(np.linalg.norm(step_of(study).grid(SITES).decode(sums)))

    assert moved(near) < 0.8 * moved(far)


@pytest.mark.parametrize(
    ("training", "said"),
    [
        ({"proximal": 0.1}, "belongs to algorithm 'fedavg'"),
        ({**FEDPROX, "local_steps": 1}, "'local_steps' above 1"),
        ({**FEDPROX, "proximal": 1.25}, "must be below 1"),
    ],
)
def test_a_pull_that_means_nothing_is_refused(training: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        STUDY.replace(training=training)


# -- parts that stay ---------------------------------------------------------------------------------------------

INTERCEPT = {"method": "intercept", "learning_rate": 0.5}
FINE_TUNE = {"method": "fine-tune", "steps": 4, "learning_rate": 0.3, "share": 0.3}
DITTO = {"method": "ditto", "steps": 2, "learning_rate": 0.3, "proximal": 0.5, "share": 0.3}
FULL = {"sampling_rate": 1.0}
PER_ROUND = STUDY.cohort.expected_patients / SITES


class Known:
    """Noise that a test knows: everybody is drawn, and every number is the standard deviation asked for."""

    def gaussian(self, size: int, std: float) -> np.ndarray[Any, Any]:
        return np.full(size, float(std))

    def uniform(self, size: int) -> np.ndarray[Any, Any]:
        return np.zeros(size)


def test_what_stays_is_not_in_what_leaves_and_gets_the_whole_noise(cohort: Cohort, tmp_path: Path) -> None:
    study = STUDY.replace(personal=INTERCEPT, privacy=FULL)
    plan = plan_for(study, SITES)
    start = flatten(build(study))
    (bias,) = np.flatnonzero(stay_mask(study, build(study)))
    rest = np.delete(start, bias)

    def one(source: Any) -> tuple[np.ndarray[Any, Any], float]:
        shelf = Shelf(tmp_path / type(source).__name__, "ab" * 16)
        made = Trainer(study, plan, cohort, lambda *_: source, shelf)
        site = Answers(study, plan, cohort, lambda *_: source)
        assert site.shapes(step_of(study), SITES) == {"sum": (np.uint32, len(start) - 1)}
        assert step_of(study).state == {"parameters": (np.float32, len(start) - 1)}
        sent = step_of(study).grid(SITES).decode(made.step(rest, SITES, 1, 0))
        return sent, float(made.parts.join(rest)[bias] - start[bias])

    class Silent(Known):
        def gaussian(self, size: int, std: float) -> np.ndarray[Any, Any]:
            return np.zeros(size)

    step = plan["step"]
    bare, moved = one(Silent())
    noisy, pushed = one(Known())
    np.testing.assert_allclose(noisy - bare, step.noise_std(SITES), atol=step_of(study).grid(SITES).unit)
    assert moved - pushed == pytest.approx(0.5 / PER_ROUND * step.noise_multiplier * step.bound, rel=1e-5)
    assert step.local_std > 1.4 * step.noise_std(SITES)


def test_what_stays_follows_its_own_gradient(cohort: Cohort, tmp_path: Path) -> None:
    study = STUDY.replace(personal=INTERCEPT, privacy=FULL)
    mask = stay_mask(study, build(study))
    made = Trainer(study, noiseless(study), cohort, lambda *_: SecretSource(), Shelf(tmp_path, "ab" * 16))
    start = flatten(build(study))
    at, seen = start.astype(np.float64), []
    for number in range(1, 7):
        made.step(start[~mask], SITES, number, 0)
        at[mask] -= 0.5 / PER_ROUND * gradient(study, cohort, at)[mask]
        seen.append(at[mask].copy())
        np.testing.assert_allclose(made.parts.join(start[~mask])[mask], at[mask], rtol=1e-5)
    # The coordinator averages its part over the last half of the rounds, and so does the site.
    np.testing.assert_allclose(made.parts.join(start[~mask], mean=True)[mask], np.mean(seen[3:], axis=0), rtol=1e-5)


def test_a_hospital_without_pictures_learns_a_head_and_keeps_norms_it_does_not_use(tmp_path: Path) -> None:
    place = federation.write_federation(tmp_path / "f") / "sites" / NORTH
    study = Study.from_text(
        federation.STUDY
        + '\n[modalities.picture]\nkind = "images"\ntable = "pictures"\nfolder = "images"\nsize = [8, 8]\n'
        + '\n[model]\nkind = "fusion"\nembedding = 4\nhidden = [4]\nchannels = [4]\n',
        "study.toml",
    )
    cohort = read_cohort(study, {"patients": place / "patients.csv"}, NORTH)
    assert not cohort.present["picture"].any()
    for method, moves in (("head", True), ("norms", False)):
        one = study.replace(personal={"method": method, "learning_rate": 0.5})
        model = build(one)
        mask = stay_mask(one, model)
        start = flatten(model)
        silent = Trainer(one, noiseless(one), cohort, lambda *_: SecretSource(), Shelf(tmp_path / method, "ab" * 16))
        silent.step(start[~mask], SITES, 1, 0)
        assert (not np.array_equal(silent.parts.join(start[~mask]), start)) == moves
        noisy = Trainer(
            one,
            plan_for(one, SITES),
            cohort,
            lambda *_: SecretSource(),
            Shelf(tmp_path / f"noisy-{method}", "ab" * 16),
        )
        assert len(noisy.step(start[~mask], SITES, 1, 0)) == (~mask).sum()
        assert (
            noisy.parts.join(start[~mask])[mask] != start[mask]
        ).all()  # gradient or not, there is noise on all of it
        if method == "norms":
            np.testing.assert_array_equal(scores(noisy, start[~mask]), scores(silent, start[~mask]))


# -- a whole model of the site's own -----------------------------------------------------------------------------


def test_fine_tuning_follows_the_gradient_from_the_common_model(cohort: Cohort, tmp_path: Path) -> None:
    study = STUDY.replace(personal=FINE_TUNE, privacy=FULL)
    start = flatten(build(study)) + np.float32(0.1)
    own = Own(study, noiseless(study)["personal"], SITES, Shelf(tmp_path, "ab" * 16))
    assert own.due("step", 1) == own.due("evaluation", 6) == 0
    assert own.due("personal-evaluation", 6) == 4
    batch = trainer(STUDY, cohort, noiseless(STUDY)).training
    own.learn(start, lambda: batch, SecretSource(), 6)
    at, seen = start.astype(np.float64), []
    for _ in range(4):
        at = at - 0.3 / PER_ROUND * gradient(study, cohort, at)
        seen.append(at)
    np.testing.assert_allclose(own.result(start, np.zeros(0, np.float32)), np.mean(seen[2:], axis=0), rtol=1e-5)
    assert own.due("personal-evaluation", 6) == 0


def test_a_model_that_diverged_is_not_kept(tmp_path: Path) -> None:
    study, shelf = STUDY.replace(personal=FINE_TUNE), Shelf(tmp_path, "ab" * 16)
    shelf.store(np.full(7, 1e300), np.zeros(7), {"round": 1, "averaged": 0})  # more than float32 holds
    own = Own(study, noiseless(study)["personal"], SITES, shelf)
    with pytest.raises(StudyError, match=r"personal\.learning_rate: the site's own model is not finite"):
        own.result(flatten(build(study)), np.zeros(0, np.float32))
    assert not shelf.model.exists()


def test_ditto_follows_the_gradient_and_the_pull_beside_the_rounds(cohort: Cohort, tmp_path: Path) -> None:
    study = STUDY.replace(personal=DITTO, privacy=FULL, training={"rounds": 4})
    batch = trainer(STUDY, cohort, noiseless(STUDY)).training
    chance = np.random.default_rng(0)
    common = [chance.normal(size=7).astype(np.float32) for _ in range(4)]
    at, seen = common[0].astype(np.float64), []
    for number in range(1, 5):
        # An agent that is started anew before every round goes on from what is on the disk.
        own = Own(study, noiseless(study)["personal"], SITES, Shelf(tmp_path, "ab" * 16))
        assert own.due("step", number) == 2
        own.learn(common[number - 1], lambda: batch, SecretSource(), number)
        assert own.due("step", number) == own.due("personal-evaluation", number) == 0
        for _ in range(2):
            at = at - 0.3 * (gradient(study, cohort, at) / PER_ROUND + 0.5 * (at - common[number - 1]))
            if number > 2:
                seen.append(at)
    np.testing.assert_allclose(own.result(common[3], np.zeros(0, np.float32)), np.mean(seen, axis=0), rtol=1e-4)


def test_personal_steps_have_the_whole_noise_of_their_plan(cohort: Cohort, tmp_path: Path) -> None:
    study = STUDY.replace(personal=FINE_TUNE, privacy=FULL)
    plan = plan_for(study, SITES)
    asked: list[float] = []

    class Recorder(Known):
        def gaussian(self, size: int, std: float) -> np.ndarray[Any, Any]:
            asked.append(std)
            return np.zeros(size)

    own = Own(study, plan["personal"], SITES, Shelf(tmp_path, "ab" * 16))
    batch = trainer(STUDY, cohort, noiseless(STUDY)).training
    own.learn(flatten(build(study)), lambda: batch, Recorder(), 1)
    assert plan["personal"].noise_multiplier * plan["personal"].bound > 0
    assert asked == [plan["personal"].noise_multiplier * plan["personal"].bound] * 4


def test_every_personal_step_draws_its_patients_anew(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = STUDY.replace(personal=FINE_TUNE)
    made = Trainer(study, plan_for(study, SITES), cohort, lambda *_: SecretSource(), Shelf(tmp_path, "ab" * 16))
    assert made.own is not None
    drawn: list[bytes] = []
    true = made.own._private.release

    def release(inputs: Any, present: Any, targets: Any, owner: Any, *more: Any) -> Any:
        drawn.append(inputs["clinical"].numpy().tobytes())
        assert len(owner) < 0.9 * len(made.training.owner)  # at the plan's rate
        return true(inputs, present, targets, owner, *more)

    monkeypatch.setattr(made.own._private, "release", release)
    made.learn_own(flatten(build(study)), 6, 0)
    assert len(drawn) == len(set(drawn)) == 4


# -- the agent ---------------------------------------------------------------------------------------------------


def together(tmp_path: Path, **sections: Any) -> federation.Together:
    folder = federation.write_federation(tmp_path / "f") / "sites"
    made = federation.Together(folder, STUDY.replace(**sections))
    made.start = shared_start(made.study)
    return made.enrol()


def anew(made: federation.Together) -> federation.Together:
    """Return the same sites with agents started anew."""
    other = federation.Together(made.sites[NORTH].folder.parent, made.study)
    other.start = made.start
    return other.enrol()


def rows(made: federation.Together, kind: str) -> list[tuple[Any, ...]]:
    return [
        (row.what, row.round, row.attempt, row.count, told["noise_multiplier"], told["sampling_rate"])
        for row in made.agents[NORTH].ledger.rows()
        if row.kind == kind and (told := json.loads(row.parameters or ""))
    ]


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every noisy sum that is computed, in order: which query it was for, and what the ledger held by then."""
    done: list[str] = []
    true = PrivateStep.release

    def release(self: PrivateStep, *arguments: Any) -> Any:
        done.append(self.mechanism.query)
        return true(self, *arguments)

    monkeypatch.setattr(PrivateStep, "release", release)
    return done


def test_the_ledger_holds_what_was_done_and_before_it_was_done(
    tmp_path: Path, steps: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = together(tmp_path, personal=DITTO)
    plan = plan_for(made.study, SITES)
    true = Own.learn

    def learn(self: Own, *arguments: Any) -> None:
        assert rows(made, "charge")[-1][:4] == ("personal", arguments[-1], 0, 2)  # on the disk already
        true(self, *arguments)

    monkeypatch.setattr(Own, "learn", learn)
    assert [(row[0], row[3]) for row in rows(made, "reserve")] == [("step", 6), ("personal", 12)]
    for number in range(1, 4):
        assert made.ask(NORTH, "step", number)[0].ok
    assert made.ask(NORTH, "personal-evaluation", 3)[0].ok
    assert steps == ["step", "personal", "personal"] * 3
    charged = rows(made, "charge")
    assert [row for row in charged if row[0] == "personal"] == [
        ("personal", number, 0, 2, plan["personal"].noise_multiplier, 0.5) for number in (1, 2, 3)
    ]
    assert made.agents[NORTH].ledger.receipt(made.run)["charges"] == {"personal": 6, "step": 3}
    assert made.ask(NORTH, "finish", 3)[0].ok
    assert [(row[0], row[3]) for row in rows(made, "refund")] == [("step", 3), ("personal", 6)]


def test_a_repeated_round_repeats_no_personal_step(tmp_path: Path, steps: list[str]) -> None:
    made = together(tmp_path, personal=DITTO)
    assert made.ask(NORTH, "step", 1, 0)[0].ok
    made = anew(made)
    assert made.ask(NORTH, "step", 1, 1)[0].ok
    assert steps == ["step", "personal", "personal", "step"]
    assert [row[:4] for row in rows(made, "charge")] == [("step", 1, 0, 1), ("personal", 1, 0, 2), ("step", 1, 1, 1)]


def test_fine_tuning_is_done_and_charged_once_whatever_is_asked_again(tmp_path: Path, steps: list[str]) -> None:
    made = together(tmp_path, personal=FINE_TUNE)
    assert made.ask(NORTH, "step", 1)[0].ok
    reply, sums = made.ask(NORTH, "personal-evaluation", 1, 0)
    assert reply.ok
    path = made.sites[NORTH].personal / f"{made.run}.safetensors"
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    model = load_file(path)
    assert set(model) == {"linear.weight", "linear.bias"}
    for asked, attempt in ((made, 1), (anew(made), 2)):
        reply, again = asked.ask(NORTH, "personal-evaluation", 1, attempt)
        assert reply.ok
        np.testing.assert_array_equal(again["site"], sums["site"])
    np.testing.assert_array_equal(load_file(path)["linear.weight"], model["linear.weight"])
    assert steps == ["step"] + ["personal"] * 4
    assert [row[:4] for row in rows(made, "charge")] == [("step", 1, 0, 1), ("personal", 1, 0, 4)]
    assert made.ask(NORTH, "finish", 1)[0].ok
    assert [file.name for file in path.parent.iterdir()] == [path.name]  # the state is gone, the model stays


def test_steps_charged_and_lost_with_the_process_are_not_taken_again(
    tmp_path: Path, steps: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = together(tmp_path, personal=FINE_TUNE)

    def fail(*_: Any) -> None:
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(Shelf, "store", fail)
        reply, sums = made.ask(NORTH, "personal-evaluation", 1, 0)
    assert (reply.ok, sums) == (False, {})
    # The very process goes on as one that was started anew: what is not on the disk was not learned.
    assert made.ask(NORTH, "personal-evaluation", 1, 1)[0].code == "PM310"
    assert steps == ["personal"] * 4
    steps.clear()
    reply, sums = anew(made).ask(NORTH, "personal-evaluation", 1, 1)
    assert (reply.ok, reply.code, sums) == (False, "PM310", {})
    assert "Nothing was released" in reply.reason
    assert steps == []
    assert len(rows(made, "charge")) == 1


class Killed(BaseException):
    """The process ends here; nothing in it is told."""


@pytest.mark.parametrize(("place", "taken"), [((Own, "learn"), 8), ((Shelf, "store"), 10)], ids=["before", "after"])
def test_an_agent_killed_between_a_charge_and_what_it_learned_takes_no_more_steps_than_it_charged(
    tmp_path: Path, steps: list[str], monkeypatch: pytest.MonkeyPatch, place: tuple[Any, str], taken: int
) -> None:
    made = together(tmp_path, personal=DITTO)
    assert made.ask(NORTH, "step", 1)[0].ok

    def die(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(*place, die)
        with pytest.raises(Killed):
            made.ask(NORTH, "step", 2, 0)
    made = anew(made)
    for number, attempt in ((2, 1), (3, 0), (4, 0)):
        assert made.ask(NORTH, "step", number, attempt)[0].ok
    charged = [row for row in rows(made, "charge") if row[0] == "personal"]
    assert [row[1:4] for row in charged] == [(1, 0, 2), (2, 0, 2), (2, 1, 2), (3, 0, 2), (4, 0, 2)]
    assert steps.count("personal") == taken <= sum(row[3] for row in charged)
    assert made.ask(NORTH, "step", 5)[0].ok  # the sixth charge, of six
    assert made.ask(NORTH, "step", 6)[0].code == "PM310"


def test_scores_of_the_own_model_are_a_release_of_their_own(tmp_path: Path) -> None:
    private = {"release": "private", "per_site": False, "release_noise": 40.0}
    made = together(tmp_path, personal=FINE_TUNE, evaluation=private)
    assert {row[0] for row in rows(made, "reserve")} == {"step", "personal", "evaluation", "personal-evaluation"}
    assert set(made.ask(NORTH, "evaluation", 1)[1]) == set(made.ask(NORTH, "personal-evaluation", 1)[1]) == {"sum"}
    assert [row[0] for row in rows(made, "charge")] == ["evaluation", "personal", "personal-evaluation"]
    assert made.ask(NORTH, "personal-evaluation", 1, 1)[0].code == "PM310"  # once, as any private release


def test_nothing_of_what_stays_passes_the_allow_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = together(tmp_path, personal=INTERCEPT)
    assert made.start.shape == (6,)
    reply, sums = made.ask(NORTH, "step", 1)
    assert (reply.ok, {name: array.shape for name, array in sums.items()}) == (True, {"sum": (6,)})
    whole = np.zeros(7, np.uint32)
    monkeypatch.setattr(Trainer, "step", lambda *_: whole)
    reply, sums = made.ask(NORTH, "step", 2)
    assert (reply.ok, sums) == (False, {})
    assert "may not" in reply.reason or "not uint32[6]" in reply.reason
    vector = flatten(build(made.study))
    reply, sums = made.ask(NORTH, "step", 3, arrays={"parameters": vector})
    assert (reply.ok, sums) == (False, {})


def test_what_stays_outlives_the_agent_and_a_broken_file_is_told(tmp_path: Path) -> None:
    made = together(tmp_path, personal=INTERCEPT)
    for number in (1, 2):
        assert made.ask(NORTH, "step", number)[0].ok
    before = made.agents[NORTH]._sessions[made.run].answers.trainer.parts.join(made.start)
    after = anew(made)
    np.testing.assert_array_equal(
        after.agents[NORTH]._sessions[made.run].answers.trainer.parts.join(made.start), before
    )
    assert not np.array_equal(before, flatten(build(made.study)))
    (made.sites[NORTH].personal / f"{made.run}.state.safetensors").write_bytes(b"\x80\x04pickled")
    reply, _ = federation.Together(made.sites[NORTH].folder.parent, made.study).ask(NORTH, "enroll")
    assert (reply.ok, reply.code) == (False, "PM200")


@pytest.mark.parametrize("personal", [None, INTERCEPT])
def test_who_asks_for_models_the_study_does_not_have_gets_nothing(tmp_path: Path, personal: Any) -> None:
    reply, sums = together(tmp_path, personal=personal).ask(NORTH, "personal-evaluation", 1)
    assert (reply.ok, sums) == (False, {})
    assert "asks nothing called 'personal-evaluation'" in reply.reason
