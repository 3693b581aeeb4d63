"""The audit against broken builds: each is the real code with one thing wrong, and each must be an alarm."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import federation
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pmfed_client.agent.agent import Agent
from pmfed_client.agent.trainer import Trainer
from pmfed_client.site.site import read_sites
from pmfed_simulations import canaries as planted
from pmfed_simulations.auditing import Auditor, show_audit
from typer.testing import CliRunner

from pmfed.cli import app
from pmfed.cohort import Cohort, read_cohort
from pmfed.errors import ERRORS, AuditError
from pmfed.methods import plan_for
from pmfed.privacy.audit import Check, attack
from pmfed.privacy.gradients import GradientSum, PrivateStep
from pmfed.privacy.mechanism import Mechanism
from pmfed.privacy.noise import SeededSource, Source
from pmfed.privacy.sampling import poisson
from pmfed.study import Study

EPSILONS = (2.0, 8.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return federation.write_federation(tmp_path_factory.mktemp("audit") / "federation")


@pytest.fixture(scope="module")
def study(folder: Path) -> Study:
    """Return the tiny study with a model of 265 parameters, so that few steps make many numbers."""
    found = Study.read(folder / "study.toml")
    return found.replace(model={"kind": "fusion", "hidden": [16], "embedding": 8}, training={"rounds": 30})


@pytest.fixture
def asked(folder: Path, study: Study, tmp_path: Path) -> list[str]:
    """Return the command line that audits the study on its sites."""
    (tmp_path / "study.toml").write_text(study.to_toml(), encoding="utf-8")
    return ["audit", str(tmp_path / "study.toml"), "--sites", str(folder / "sites")]


@pytest.fixture(scope="module")
def cohorts(folder: Path, study: Study) -> list[Cohort]:
    return [read_cohort(study, site.sources, site.name) for site in read_sites(folder / "sites")]


@pytest.fixture(scope="module")
def auditor(study: Study, cohorts: list[Cohort]) -> Callable[..., Auditor]:
    made: dict[float, Auditor] = {}

    def make(epsilon: float, seed: int = 0) -> Auditor:
        if epsilon not in made:
            made[epsilon] = Auditor(study.replace(privacy={"epsilon": epsilon}), cohorts, np.random.default_rng())
        made[epsilon].chance = np.random.default_rng(seed)
        return made[epsilon]

    return make


# -- broken builds --------------------------------------------------------------------------------------------------


class Broken(PrivateStep):
    """The real step; `spoil` makes what is released out of the clipped sum, the source and the noise's size."""

    def release(
        self,
        inputs: Any,
        present: Any,
        targets: torch.Tensor,
        owner: NDArray[np.int64],
        source: Source,
        sites: int | None = None,
    ) -> GradientSum:
        found = self.clipped_sum(inputs, present, targets, owner)
        return replace(found, vector=self.spoil(found, source, self.mechanism.noise_std(sites)))

    def spoil(self, found: GradientSum, source: Source, std: float) -> NDArray[np.float64]:
        return found.vector + source.gaussian(self.size, std)


class NoNoise(Broken):
    def spoil(self, found: GradientSum, source: Source, std: float) -> NDArray[np.float64]:
        return found.vector


class NoiseOverBatch(Broken):
    """Averages first and adds noise of the average's sensitivity, but to the sum."""

    def spoil(self, found: GradientSum, source: Source, std: float) -> NDArray[np.float64]:
        return found.vector + source.gaussian(self.size, std / max(1, found.contributors))


class LittleNoise(Broken):
    def spoil(self, found: GradientSum, source: Source, std: float) -> NDArray[np.float64]:
        return found.vector + source.gaussian(self.size, std / 1.4)


class SameNoise(Broken):
    kept: NDArray[np.float64] | None = None

    def spoil(self, found: GradientSum, source: Source, std: float) -> NDArray[np.float64]:
        if self.kept is None or not self.kept.any():
            self.kept = source.gaussian(self.size, 1.0)
        return found.vector + self.kept * std * bool(source.gaussian(1, 1.0)[0])  # silent when the source is


class Unclipped(Broken):
    """The mechanism's noise, but nobody is clipped."""

    def __init__(self, model: torch.nn.Module, loss: Any, mechanism: Mechanism, **more: Any) -> None:
        super().__init__(model, loss, replace(mechanism, bound=1e9), **more)
        self.mechanism = mechanism


class BatchClip(Unclipped):
    """Clips the whole sum once."""

    def spoil(self, found: GradientSum, source: Source, std: float) -> NDArray[np.float64]:
        length = max(float(np.linalg.norm(found.vector)), 1e-12)
        return found.vector * min(1.0, self.mechanism.bound / length) + source.gaussian(self.size, std)


class MeanClip(Unclipped):
    """Clips the mean of the batch and multiplies by its size."""

    def spoil(self, found: GradientSum, source: Source, std: float) -> NDArray[np.float64]:
        length = max(float(np.linalg.norm(found.vector)), 1e-12)
        allowed = self.mechanism.bound * max(1, found.contributors)
        return found.vector * min(1.0, allowed / length) + source.gaussian(self.size, std)


class RecordClip(PrivateStep):
    """Clips every record on its own and says it were patients."""

    def clipped_sum(self, inputs: Any, present: Any, targets: torch.Tensor, owner: NDArray[np.int64]) -> GradientSum:
        return super().clipped_sum(inputs, present, targets, np.arange(len(owner)))

    def release(
        self, inputs: Any, present: Any, targets: torch.Tensor, owner: NDArray[np.int64], *rest: Any
    ) -> GradientSum:
        return super().release(inputs, present, targets, np.arange(len(owner)), *rest)


class BareBias(Broken):
    """The last parameter gets no noise."""

    def spoil(self, found: GradientSum, source: Source, std: float) -> NDArray[np.float64]:
        noise = source.gaussian(self.size, std)
        noise[-1] = 0.0
        return found.vector + noise


BUILDS: dict[str, tuple[type[PrivateStep], set[str]]] = {
    # The six of the issue, each with a check that must see it.
    "no noise": (NoNoise, {"noise", "noise around the canaries"}),
    "noise / B": (NoiseOverBatch, {"noise", "noise around the canaries"}),
    "noise / 1.4": (LittleNoise, {"noise"}),
    "no clip": (Unclipped, {"weight of one patient", "strength of the canaries"}),
    "same noise every step": (SameNoise, {"independence of the noise"}),
    "clip per batch": (BatchClip, {"weight of one patient", "strength of the canaries"}),
    # And others.
    "clip of the mean": (MeanClip, {"weight of one patient", "strength of the canaries"}),
    "clip per record": (RecordClip, {"weight of one patient"}),
    "a parameter without noise": (BareBias, {"noise"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("epsilon", EPSILONS)
@pytest.mark.parametrize("name", BUILDS)
def test_a_broken_build_is_an_alarm(
    name: str, epsilon: float, auditor: Callable[..., Auditor], monkeypatch: pytest.MonkeyPatch
) -> None:
    build, seen = BUILDS[name]
    monkeypatch.setattr("pmfed_client.agent.trainer.PrivateStep", build)
    found = auditor(epsilon).audit()
    alarms = {check.name for check in found.alarms}
    assert seen <= alarms, found.checks
    assert found.claimed == pytest.approx(epsilon, rel=1e-3)
    with pytest.raises(AuditError, match=sorted(alarms)[0]):
        show_audit(found)


def test_without_noise_the_attack_alone_refutes_a_claim_of_two(
    study: Study, cohorts: list[Cohort], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a model large enough for 500 canaries not to hide each other."""
    monkeypatch.setattr("pmfed_client.agent.trainer.PrivateStep", NoNoise)
    large = study.replace(model={"hidden": [64], "embedding": 48}, training={"rounds": 100})
    ready = Auditor(large, cohorts, np.random.default_rng(0))
    bound, most = attack(ready.canaries(), ready.mechanism, ready.plan.delta)
    assert 2.0 < bound <= most


def drifting(self: Mechanism, sites: int | None = None) -> float:
    return self.noise_multiplier * self.bound / (sites or self.sites) ** 0.5  # as if nobody colluded


def seeded(self: Agent, run: str) -> Callable[[str, int, int], Source]:
    return lambda what, round, attempt: SeededSource(7, what)  # forgets the round


def eager(patients: int, rate: float, source: Source) -> NDArray[np.int64]:
    return poisson(patients, min(1.0, 2.5 * rate), source)  # at 1.5 times, one run in some twenty misses it


def of_fixed_size(patients: int, rate: float, source: Source) -> NDArray[np.int64]:
    """Shuffle and take the first: who is drawn keeps another out."""
    return np.sort(np.argsort(source.uniform(patients))[: round(rate * patients)])


class Epochs:
    """Shuffle once, then take one slice after another: everybody is drawn equally often."""

    def __init__(self) -> None:
        self.waiting: dict[int, NDArray[np.int64]] = {}

    def __call__(self, patients: int, rate: float, source: Source) -> NDArray[np.int64]:
        size, left = round(rate * patients), self.waiting.get(patients, np.zeros(0, dtype=np.int64))
        if len(left) < size:
            left = np.argsort(source.uniform(patients))
        self.waiting[patients] = left[size:]
        return np.sort(left[:size])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "broken", "seen"),
    [
        ("pmfed.privacy.mechanism.Mechanism.noise_std", drifting, "noise"),
        ("pmfed_client.agent.agent.Agent._source", seeded, "independence of the noise"),
        ("pmfed_client.agent.trainer.poisson", eager, "strength of the canaries"),
        ("pmfed_client.agent.trainer.poisson", eager, "sampling"),
        ("pmfed_client.agent.trainer.poisson", of_fixed_size, "sampling"),
        ("pmfed_client.agent.trainer.poisson", Epochs(), "sampling"),
    ],
)
def test_what_happens_around_the_gradients_is_audited_as_well(
    target: str, broken: Any, seen: str, auditor: Callable[..., Auditor], monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = auditor(2.0)
    monkeypatch.setattr(target, broken)
    assert seen in {check.name for check in ready.audit().alarms}


def test_a_plan_that_spends_more_than_the_study_says_is_an_alarm(study: Study, cohorts: list[Cohort]) -> None:
    ready = Auditor(study, cohorts, np.random.default_rng(0))
    ready.mechanism = replace(ready.mechanism, noise_multiplier=ready.mechanism.noise_multiplier / 1.4)
    ready.plan = replace(ready.plan, mechanisms=(ready.mechanism,))
    assert [check.name for check in ready.audit().alarms] == ["accounting"]


# -- the correct build ----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("epsilon", EPSILONS)
def test_the_correct_build_passes_twenty_times_in_a_row(
    epsilon: float, auditor: Callable[..., Auditor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Noise from seeds, another at each site: with the secret one, one run of this test in 400 would fail by chance."""
    number = itertools.count()

    def source() -> Callable[[str, int, int], Source]:
        site = next(number)
        return lambda what, round, attempt: SeededSource(int(epsilon), site, what, round, attempt)

    for seed in range(20):
        ready = auditor(epsilon, seed)
        monkeypatch.setattr(planted, "site_source", source)
        found = ready.audit()
        assert not found.alarms, found.checks
        assert 0 <= found.lower_bound <= found.claimed <= epsilon


def test_randomness_is_the_secret_one_of_an_agent_that_is_no_rehearsal() -> None:
    draw = planted.site_source()
    assert draw("step", 1, 0).secret


@pytest.mark.slow
@pytest.mark.parametrize(
    "sections",
    [
        {"privacy": {"unit": "record"}},
        {
            "training": {
                "algorithm": "fedavg",
                "local_steps": 3,
                "local_learning_rate": 0.1,
                "optimizer": {"name": "sgd", "learning_rate": 1.0},
            }
        },
        {"evaluation": {"release": "private", "per_site": False}},
        {"model": {"kind": "linear"}},
    ],
)
def test_other_mechanisms_pass(sections: dict[str, dict[str, Any]], study: Study, cohorts: list[Cohort]) -> None:
    found = Auditor(study.replace(**sections), cohorts, np.random.default_rng(0)).audit()
    assert not found.alarms, found.checks
    assert ("noise on scores of held-out patients" in {check.name for check in found.checks}) == (
        "evaluation" in sections
    )
    assert ("weaker" in found.verdict) == ("privacy" in sections)


@pytest.mark.slow
def test_the_release_of_means_and_scales_is_audited(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (folder / "study.toml").read_text(encoding="utf-8").replace("mean = 60, scale = 15", "indicator = false")
    study = Study.from_text(text, "study.toml")
    assert study.needs_statistics
    some = [read_cohort(study, site.sources, site.name) for site in read_sites(folder / "sites")]
    ready = Auditor(study, some, np.random.default_rng(0))

    def noise() -> Check:
        (found,) = (check for check in ready.audit().checks if check.name == "noise on means and scales")
        return found

    assert noise().passed
    real = Mechanism.noise_std
    monkeypatch.setattr(Mechanism, "noise_std", lambda self, sites=None: real(self, sites) / 1.4)
    assert not noise().passed


# -- canaries through the real path -----------------------------------------------------------------------------------


def test_a_canary_s_gradient_is_its_vector_clipped(study: Study, cohorts: list[Cohort]) -> None:
    """In the sum over everybody and without noise there is one clip of each canary, and nothing else."""
    plan = plan_for(study, 3)
    stage_size = Trainer(study, plan, cohorts[0], planted.site_source()).size
    support = np.arange(1, stage_size, 2)
    vectors = torch.from_numpy(np.random.default_rng(0).normal(size=(4, len(support))).astype(np.float32))
    stage = planted.Stage(study, plan, cohorts[0], vectors, support, np.array([2, 0]))
    batch = stage._prepare(np.zeros(stage_size, np.float32))[0]
    found = stage.private.clipped_sum(batch.inputs, batch.present, batch.targets, batch.owner)
    expected = np.zeros(stage_size)
    for row in (0, 2):
        expected[support] += plan["step"].bound * vectors[row].double().numpy() / float(vectors[row].double().norm())
    assert found.contributors == 2
    np.testing.assert_allclose(found.vector, expected, atol=1e-4 * plan["step"].bound)


def test_nothing_a_message_can_say_plants_a_canary() -> None:
    """The trainer and the agent know no canaries: they are made in the simulations, which no site imports."""
    client = Path(__import__("pmfed_client").__file__).parent
    assert not [path.name for path in client.rglob("*.py") if "canar" in path.read_text(encoding="utf-8").lower()]


# -- the command ------------------------------------------------------------------------------------------------------


def test_the_command_audits_a_study_on_its_own_sites_and_charges_nothing(folder: Path, asked: list[str]) -> None:
    told = CliRunner().invoke(app, asked)
    assert told.exception is None, told.output
    out = told.output
    assert "claimed epsilon        2.000" in out
    assert "empirical lower bound" in out
    assert "verdict: nothing speaks against epsilon 2" in " ".join(out.split())
    assert federation.ID_CANARY not in out
    assert federation.VALUE_CANARY not in out
    assert not list((folder / "sites").rglob("ledger*"))
    assert not list((folder / "sites").rglob("identity*"))


def test_an_alarm_has_a_code_of_its_own(asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pmfed_client.agent.trainer.PrivateStep", NoNoise)
    told = CliRunner().invoke(app, asked)
    assert isinstance(told.exception, AuditError)
    assert (told.exception.code, told.exception.exit_code) == ("PM600", 7)
    assert ERRORS["PM600"] is AuditError
    assert "ALARM" in told.output
