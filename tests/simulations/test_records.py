"""Patients with 1 to 30 records: the promise holds for the patient, and for records it is called weaker."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pmfed_client.agent.trainer import Trainer
from pmfed_client.site.policy import Policy
from pmfed_client.site.site import Site, read_sites
from pmfed_simulations import auditing
from pmfed_simulations.auditing import Auditor
from pmfed_simulations.bench.records import MOST, visits_study, write_visits
from pmfed_simulations.canaries import Silent, site_source
from pmfed_simulations.planning import show_plan

from pmfed.cohort import Cohort, read_cohort
from pmfed.errors import PolicyError
from pmfed.methods import plan_for
from pmfed.models import load
from pmfed.privacy.gradients import PrivateStep
from pmfed.privacy.groups import patient_epsilon
from pmfed.study import Study


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    folder = tmp_path_factory.mktemp("visits")
    write_visits(folder / "sites", seed=0, patients=80)
    return read_sites(folder / "sites")[0]


@pytest.fixture(scope="module")
def cohort(site: Site) -> Cohort:
    return read_cohort(visits_study(), site.sources, site.name)


@pytest.fixture(scope="module", params=["linear", "fusion"])
def study(request: pytest.FixtureRequest) -> Study:
    return visits_study().replace(model={"kind": request.param})


def sums(study: Study, cohort: Cohort, place: float) -> np.ndarray[Any, Any]:
    """Return the sum of clipped gradients over all training patients, at some point of the model."""
    trainer = Trainer(study, plan_for(study, 3), cohort, site_source())
    sent = np.random.default_rng(1).normal(0, place, trainer.size).astype(np.float32)
    load(trainer.model, sent)
    batch = trainer.training
    found = trainer.private.release(batch.inputs, batch.present, batch.targets, batch.owner, Silent(), 3)
    return found.vector


def without(cohort: Cohort, patient: int) -> Cohort:
    return cohort.select(np.arange(cohort.patients) != patient)


def heavy(cohort: Cohort) -> tuple[int, Cohort]:
    """Return the patient with 30 visits, as a training patient whose values are huge, and that cohort."""
    counts = np.bincount(cohort.owner)
    patient = int(counts.argmax())
    assert counts[patient] == MOST
    assert counts.min() == 1
    mask = cohort.training.copy()
    mask[patient] = True
    whole = cohort.with_training(mask)
    whole.inputs["visit"][whole.owner == patient] *= 1000
    return patient, whole


@pytest.mark.parametrize("place", [0.1, 2.0])
def test_a_patient_with_thirty_records_weighs_one_clip(study: Study, cohort: Cohort, place: float) -> None:
    patient, whole = heavy(read_again(cohort))
    clip = study.privacy.clip
    change = np.linalg.norm(sums(study, whole, place) - sums(study, without(whole, patient), place))
    assert 0.1 * clip < change <= clip * (1 + 1e-4)
    single = study.replace(privacy={"unit": "record"})
    change = np.linalg.norm(sums(single, whole, place) - sums(single, without(whole, patient), place))
    assert 3 * clip < change <= MOST * clip * (1 + 1e-4)


def read_again(cohort: Cohort) -> Cohort:
    """Return a cohort whose arrays may be written to."""
    return Cohort(
        cohort.ids, cohort.owner, cohort.training, {name: block.copy() for name, block in cohort.inputs.items()},
        cohort.present, cohort.targets, cohort.findings,
    )  # fmt: skip


def test_thirty_identical_records_weigh_as_much_as_one(study: Study, cohort: Cohort) -> None:
    """The same patient with one record, or with thirty copies of it, changes the sum in the very same way."""
    one = read_again(cohort.select(np.arange(cohort.patients) == int(np.flatnonzero(cohort.training)[0])))
    found = []
    for count in (1, MOST):
        index = np.zeros(count, np.int64)
        copies = Cohort(
            one.ids, index, one.training, {"visit": one.inputs["visit"][index]}, {"visit": one.present["visit"][index]},
            one.targets[index],
        )  # fmt: skip
        found.append(sums(study, copies, 0.5))
    assert 0 < np.linalg.norm(found[0]) <= study.privacy.clip
    np.testing.assert_allclose(found[1], found[0], atol=1e-5)


@pytest.mark.slow
def test_the_audit_of_such_a_cohort_passes_and_finds_what_forgets_the_patient(
    cohort: Cohort, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = visits_study().replace(model={"kind": "fusion", "hidden": [16], "embedding": 8})
    assert auditing.CROWD == MOST
    ready = Auditor(study, [cohort] * 3, np.random.default_rng(0))
    assert ready.cohort.records > 2 * ready.cohort.patients
    assert not ready.audit().alarms
    # At two places: 4 scales x 2 outcomes x (1 or 30 records), and a vector against all others, of 1 or 30 records.
    assert ready.sensitivity().passed
    assert "(36 adversaries)" in ready.sensitivity().found
    real = PrivateStep.release

    def forgetful(self: PrivateStep, inputs: Any, present: Any, targets: Any, owner: Any, *rest: Any) -> Any:
        return real(self, inputs, present, targets, np.arange(len(owner)), *rest)

    monkeypatch.setattr(PrivateStep, "release", forgetful)
    found = ready.sensitivity()
    assert not found.passed
    assert float(found.found.split()[0]) == pytest.approx(MOST, rel=1e-3)


def test_protecting_records_is_called_weaker_and_needs_the_site_s_leave(site: Site, cohort: Cohort) -> None:
    single = visits_study().replace(privacy={"unit": "record"})
    plan = plan_for(single, 3)
    policy = Policy(epsilon=10.0, delta=1e-5, exact_metrics=True)
    with pytest.raises(PolicyError, match="protects patients"):
        policy.admit(single, plan, int(cohort.training.sum()), 10)
    policy.model_copy(update={"record_unit": True}).admit(single, plan, int(cohort.training.sum()), 10)


def test_the_plan_of_a_study_says_what_records_are_worth_to_a_patient(capsys: pytest.CaptureFixture[str]) -> None:
    show_plan(visits_study().replace(privacy={"unit": "record"}), 3)
    told = " ".join(capsys.readouterr().out.split())
    plan = plan_for(visits_study().replace(privacy={"unit": "record"}), 3)
    assert f"weaker: epsilon {patient_epsilon(plan, MOST):.1f} for a patient with {MOST} records" in told
    assert patient_epsilon(plan, MOST) > 10 * plan.epsilon()
    show_plan(visits_study(), 3)
    assert "weaker" not in capsys.readouterr().out
