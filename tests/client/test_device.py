"""Where a site trains: the same sums on every device, none silently replaced, and none fails for lack of memory."""

from __future__ import annotations

from pathlib import Path

import federation
import numpy as np
import pytest
import torch
from pmfed_client.device import found
from pmfed_client.site import Site
from pmfed_client.trainer import Trainer
from test_augment import ASKED, cohort

from pmfed.errors import StudyError
from pmfed.models import flatten
from pmfed.privacy.gradients import PrivateStep
from pmfed.privacy.noise import SeededSource
from pmfed.privacy.plan import PrivacyPlan
from pmfed.study import Study

NONE = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device here")
DEVICES = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NONE)])


def trainer(device: str) -> Trainer:
    return Trainer(ASKED, PrivacyPlan.solve(ASKED, 2), cohort(), lambda *_: SeededSource(3, "site"), device=device)


@DEVICES
def test_a_sum_is_that_of_plain_gradients_on_a_cpu(device: str) -> None:
    here, plain = trainer(device), trainer("cpu")
    batch = here.sampled(here.training, SeededSource(3, "site"))
    there = batch.to(here.device)
    total = here.private.clipped_sum(there.inputs, there.present, there.targets, there.owner).vector
    exact = PrivateStep(plain.model, plain.task.loss, plain.plan, strategy="vmap")
    wanted = exact.clipped_sum(batch.inputs, batch.present, batch.targets, batch.owner).vector
    assert total.dtype == np.float64
    np.testing.assert_allclose(total, wanted, rtol=1e-3, atol=1e-4 * np.abs(wanted).max())


@DEVICES
def test_steps_and_scores_are_the_same_on_every_device(device: str) -> None:
    held = cohort()
    mask = np.arange(20) < 14
    made = [
        Trainer(
            ASKED,
            PrivacyPlan.solve(ASKED, 2),
            held.with_training(mask),
            lambda *_: SeededSource(3, "site"),
            device=name,
        )
        for name in (device, "cpu")
    ]
    start = flatten(made[1].model)
    assert made[0].model.head.weight.device.type == device
    one, other = (each.step(start, 2, 1, 0).astype(np.int64) for each in made)
    apart = np.abs(one - other)
    assert np.minimum(apart, 2**32 - apart).max() <= 8  # grid units of 1/4096 of the clip
    np.testing.assert_allclose(made[0].score(start), made[1].score(start), atol=1e-6)


def test_a_device_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"device 'cuda:99' of site\.toml: torch sees"):
        found("cuda:99")
    federation.write_federation(tmp_path / "fed")
    federation.change(tmp_path / "fed/sites/north/site.toml", 'name = "north"', 'name = "north"\ndevice = "cuda:99"')
    together = federation.Together(tmp_path / "fed/sites", Study.read(tmp_path / "fed/study.toml"))
    reply, arrays = together.ask("north", "enroll")
    assert not reply.ok
    assert "device 'cuda:99'" in reply.reason
    assert not arrays
    assert not list(together.agents["north"].ledger.rows())


def test_a_site_names_its_device(tmp_path: Path) -> None:
    toml = tmp_path / "site.toml"
    for device in ("cpu", "cuda", "cuda:1"):
        toml.write_text(f'[site]\nname = "north"\ndevice = "{device}"\n')
        assert Site.read(toml).device == device
    toml.write_text('[site]\nname = "north"\n')
    assert Site.read(toml).device == "cpu"
    toml.write_text('[site]\nname = "north"\ndevice = "gpu"\n')
    with pytest.raises(StudyError, match=r"site.toml:3: site.device"):
        Site.read(toml)


def test_a_picture_that_is_not_finite_costs_its_patient_a_step_and_nobody_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    spoilt = cohort()
    last = int(spoilt.owner[-1])
    spoilt.inputs["picture"][-1] = np.nan
    spoilt.present["picture"][-1] = True
    plan = PrivacyPlan.solve(ASKED, 2)
    one, without = (
        Trainer(ASKED, plan, held, lambda *_: SeededSource(3, "site"))
        for held in (spoilt, spoilt.select(np.arange(20) != last))
    )
    batch, rest = one.training, without.training
    found = one.private.clipped_sum(batch.inputs, batch.present, batch.targets, batch.owner)
    assert (found.contributors, found.dropped) == (19, 1)
    wanted = without.private.clipped_sum(rest.inputs, rest.present, rest.targets, rest.owner).vector
    np.testing.assert_allclose(found.vector, wanted, rtol=1e-4, atol=1e-6)
    start = flatten(one.model)
    everybody = PrivacyPlan(**{**plan.__dict__, "sampling_rate": 1.0})
    drawn = Trainer(ASKED, everybody, spoilt, lambda *_: SeededSource(3, "site"))
    drawn.step(start, 2, 1, 0)
    assert "1 patient(s) left out of a step: their gradients are not finite." in caplog.text
    assert "p0" not in caplog.text  # nobody's id
    nobody = np.zeros(20, dtype=bool)
    scores = [
        Trainer(ASKED, plan, held.with_training(nobody[: held.patients]), one.draw).score(start)
        for held in (spoilt, spoilt.select(np.arange(20) != last))
    ]
    share = 1 - 1 / int((spoilt.owner == last).sum())  # what the patient's other records say still counts
    assert np.isfinite(scores[0]).all()
    assert scores[0].sum() == pytest.approx(scores[1].sum() + share)
    assert "1 record(s) left out of the evaluation" in caplog.text
