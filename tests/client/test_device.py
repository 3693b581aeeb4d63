"""Where a site trains: the same sums on every device, none silently replaced, and none fails for lack of memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import federation
import numpy as np
import pytest
import torch
from pmfed_client.agent.device import found
from pmfed_client.agent.personal import Shelf
from pmfed_client.agent.trainer import Trainer
from pmfed_client.site.site import Site
from small import scores
from test_augment import ASKED, cohort

from pmfed.cohort import Cohort
from pmfed.errors import StudyError
from pmfed.methods import plan_for
from pmfed.models import flatten
from pmfed.privacy.gradients import PrivateStep
from pmfed.privacy.noise import SeededSource
from pmfed.privacy.precision import Precision
from pmfed.study import Study

NONE = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device here")
DEVICES = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NONE)])
PRECISIONS = pytest.mark.parametrize("precision", ["float32", "bfloat16"])
APART = {"float32": 1e-3, "bfloat16": 0.05}
"""How far sums may be apart, over what they are."""


def trainer(device: str, precision: Precision = "float32", held: Cohort | None = None) -> Trainer:
    plan = plan_for(ASKED, 2)
    return Trainer(
        ASKED, plan, held or cohort(), lambda *_: SeededSource(3, "site"), device=device, precision=precision
    )


@DEVICES
@PRECISIONS
def test_a_sum_is_that_of_plain_gradients_on_a_cpu(device: str, precision: Precision) -> None:
    here, plain = trainer(device, precision), trainer("cpu")
    batch = here.sampled(here.training, SeededSource(3, "site"))
    there = batch.to(here.device)
    total = here.private.clipped_sum(there.inputs, there.present, there.targets, there.owner).vector
    exact = PrivateStep(plain.model, plain.task.loss, plain.mechanism, strategy="vmap")
    wanted = exact.clipped_sum(batch.inputs, batch.present, batch.targets, batch.owner).vector
    assert total.dtype == np.float64
    assert np.linalg.norm(total - wanted) <= APART[precision] * np.linalg.norm(wanted)
    if precision == "float32":
        np.testing.assert_allclose(total, wanted, rtol=1e-3, atol=1e-4 * np.abs(wanted).max())
    else:
        assert not np.array_equal(total, wanted)  # the setting arrives where it is meant for


@DEVICES
@PRECISIONS
def test_a_patient_counts_the_same_in_any_crowd(device: str, precision: Precision) -> None:
    """Rounding is decided by the patient's own records: who else was drawn must not turn it."""
    here = trainer(device, precision)
    batch = here.training.to(here.device)
    alone = batch.take(np.array([7])).to(here.device)
    mine = here.private.clipped_sum(alone.inputs, alone.present, alone.targets, alone.owner).vector
    for crowd in (np.arange(20), np.arange(5, 12)):
        with_, without = (
            here.private.clipped_sum(part.inputs, part.present, part.targets, part.owner).vector
            for part in (batch.take(crowd), batch.take(crowd[crowd != 7]))
        )
        assert np.linalg.norm(with_ - without - mine) <= 1e-4 * here.mechanism.bound


@DEVICES
def test_steps_and_scores_are_the_same_on_every_device(device: str) -> None:
    held = cohort().with_training(np.arange(20) < 14)
    made = [trainer(name, held=held) for name in (device, "cpu")]
    start = flatten(made[1].model)
    assert made[0].model.head.weight.device.type == device
    one, other = (each.step(start, 2, 1, 0).astype(np.int64) for each in made)
    apart = np.abs(one - other)
    assert np.minimum(apart, 2**32 - apart).max() <= 8  # grid units of 1/4096 of the clip
    np.testing.assert_allclose(scores(made[0], start), scores(made[1], start), atol=1e-6)


def test_rounding_moves_a_step_a_little_and_scores_not_at_all() -> None:
    held = cohort().with_training(np.arange(20) < 14)
    wide, low = (trainer("cpu", precision, held) for precision in ("float32", "bfloat16"))
    start = flatten(wide.model)
    one, other = (each.step(start, 2, 1, 0).astype(np.int64) for each in (wide, low))
    apart = np.abs(one - other)
    assert 0 < np.minimum(apart, 2**32 - apart).max() <= 4096 // 4  # a quarter of the clip
    assert np.array_equal(scores(wide, start), scores(low, start))


def test_float32_on_a_card_is_float32_and_a_card_that_cannot_round_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    with pytest.raises(StudyError, match=r"precision 'bfloat16' of site\.toml: device 'cuda:0' has no units"):
        found("cuda:0", "bfloat16")
    assert torch.backends.cudnn.allow_tf32
    assert found("cuda:0").type == "cuda"
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


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
    assert Site.read(toml).precision == "float32"
    toml.write_text('[site]\nname = "north"\nprecision = "bfloat16"\n')
    assert Site.read(toml).precision == "bfloat16"
    for line in ('device = "gpu"', 'precision = "float16"'):
        toml.write_text(f'[site]\nname = "north"\n{line}\n')
        with pytest.raises(StudyError, match=rf"site.toml:3: site.{line.split()[0]}"):
            Site.read(toml)


def test_a_site_s_own_settings_reach_all_it_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    federation.write_federation(tmp_path / "fed")
    toml = tmp_path / "fed/sites/north/site.toml"
    federation.change(toml, 'name = "north"', 'name = "north"\nprecision = "bfloat16"')
    study = Study.read(tmp_path / "fed/study.toml")
    together = federation.Together(tmp_path / "fed/sites", study)
    assert together.ask("north", "enroll")[0].ok
    (session,) = together.agents["north"]._sessions.values()
    assert session.answers.trainer.private.precision == "bfloat16"
    federation.change(toml, 'precision = "bfloat16"', 'precision = "bfloat16"\ndevice = "cuda:1"')
    asked = []
    for place in ("agent", "trainer"):
        monkeypatch.setattr(
            f"pmfed_client.agent.{place}.found", lambda *said: asked.append(said) or torch.device("cpu")
        )
    assert federation.Together(tmp_path / "fed/sites", study).ask("north", "enroll")[0].ok
    assert asked == [("cuda:1", "bfloat16")] * 2  # before anything is reserved, and for the model
    other = ASKED.replace(personal={"method": "fine-tune", "steps": 1, "learning_rate": 0.1, "share": 0.3})
    plan, shelf = plan_for(other, 2), Shelf(tmp_path, "0" * 32)
    own = Trainer(other, plan, cohort(), lambda *_: SeededSource(3, "site"), shelf, precision="bfloat16").own
    assert own is not None
    assert own._private.precision == "bfloat16"


def test_a_picture_that_is_not_finite_costs_its_patient_a_step_and_nobody_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    spoilt = cohort()
    last = int(spoilt.owner[-1])
    spoilt.inputs["picture"][-1] = np.nan
    spoilt.present["picture"][-1] = True
    plan = plan_for(ASKED, 2)
    one, without = (
        Trainer(ASKED, plan, held, lambda *_: SeededSource(3, "site"))
        for held in (spoilt, spoilt.select(np.arange(20) != last))
    )
    batch, rest = one.training, without.training
    total = one.private.clipped_sum(batch.inputs, batch.present, batch.targets, batch.owner)
    assert (total.contributors, total.dropped) == (19, 1)
    wanted = without.private.clipped_sum(rest.inputs, rest.present, rest.targets, rest.owner).vector
    np.testing.assert_allclose(total.vector, wanted, rtol=1e-4, atol=1e-6)
    start = flatten(one.model)
    everybody = replace(plan, mechanisms=(replace(plan["step"], sampling_rate=1.0), *plan.mechanisms[1:]))
    drawn = Trainer(ASKED, everybody, spoilt, lambda *_: SeededSource(3, "site"))
    drawn.step(start, 2, 1, 0)
    assert "1 patient(s) left out of a step: their gradients are not finite." in caplog.text
    assert "p0" not in caplog.text  # nobody's id
    nobody = np.zeros(20, dtype=bool)
    found = [
        scores(Trainer(ASKED, plan, held.with_training(nobody[: held.patients]), one.draw), start)
        for held in (spoilt, spoilt.select(np.arange(20) != last))
    ]
    share = 1 - 1 / int((spoilt.owner == last).sum())  # what the patient's other records say still counts
    assert np.isfinite(found[0]).all()
    assert found[0].sum() == pytest.approx(found[1].sum() + share)
    assert "1 record(s) left out of a sum: their scores are not finite." in caplog.text
